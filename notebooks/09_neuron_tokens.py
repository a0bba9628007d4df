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
# # What do the neurons' tokens know?
#
# **What is asked:** a model learns a vector for each neuron. Do neurons with near vectors behave alike?
#
# **What is done:** the tokens of a forecaster are laid out by t-SNE and coloured by statistics of the neurons (the paper's A-10). Since an eye finds patterns in any
# cloud, two tests stand beside the picture: whether neighbours share their preferred stimulus more often than chance, and what can be read off the tokens of neurons
# that the reading was not fitted on.

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
import xarray as xr

import qf_toolkit as qf
from qf_toolkit.interpret.embedding import tsne
from qf_toolkit.interpret.neurons import linear_probe, nearest_neighbours, neighbour_agreement, neuron_statistics, neuron_tokens
from qf_toolkit.plots.neurons import figure_neuron_tokens, plot_probe, plot_tokens
from qf_toolkit.plots.style import save_figure, style
from qf_toolkit.recordings.conditions import parse_condition
from qf_toolkit.widgets import EmbeddingBrowser


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %%
study = qf.Study(STUDY, store=STORE, fast=FAST, seed=SEED, progress=False)
stimulus = study.stimuli[0]
model, split = study.forecaster(stimulus), study.split(stimulus)
statistics = neuron_statistics(split.train)
statistics

# %% [markdown]
# A token is a random vector to begin with. A short training at one rate for all weights, the paper's, adds little to that start, and near tokens are mostly those that
# started near each other. The small models of these notebooks therefore learn their tokens ten times as fast as the rest (`token_speed=10`), and both are looked at: the
# whole token, as in the paper, and what training added to it. The numbers are the root mean square of each; the start's is about 1.

# %%
parts = {"whole": neuron_tokens(model), "added": neuron_tokens(model, moved=True)}
tokens = parts["added"]
{name: float(np.sqrt(np.mean(np.square(part)))) for name, part in parts.items()}

# %% [markdown]
# ## The map
# **What to see:** each point a neuron, orange above the median of a statistic and blue below. Colours that part into two sides say that the tokens order the neurons by
# it. The statistics are those of the training part, which the tokens were learnt from.

# %%
embedding = tsne(tokens, seed=SEED)
fig = figure_neuron_tokens(embedding, statistics)
keep(
    fig,
    "fig-A-10_neuron_tokens",
    "Figure A-10: t-SNE of what training added to the neuron tokens",
    "t-SNE of what training added to the neuron tokens, above and below the median of four statistics",
)

# %% [markdown]
# The same of the whole tokens. Where the colours are mixed here and parted above, the start hides what was learnt; a longer training or a larger `token_speed` would show it.

# %%
fig = figure_neuron_tokens(tsne(parts["whole"], seed=SEED), statistics)
keep(
    fig,
    "fig-A-10_whole_tokens",
    "Figure A-10: t-SNE of the whole neuron tokens",
    "t-SNE of whole neuron tokens, above and below the median of four statistics",
)

# %% [markdown]
# ## Preferred condition and selectivity
# **What to see:** left, which condition each neuron responds to most (arrows point where the grating goes); right, how much of its response the condition explains.

# %%
with style():
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.6))
    plot_tokens(embedding, statistics["preferred_condition"], ax=axes[0])
    plot_tokens(embedding, statistics["selectivity"], ax=axes[1], how="continuous")
keep(fig, "preference", "Preferred condition and selectivity on the map", "The same t-SNE, coloured by preferred condition and by selectivity")

# %% [markdown]
# ## Are neighbours alike?
# For the five nearest neighbours of each neuron that is tuned at all: how often do they prefer the same, and how often would they by chance? The start alone, which
# knows nothing of the neurons, is the control.

# %%
tuned = statistics["selectivity"].values > 0.1
label = [str(c) if t else "" for c, t in zip(statistics["preferred_condition"].values, tuned, strict=True)]
feature = next(iter(parse_condition(next(filter(None, label), ""))[1]), None)
label = [parse_condition(c)[1].get(feature, "") if c else "" for c in label]
labels = xr.DataArray(np.array(label, dtype=object), {"neuron": statistics["neuron"].values}, ("neuron",), attrs=statistics.attrs)
k = min(5, max(1, sum(map(bool, label)) // 4))
for name, part in {**parts, "start": parts["whole"] - parts["added"]}.items():
    try:
        found = neighbour_agreement(part, labels, k=k, seed=SEED)
        print(
            f"{name:6} {int(found['n_neurons'])} tuned neurons, {int(found['n_labels'])} values of {feature}: {float(found['share']):.1%} of the {k} nearest "
            f"share it, {float(found['expected']):.1%} by chance, p = {float(found['p']):.2g}"
        )
    except qf.QfError as error:
        print(error)

# %%
nearest = nearest_neighbours(tokens, k=min(3, len(tokens) - 1))
nearest["neighbour"].to_pandas().head()

# %% [markdown]
# ## What can be read off the tokens?
# **What to see:** for each statistic, how well a linear reading of the tokens tells it of neurons left out (blue), beside the same with values shuffled over the
# neurons (grey); the line is what 95 % of the shuffles stay below. Only bars beyond their line say that the tokens hold it.

# %%
probe = linear_probe(tokens, statistics.drop_vars("n_observations"), folds=max(2, min(5, len(tokens) // 4)), seed=SEED)
with style():
    fig, ax = plt.subplots(figsize=(5.6, 3.4))
    plot_probe(probe, ax=ax)
keep(fig, "probe", "What can be read off the neuron tokens", "Cross-validated score of a linear probe for each statistic, beside shuffled values")

# %% [markdown]
# ## Browse
# Point at a neuron, see its neighbours and their responses; here is the first view.

# %%
browser = EmbeddingBrowser(model, split.train)
browser

# %%
fig = browser.figure()
keep(fig, "browser", "The embedding browser", "View of the embedding browser: the map of neurons and one neuron's responses")

# %% [markdown]
# What this doesn't show: that tokens are needed for it. A statistic that a probe reads off the tokens could as well be computed from the recording; what is new would be a
# pattern that no statistic names. With some tens of neurons a map has few points, and another seed gives another map.
