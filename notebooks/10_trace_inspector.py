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
# # Trace inspector
#
# **What is asked:** what do single traces look like, where does a forecast hold and where does it fail? Tables average that away.
#
# **What is done:** a widget goes through the test observations: the trace, the forecasts with their 90 % intervals, the codes under them, and the mean of the condition's
# trials. Up and down go to the next neuron, left and right to the next trial; the pointer reads off values. It needs JupyterLab; exports show the first view as a picture.

# %% tags=["parameters"]
FAST = True  # small models, minutes on a CPU; False: the paper's sizes, for a GPU
STORE = None  # a folder of recordings (a store); None: a simulated mouse
STUDY = "study"  # the models that the notebooks share, trained where missing
FIGURES = "figures"
SEED = 0

# %%
from pathlib import Path

import numpy as np
from IPython.display import display

import qf_toolkit as qf
from qf_toolkit.estimators.naive import StimulusMean
from qf_toolkit.estimators.ridge import RidgeOwn
from qf_toolkit.interpret.observation import Observer
from qf_toolkit.plots.observation import figure_observation
from qf_toolkit.plots.style import save_figure
from qf_toolkit.widgets import TraceInspector


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %%
study = qf.Study(STUDY, store=STORE, fast=FAST, seed=SEED, progress=False)
stimulus = study.stimuli[0]
split = study.split(stimulus)
models = [study.forecaster(stimulus), study.classifier(stimulus), RidgeOwn().fit(split), StimulusMean().fit(split)]
models

# %%
inspector = TraceInspector(split.test, models, autoencoder=study.autoencoder())
inspector.sort.value = "activation probability"
inspector.neuron.value = inspector.neuron.options[0][1]  # the most active one
truth = split.test.by_session()[0].dataset()
inspector.trial.value = int(truth["trial"].values[truth["active"].sel(neuron=inspector.neuron.value).values.argmax()])
inspector

# %% [markdown]
# **What to see:** the black line is measured; grey before zero is what a forecast knows. An interval that holds about nine of ten frames is honest; a forecast whose line runs through
# the middle of the trials' spread is as good as a mean can be. Sort the neurons by their activity, then look at the most and at the least active ones.

# %%
fig = inspector.figure()
keep(fig, "inspector", "The trace inspector", "View of the trace inspector: one observation with forecasts, codes and the mean of its condition")

# %% [markdown]
# ## The best and the worst
# The same view without the widget, of the test observations that the forecaster gets best and worst among the active ones, by squared error as a share of the response's size.

# %%
part = split.test.by_session()[0]
forecast = study.forecaster(stimulus).predict(part)["forecast"]
n = truth.attrs["n_baseline"]
response = truth[part.window.signal].values[..., n:]
error = np.square(forecast.transpose("trial", "neuron", "time").values - response).mean(-1) / np.square(response).mean(-1)
error[~truth["active"].values | ~np.isfinite(error)] = np.nan
observer = Observer(part, models[:1] + models[2:], autoencoder=study.autoencoder())
for name, at in (("best", np.nanargmin(error)), ("worst", np.nanargmax(error))):
    trial, neuron = np.unravel_index(at, error.shape)
    view = observer.look(part.sessions[0], str(truth["neuron"].values[neuron]), int(truth["trial"].values[trial]))
    fig = figure_observation(view)
    keep(fig, name, f"The {name} forecast of an active observation", f"Trace, forecasts, codes and condition mean of the {name} forecast")
    display(fig)

# %% [markdown]
# What this doesn't show: how often. Whoever looks long enough finds a beautiful and a terrible forecast; the tables of `04_forecast` count them.
