# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Recordings, windows and splits
#
# **What is asked:** what is one observation, what is its dF/F, when does a neuron count as active, and which observations may a model learn from?
#
# **What is done:** a store is opened, windows are cut around the onsets, and the parts for training, validation and test are made. Everything after this
# notebook rests on these choices, so look at them with your own recordings first.

# %% tags=["parameters"]
FAST = True  # small models, minutes on a CPU; False: the paper's sizes, for a GPU
STORE = None  # a folder of recordings (a store); None: a simulated mouse
STUDY = "study"  # the models that the notebooks share, trained where missing
FIGURES = "figures"
SEED = 0

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import qf_toolkit as qf
from qf_toolkit.plots.style import credit, palette, save_figure, style
from qf_toolkit.recordings.window import PAPER_SCORE_S


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %% [markdown]
# ## The store
# A `Study` is a folder with a store and models; here only its store is used. Opened without one, it records a simulated mouse in three sessions: A drifting
# gratings, B static gratings and natural scenes, C locally sparse noise. A store of yours is opened by `qf.open_store(folder)`.

# %%
study = qf.Study(STUDY, store=STORE, fast=FAST, seed=SEED)
store = study.store
store

# %%
store.index.groupby(["session", "stimulus"]).agg(trials=("trial", "size"), conditions=("condition", "nunique"), blocks=("block", "nunique"))

# %% [markdown]
# One session is an xarray Dataset: traces by neuron and frame, the trial table beside them. Neurons and conditions have keys, never positions.

# %%
session = store[store.keys()[0]]
session

# %% [markdown]
# **What to see:** the trace as it was recorded, not yet dF/F, with the stimuli in grey. Responses sit on a baseline that wanders; that is why F0 is taken
# anew in each window, from just before the onset.

# %%
signal = "fluorescence" if "fluorescence" in session else "dff"
rate = session.attrs["rate_hz"]
first = max(0, int(session["onset_frame"][0]) - round(10 * rate))
stretch = session.isel(frame=slice(first, first + round(60 * rate)))
spread = np.nanstd(stretch[signal].values, axis=1) / (np.abs(np.nanmedian(session[signal].values, axis=1)) if signal == "fluorescence" else 1)
busiest = session["neuron"].values[np.argsort(-spread)[:4]]
with style():
    fig, axes = plt.subplots(len(busiest), 1, figsize=(7, 1.1 * len(busiest) + 0.5), sharex=True, squeeze=False)
    for ax, neuron in zip(axes[:, 0], busiest, strict=True):
        for on, off in zip(session["onset_frame"].values, session["offset_frame"].values, strict=True):
            if first <= on < first + stretch.sizes["frame"]:
                ax.axvspan((on - first) / rate, (off - first) / rate, color="0.92", lw=0)
        ax.plot(np.arange(stretch.sizes["frame"]) / rate, stretch[signal].sel(neuron=neuron), color="0.15", lw=0.8)
        ax.set_ylabel(str(neuron).rsplit("/", 1)[-1])
    fig.supylabel("dF/F" if signal == "dff" else "fluorescence (a.u.)", fontsize=8)
    axes[-1, 0].set(xlabel="time (s)", xlim=(0, stretch.sizes["frame"] / rate))
    fig.suptitle(f"session {store.keys()[0]}", fontsize=8)
    credit(fig, {"session": store.keys()[0], "simulated": int(session.attrs["source"] == "simulation")})
keep(fig, "recording", "A minute of a recording", "Fluorescence of the four most variable neurons over one minute, stimuli shaded")

# %% [markdown]
# ## Windows
# Each observation is one neuron around one onset: 3 s before, 2 s after. `f0_s=1` takes F0 from the last second; gratings follow each other every 3 s, so
# the baseline's first two seconds hold the grating before. `score_s="paper"` judges the part of the response that the paper does: 2 s for drifting
# gratings, 0.5 s for the short stimuli.

# %%
stimulus = study.stimuli[0]
trials = store.trials(stimulus=stimulus, baseline_s=3, response_s=2, f0_s=1, score_s="paper" if stimulus in PAPER_SCORE_S else None)
trials

# %%
truth = trials.dataset(trials.sessions[0])
truth

# %% [markdown]
# `valid` is False where a frame is missing; losses and scores leave such windows out. What was left out beforehand (flagged neurons, windows that reach
# over the edge of the recording) is counted:

# %%
trials.counts

# %% [markdown]
# ## Why F0 from the last second
# **What to see:** mean dF/F over all windows, once with F0 from the last second, once from the last two. Where the stimuli follow each other quickly, the
# longer F0 takes in the response to the stimulus before, and every response looks smaller. It changes what counts as active, too.

# %%
with style():
    fig, ax = plt.subplots(figsize=(3.6, 2.3))
    for f0_s, color in ((1, palette()[0]), (2, palette()[1])):
        ds = store.trials(stimulus=stimulus, baseline_s=3, response_s=2, f0_s=f0_s).dataset(trials.sessions[0])
        mean = ds["dff"].where(ds["valid"]).mean(("trial", "neuron"))
        ax.plot(ds["time"], mean, color=color, label=f"F0 of {f0_s} s: {float(ds['active'].mean()):.1%} active")
        credit(ax, ds)
    ax.axvline(0, color="0.6", lw=0.8)
    ax.set(xlabel="time from onset (s)", ylabel="mean dF/F")
    ax.legend()
keep(fig, "f0", "What F0 does to the mean response", "Mean dF/F around the onset, for F0 from the last second and from the last two")

# %% [markdown]
# ## One neuron's tuning
# **What to see:** the neuron of the most active observations, its mean response to each condition (line) and single trials (grey). Single trials scatter
# widely around their mean: no forecast made at the onset can follow that.

# %%
neuron = truth["neuron"].values[int(truth["active"].sum("trial").argmax())]
one = truth["dff"].sel(neuron=neuron)
keys = truth["condition"].values.astype(str)
best = pd.Series(one.sel(time=truth["time"] >= 0).mean("time").values).groupby(keys).mean().sort_values(ascending=False)
with style():
    fig, axes = plt.subplots(1, min(4, len(best)), figsize=(8, 2.1), sharey=True, squeeze=False)
    for ax, key in zip(axes[0], best.index[np.linspace(0, len(best) - 1, axes.shape[1]).astype(int)], strict=True):
        mine = one.values[keys == key]
        ax.plot(truth["time"], mine.T, color="0.8", lw=0.5)
        ax.plot(truth["time"], np.nanmean(mine, 0), color=palette()[0])
        ax.axvline(0, color="0.6", lw=0.8)
        ax.set(title=f"{key.split('/', 1)[-1].replace(',', chr(10))}\n{len(mine)} trials", xlabel="time from onset (s)")
        ax.title.set_fontsize(7)
    axes[0, 0].set_ylabel("dF/F")
    fig.suptitle(f"{neuron}: from its best condition (left) to its worst", fontsize=8)
    credit(fig, truth)
keep(fig, "tuning", "One neuron's responses", "Single trials and mean of one neuron for four conditions, from its best to its worst")

# %% [markdown]
# ## How often is a neuron active?
# The paper's rule (mean gain of the scored response at least 10 %) beside the rule of its released code (mean of the absolute dF/F above 0.1), which counts
# noise as activity. At most 300 trials of each stimulus are looked at, drawn at random.

# %%
rows = {}
for name in study.stimuli:
    active = {}
    for rule in ("gain", "abs_dff"):
        some = store.trials(stimulus=name, f0_s=1, active_rule=rule, score_s="paper" if name in PAPER_SCORE_S else None)
        some = some.subset(np.random.default_rng(SEED).permutation(len(some))[:300])
        active[rule] = np.concatenate([part.dataset()["active"].values.ravel() for part in some.by_session()])
    rows[name] = {"observations": active["gain"].size, **{rule: f"{a.mean():.1%}" for rule, a in active.items()}}
pd.DataFrame(rows).T

# %% [markdown]
# ## Training, validation, test
# A session comes in blocks minutes apart. The last one is tested, the end of the others is validation, and whoever comes too near to another part is
# dropped. Neighbouring windows overlap, up to 20 times for images shown every 0.25 s: drawn at random, test trials would share frames with training trials.

# %%
split = qf.split_blocks(trials) if trials.table["block"].nunique() > 1 else qf.split_chronological(trials)
split

# %% [markdown]
# The study splits all stimuli together, so that the auto-encoder, which learns from all of them, sees no frame that any model is tested on.
#
# **What to see:** every onset of every session, by the part it belongs to. No colour reaches into another.

# %%
whole = study.split()
looks = {"train": palette()[0], "validation": palette()[1], "test": palette()[2]}
keys = whole.train.source.keys()
with style():
    fig, axes = plt.subplots(len(keys), 1, figsize=(7, 0.75 * len(keys) + 0.7), squeeze=False)
    for ax, key in zip(axes[:, 0], keys, strict=True):
        rate = store.header(key).attrs["rate_hz"]
        for y, (name, color) in enumerate(looks.items()):
            table = getattr(whole, name).table
            onsets = table.loc[table["session"] == key, "onset_frame"].to_numpy() / rate / 60
            ax.vlines(onsets, y - 0.4, y + 0.4, color=color, lw=0.6)
        ax.set(yticks=range(len(looks)), yticklabels=list(looks), ylim=(len(looks) - 0.5, -0.5))
        ax.set_title(key, loc="left")
    axes[-1, 0].set_xlabel("time in the session (min)")
    credit(fig, {"simulated": int(whole.train.simulated), "data": whole.train.digest()})
keep(fig, "split", "Which onset belongs to which part", "Onsets of every session in time, by training, validation and test part")
whole

# %% [markdown]
# What this doesn't show: whether a model would do as well in another mouse or on another day. For that, leave a subject out: `qf.leave_one_out(trials,
# subject=...)`.
