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
# # Your own recording
#
# **What is asked:** how does a recording of mine get here, what is wrong with it, and can its responses be forecast?
#
# **What is done:** a small made-up recording is written to disk as arrays and a table of trials, as an analysis pipeline would leave them, and taken all the way to a
# forecast. **Change the cell "Your files"** and the rest runs on yours.

# %% tags=["parameters"]
FAST = True  # small models, minutes on a CPU; False: the paper's sizes, for a GPU
STORE = None  # a folder of recordings (a store); None: a simulated mouse
STUDY = "study"  # the models that the notebooks share, trained where missing
FIGURES = "figures"
SEED = 0

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import qf_toolkit as qf
from qf_toolkit.plots.chosen import choose_observations
from qf_toolkit.plots.forecasts import figure_forecasts
from qf_toolkit.plots.style import credit, save_figure, style
from qf_toolkit.plots.tables import figure_printed_table


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %% [markdown]
# ## A recording, made up
# Ten neurons at 10 Hz, gratings of four directions every 5 s in three blocks. Three more neurons are broken on purpose: one is silent, one is stuck at a value, one lost
# most of its frames.

# %%
folder = Path(tempfile.mkdtemp(prefix="own-"))
rng = np.random.default_rng(SEED)
rate, gap = 10.0, 20
directions, onsets, blocks = [], [], []
frame = round(10 * rate)
for block in range(3):
    for direction in rng.permutation(np.repeat([0, 90, 180, 270], 12)):
        directions.append(direction)
        onsets.append(frame)
        blocks.append(block)
        frame += round(5 * rate)
    frame += round(gap * rate)
n_frames = frame + round(10 * rate)
time = np.arange(round(4 * rate)) / rate
kernel = (1 - np.exp(-time / 0.2)) * np.exp(-time / 0.9)
dff = np.zeros((10, n_frames))
for i in range(10):
    state = np.zeros(n_frames)  # excitability wanders slowly, and with it response and baseline
    for t in range(1, n_frames):
        state[t] = 0.98 * state[t - 1] + 0.2 * rng.standard_normal()
    preferred, strength = rng.choice([0, 90, 180, 270]), rng.gamma(2, 0.3)
    for onset, direction in zip(onsets, directions, strict=True):
        tuning = np.exp(2 * (np.cos(np.deg2rad(direction - preferred)) - 1))
        dff[i, onset : onset + len(kernel)] += strength * tuning * np.exp(0.5 * state[onset]) * kernel
    dff[i] += 0.05 * state + 0.08 * rng.standard_normal(n_frames)
traces = rng.uniform(200, 600, (10, 1)) * (1 + dff)
broken = np.stack([np.zeros(n_frames), np.full(n_frames, 300.0), np.where(np.arange(n_frames) > n_frames / 4, np.nan, traces[0])])
np.save(folder / "F.npy", np.concatenate([traces, broken]).astype(np.float32))
seconds = np.array(onsets) / rate
pd.DataFrame({"onset_s": seconds, "offset_s": seconds + 2, "stimulus": "moving_gratings", "direction": directions, "block": blocks}).to_csv(
    folder / "trials.csv", index=False
)
sorted(p.name for p in folder.iterdir())

# %% [markdown]
# ## Your files
# Traces are neuron by frame: fluorescence corrected for neuropil, or dF/F as a fraction (then `signal="dff"`). The table has a row a trial: `onset_s` or `onset_frame`, where there are any
# `offset_s`, `stimulus`, `block`; every other column is a feature of the condition.

# %%
session = qf.from_arrays(
    np.load(folder / "F.npy"),  # your array
    rate_hz=rate,  # your frames a second
    trials=folder / "trials.csv",  # your table, or a DataFrame
    subject="mouse1",
    session="day1",
    signal="fluorescence",
    indicator="GCaMP6f",
    source="simulation",  # of this made-up recording: leave it out, else your figures say "simulated data"
)
store = qf.Store(folder / "store", create=True)
store.add(session)
store.info("mouse1/day1")

# %% [markdown]
# Other sources give the same kind of session; each is then added to a store with `store.add`:
#
# | you have | you call |
# |---|---|
# | a suite2p folder | `qf.read_suite2p("suite2p", rate_hz=30, trials="trials.csv", subject="mouse1", session="day1")` |
# | NWB files | `qf.read_nwb("file.nwb")` |
# | Visual Coding files of the Allen Brain Observatory | `qf.read_allen("file.nwb")`, or `qf import allen --container 511510667 --store data/store` |
# | many files at once | `qf import nwb folder --store data/store` (or suite2p, arrays, allen), from a shell |

# %% [markdown]
# ## What the flags mean
# Import keeps everything and marks what is odd; `trials()` leaves marked neurons out and says so. *silent*: zero throughout; *constant*: one value throughout, a dead ROI; *nan*: more than
# half of the frames are missing; *tiny_f0*: fluorescence so near to zero that dF/F would be noise divided by nothing (too much neuropil subtracted, often).

# %%
flags = session["flag"].to_series()
flags[flags != ""]

# %% [markdown]
# **What to see:** the first neurons and the three that are marked. Look at yours like this before anything else: drift, saturation and movement are easier to see than to compute.

# %%
signal = session["fluorescence"]
shown = [*range(3), *np.flatnonzero(session["flag"].values != "")]
with style():
    fig, axes = plt.subplots(len(shown), 1, figsize=(7, 0.75 * len(shown) + 0.5), sharex=True)
    for ax, i in zip(axes, shown, strict=True):
        ax.plot(session["frame_time"], signal[i], color="0.15", lw=0.5)
        flag = str(session["flag"].values[i])
        ax.set_ylabel(
            f"{str(session['neuron'].values[i]).rsplit('/', 1)[-1]}{chr(10) + flag if flag else ''}",
            rotation=0,
            ha="right",
            va="center",
            color="#D55E00" if flag else "black",
        )
    axes[-1].set_xlabel("time (s)")
    fig.supylabel("fluorescence (a.u.)", fontsize=8)
    credit(fig, {"session": "mouse1/day1", "simulated": int(session.attrs["source"] == "simulation")})
keep(fig, "traces", "A recording and its flags", "Fluorescence of three sound and three flagged neurons over the whole recording")

# %% [markdown]
# ## From the store to a forecast
# A study trains what is needed. Rates other than 30 Hz, stimuli other than the Allen Institute's and recordings of one block all do; patches are half a second at every rate. With as
# few trials as here small models learn best: `plan` changes any setting (see `qf_toolkit.study.study.SIZES`).

# %%
plan = {"autoencoder": {"width": 32, "steps": 800, "batch_size": 64}, "forecaster": {"steps": 1000}} if FAST else {}
study = qf.Study(folder / "study", store=store, fast=FAST, seed=SEED, progress=False, plan=plan)
stimulus = study.stimuli[0]
split = study.split(stimulus)
forecaster = study.forecaster(stimulus)
split

# %%
chosen = choose_observations(split.test, fitting=split.fitting, seed=SEED)  # half forecastable, half at random
fig = figure_forecasts(split.test, {"QuantFormer": forecaster.predict(split.test)}, seed=SEED, chosen=chosen)
keep(fig, "forecasts", "Forecasts of the made-up recording", "Single test windows and means of conditions, measured and forecast")

# %% [markdown]
# ## Believe it?
# **What to see:** rows in grey are naive forecasters. With few trials they are hard to beat; if your model is not above them, use them.

# %%
table = qf.evaluate(forecaster, split)
print(qf.show(table))
fig = figure_printed_table(table, columns=["mse", "mse_ratio", "mae", "r"])
keep(fig, "table", "The made-up recording: the forecaster beside the naive rows", "Errors and correlations of QuantFormer and nine naive forecasters")

# %% [markdown]
# All other notebooks run on your store as well: `qf figures --store STORE --out figures`, or set `STORE` in their second cell. What this doesn't show: how a real recording behaves. This one
# was made with the very structure that a model can learn.
