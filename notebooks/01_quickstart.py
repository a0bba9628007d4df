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
# # Quickstart: from a recording to forecasts of single neurons
#
# **What is asked:** given three seconds of a neuron's activity and the stimulus that comes next, what will the neuron do in the two seconds after the onset?
#
# **What is done:** a recording is cut into windows around the stimulus onsets, QuantFormer is trained on two of three blocks, and its forecasts of the
# last block are laid beside what was measured. The mouse is simulated, so that the best possible forecast is known, too. In fast mode the model is small
# and trained for about a minute: enough to see the way, not to judge the method. `11_your_own_recording` starts from arrays of yours.

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

import qf_toolkit as qf
from qf_toolkit.plots.chosen import choose_observations
from qf_toolkit.plots.forecasts import figure_forecasts, plot_forecast
from qf_toolkit.plots.style import save_figure, style
from qf_toolkit.plots.tables import figure_printed_table

sizes = {"n_neurons": 20, "directions": 4, "temporal_frequencies": 2} if FAST else {"n_neurons": 40, "temporal_frequencies": 2}
model = {"width": 32, "layers": 2, "heads": 4} if FAST else {"width": 64, "layers": 2, "heads": 4}
training = {"batch_size": 64, "lr": 1e-3, "schedule": "cosine", "seed": SEED, "progress": False}


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %% [markdown]
# ## The recording
# A store is a folder with one file a session. The trial table says what was shown when.

# %%
folder = Path(tempfile.mkdtemp(prefix="quickstart-"))
store = qf.simulate(folder / "store", sessions=["A"], seed=SEED, **sizes) if STORE is None else qf.open_store(STORE)
store.index.head()

# %% [markdown]
# ## Windows around the onsets
# dF/F of every neuron from 3 s before to 2 s after each onset. Gratings follow each other every 3 s, so F0 is the mean of the grey second
# before the onset. Blank sweeps are left out here: there may be too few for every block.

# %%
stimuli = sorted(store.index["stimulus"].unique())
stimulus = "drifting_gratings" if "drifting_gratings" in stimuli else stimuli[0]
shown = store.index.loc[store.index["stimulus"] == stimulus, "condition"].unique()
trials = store.trials(stimulus=stimulus, condition=[c for c in shown if not c.endswith("/blank")], baseline_s=3, response_s=2, f0_s=1)
trials

# %%
trials.dataset(trials.sessions[0])

# %% [markdown]
# ## Training, validation, test
# The last block is tested, once; choices are made on the end of the others. No window of one part shares a frame with a window of another.

# %%
split = qf.split_blocks(trials) if trials.table["block"].nunique() > 1 else qf.split_chronological(trials)
split

# %% [markdown]
# ## Training
# First the auto-encoder learns a code book of activity patterns, patches of half a second; then the forecaster learns which codes follow a baseline
# and a stimulus. The paper's loss asks for the right codes alone; `expectation_weight` adds that the traces they decode to are right on average, and
# `hide` masks parts of the baseline, so that the tuning is learnt rather than the noise of a few traces.

# %%
patch = max(3, round(trials.rate_hz / 2))
autoencoder = qf.pretrain(split, patch_frames=patch, epochs=20, replace_below=0.003, **model, **training)
forecaster = qf.fit_forecaster(autoencoder, split, epochs=40, expectation_weight=5, hide=0.5, dropout=0.1, **training)

# %% [markdown]
# ## Forecasts beside the truth
# **What to see:** half of the windows are of the most forecastable neurons, those whose response to a condition repeats from trial to trial in the data the model
# was fitted on; half are drawn at random, so that you see the ordinary as well. Below them is the mean
# over all test trials of a condition: there the noise averages out, and what is left is the response that can be forecast. A single trial holds much
# that nobody can know beforehand.

# %%
forecasts = {"QuantFormer": forecaster.predict(split.test)}
forecasts["QuantFormer"]

# %%
fig = figure_forecasts(split.test, forecasts, chosen=choose_observations(split.test, fitting=split.fitting))
keep(
    fig,
    "forecasts",
    "Forecasts of single neurons",
    "Measured and forecast dF/F of eight single windows, and below them the means over the trials of four conditions",
)

# %% [markdown]
# One neuron in one trial, on axes of your own:

# %%
truth = split.test.dataset(split.test.sessions[0])
with style():
    fig, ax = plt.subplots(figsize=(3.5, 2))
    plot_forecast(truth, forecasts, int(truth["trial"][0]), str(truth["neuron"].values[0]), ax=ax)
    ax.legend()

# %% [markdown]
# ## How good is that?
# Beside the naive forecasters (rows with a dot), and the best possible forecast, which only a simulation knows. `E` is the share of the explainable
# error that is explained: 0 is the forecast dF/F = 0, 1 the best there is. A model that is not above the naive rows has learnt nothing of use.

# %%
table = qf.evaluate([forecaster], split, ceiling=trials.simulated)
print(qf.show(table))

# %%
fig = figure_printed_table(table, columns=[c for c in ("mse", "mae", "r", "E") if c in table])
keep(
    fig,
    "table",
    "The forecaster beside the naive rows, test block",
    "Table of errors and correlations of QuantFormer, nine naive forecasters and the best possible forecast",
)

# %% [markdown]
# ## Will the neuron respond at all?
# The classifier says how likely the neuron is to be active (mean dF/F of the response at least 10 %), from its baseline and the stimulus.

# %%
classifier = qf.fit_classifier(autoencoder, split, epochs=20, gain_weight=3, hide=1, dropout=0.1, **training)
print(qf.show(qf.evaluate_classifier(classifier, split)))

# %% [markdown]
# ## Keep the model

# %%
forecaster.save(folder / "forecaster")
again = qf.load(folder / "forecaster")
bool((again.predict(split.test)["forecast"] == forecasts["QuantFormer"]["forecast"]).all())
