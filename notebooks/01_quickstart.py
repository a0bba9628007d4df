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
# A simulated mouse sees drifting gratings. We cut its recording into windows around the stimulus onsets, train QuantFormer on two of three
# blocks, and lay its forecasts of the last block beside the truth. With your own recording, replace the first step (see `data/README.md`).

# %% tags=["parameters"]
FAST = False  # True: seconds instead of minutes, to see that everything runs; the forecasts are then no good
SEED = 0

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import qf_toolkit as qf
from qf_toolkit.plots.forecasts import figure_forecasts, plot_forecast
from qf_toolkit.plots.style import style

sizes = {"n_neurons": 6, "repeats": 15, "directions": 2, "temporal_frequencies": 1} if FAST else {"n_neurons": 40, "temporal_frequencies": 2}
model = {"width": 16, "layers": 1, "heads": 2} if FAST else {"width": 64, "layers": 2, "heads": 4}
epochs = {"autoencoder": 1, "forecaster": 1, "classifier": 1} if FAST else {"autoencoder": 20, "forecaster": 40, "classifier": 20}
training = {"batch_size": 64, "lr": 1e-3, "schedule": "cosine", "seed": SEED, "progress": False}

# %% [markdown]
# ## The recording
# A store is a folder with one file a session. The trial table says what was shown when.

# %%
folder = Path(tempfile.mkdtemp(prefix="quickstart-"))
store = qf.simulate(folder / "store", sessions=["A"], seed=SEED, **sizes)
store.index.head()

# %% [markdown]
# ## Windows around the onsets
# dF/F of every neuron from 3 s before to 2 s after each onset. Gratings follow each other every 3 s, so F0 is the mean of the grey second
# before the onset. Blank sweeps are left out here: there may be too few for every block.

# %%
gratings = [c for c in store.index["condition"].unique() if not c.endswith("/blank")]
trials = store.trials(stimulus="drifting_gratings", condition=gratings, baseline_s=3, response_s=2, f0_s=1)
trials

# %%
trials.dataset()

# %% [markdown]
# ## Training, validation, test
# The last block is tested, once. No window of one part shares a frame with a window of another.

# %%
split = qf.split_blocks(trials)
split

# %% [markdown]
# ## Training
# First the auto-encoder learns a code book of activity patterns; then the forecaster learns which codes follow a baseline and a stimulus.
# The paper's loss asks for the right codes alone; `expectation_weight` adds that the traces they decode to are right on average, and `hide`
# masks parts of the baseline, so that the tuning is learnt rather than the noise of a few traces.

# %%
autoencoder = qf.pretrain(split, patch_frames=10, epochs=epochs["autoencoder"], **model, **training)
forecaster = qf.fit_forecaster(autoencoder, split, epochs=epochs["forecaster"], expectation_weight=5, hide=0.5, dropout=0.1, **training)

# %% [markdown]
# ## Forecasts beside the truth

# %%
forecasts = {"QuantFormer": forecaster.predict(split.test)}
forecasts["QuantFormer"]

# %%
fig = figure_forecasts(split.test, forecasts)

# %% [markdown]
# One neuron in one trial, on axes of your own:

# %%
truth = split.test.dataset()
with style():
    fig, ax = plt.subplots(figsize=(3.5, 2))
    plot_forecast(truth, forecasts, int(truth["trial"][0]), str(truth["neuron"].values[0]), ax=ax)
    ax.legend()

# %% [markdown]
# ## How good is that?
# Beside the naive forecasters, and the best possible forecast, which only a simulation knows.

# %%
table = qf.evaluate([forecaster], split, ceiling=True)
print(qf.show(table))

# %% [markdown]
# ## Will the neuron respond at all?

# %%
classifier = qf.fit_classifier(autoencoder, split, epochs=epochs["classifier"], gain_weight=3, hide=1, dropout=0.1, **training)
print(qf.show(qf.evaluate_classifier(classifier, split)))

# %% [markdown]
# ## Keep the model

# %%
forecaster.save(folder / "forecaster")
again = qf.load(folder / "forecaster")
bool((again.predict(split.test)["forecast"] == forecasts["QuantFormer"]["forecast"]).all())
