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
# # Behaviour from the population
#
# **What is asked:** how well do the neurons say how fast the animal turns and runs, and how wide its pupil is?
#
# **What is done:** decoders are fitted on the training part and scored once on the test part. Each frame is decoded from this frame and earlier ones alone. Three read the traces (ridge,
# reduced-rank and generalised linear regression: these are the bar); two read the states of CalM, which stays as it is: a linear head, and a gated one of low rank.
#
# From a shell: `qf decode data/store speed pupil --decoder ridge --out runs/decoder`.

# %% tags=["parameters"]
FAST = True  # small models, minutes on a CPU; False: the authors' sizes, for a GPU
STORE = None  # a folder of recordings (a store) with behaviour; None: simulated networks
STUDY = "study"  # the models are kept in its folder `population`
FIGURES = "figures"
SEED = 0

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import qf_toolkit as qf
from qf_toolkit.plots.style import credit, save_figure, style
from qf_toolkit.recordings.behaviour import behaviour_of
from qf_toolkit.study.population import PopulationStudy


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %%
study = PopulationStudy(Path(STUDY) / "population", store=STORE, fast=FAST, seed=SEED, progress=False)
split, model = study.split(), study.forecaster()
behaviour = [name for name in behaviour_of(study.store[split.train.sessions[0]]) if name != "licks"]
behaviour

# %% [markdown]
# ## The table
# R2 and r by variable, over all frames of a session, mean over sessions, with intervals over animals, sessions and blocks of trials. `mean` is the training mean. **What to see:** whether
# the heads over CalM's states are above the ridge, which reads the same traces. In the simulated networks behaviour is a linear sum of the neurons' rates, so a linear decoder is hard to
# beat there.

# %%
steps = {"epochs": 20, "progress": False} if FAST else {"progress": False}
decoders = [qf.decode(split, behaviour, name) for name in ("mean", "ridge", "reduced_rank", "glm")]
decoders += [qf.decode(split, behaviour, name, backbone=model, **steps) for name in ("probe", "backbone")]
table = qf.decoding_table(decoders, split.test)
table[[c for c in table if c in ("variable", "r2", "r2_from", "r2_to", "r", "r_from", "r_to")]].round(3)

# %% [markdown]
# ## What was decoded
# The first windows of the test part of one session, one after the other: recorded in black, decoded by the ridge and by the gated head.

# %%
part = split.test.by_session()[0].subset(range(0, 16, 4))  # each begins where the one before ends
ds = part.dataset(behaviour=behaviour)
rate = float(ds.attrs["rate_hz"])
with style():
    fig, axes = plt.subplots(len(behaviour), 1, figsize=(7, 1.3 * len(behaviour)), layout="constrained", sharex=True)
    for ax, name in zip(np.atleast_1d(axes), behaviour, strict=True):
        truth = ds[name].values.ravel()
        seconds = np.arange(len(truth)) / rate
        ax.plot(seconds, truth, color="black", linewidth=1, label="recorded")
        for decoder in (decoders[1], decoders[-1]):
            ax.plot(seconds, decoder.predict(part)["decoded"].sel(behaviour=name).values.ravel(), linewidth=1, label=decoder.name)
        ax.set_ylabel(f"{name.replace('_', ' ')}\n{ds[name].attrs.get('units', '')}")
    ax.set_xlabel("seconds of four windows, one after the other")
    np.atleast_1d(axes)[0].legend(fontsize=7, ncols=3, loc="upper right")
    credit(fig, ds)
keep(
    fig,
    "decoded",
    "Behaviour, recorded and decoded",
    "Each behaviour over four test windows: recorded, and decoded by the ridge and by the gated head",
)

# %% [markdown]
# ## A category of the trials
# Which side the cue was on, from the frames after its onset: accuracy, with that of chance beside it.

# %%
trials = study.store.trials(baseline_s=1.0, response_s=2.0, signal="zscore") if len(study.store.index) else None
if trials is not None and "side" in trials.table.columns:
    cued = qf.split_chronological(trials)
    found = qf.decoding_table([qf.decode(cued, "side", name) for name in ("mean", "glm", "svm")], cued.test)
    print(found.round(3).T.to_string())
