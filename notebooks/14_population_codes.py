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
# # Codes and embeddings of a population
#
# **What is asked:** what do CalM's 128 codes stand for, and what do its embeddings of neurons know?
#
# **What is done:** the codes are shown with the patches that they decode to, and how often they follow each other. Then the neurons' embeddings are read: do neurons of one task variable
# lie together, and does a gradient in them tell how strongly a neuron is tuned (CalM, Fig. 5 A and B)? Each number stands beside the same number of shuffled neurons.

# %% tags=["parameters"]
FAST = True  # small models, minutes on a CPU; False: the authors' sizes, for a GPU
STORE = None  # a folder of recordings (a store); None: simulated networks
STUDY = "study"  # the models are kept in its folder `population`
FIGURES = "figures"
SEED = 0

# %%
from pathlib import Path

import matplotlib.pyplot as plt

import qf_toolkit as qf
from qf_toolkit.interpret.codes import codebook, transitions
from qf_toolkit.interpret.embedding import pca, tsne
from qf_toolkit.interpret.linear import gradient, identity_probe, probe
from qf_toolkit.interpret.neurons import neuron_tokens
from qf_toolkit.interpret.tuning import neuron_variables
from qf_toolkit.plots.codes import figure_codebook, plot_transitions
from qf_toolkit.plots.linear import figure_tuning, plot_probes
from qf_toolkit.plots.style import save_figure, style
from qf_toolkit.study.population import PopulationStudy
from qf_toolkit.widgets import CodeExplorer


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %%
study = PopulationStudy(Path(STUDY) / "population", store=STORE, fast=FAST, seed=SEED, progress=False)
split, model = study.split(), study.forecaster()
quantizer = model.quantizer

# %% [markdown]
# ## The codes
# Each code by the patch of four frames that it decodes to, laid out by its vector (t-SNE); the share of patches that took it is its usage. With 128 codes there is no matrix of every swap: the
# explorer below swaps one at a time.

# %%
book = codebook(quantizer, split.train.by_session()[0])
print(f"{book.attrs['codes_used']} of {book.sizes['code']} codes used, perplexity {book.attrs['perplexity']:.1f}")
fig = figure_codebook(book, tsne(book["vector"]))
keep(fig, "codebook", "The codes of the population", "Each code as its decoded patch, laid out by its vector, and its level and amplitude")

# %% [markdown]
# **What to see:** a bright diagonal where codes follow themselves, and blocks where codes of one level follow each other.

# %%
found = transitions([quantizer.codes(part)["code"] for part in split.validation.by_session()], len(book["code"]))
order = book["level"].argsort().values
with style():
    fig, ax = plt.subplots(figsize=(4.6, 4), layout="constrained")
    plot_transitions(found, order=order, ax=ax)
keep(fig, "transitions", "Which code follows which", "Matrix of how often each code follows each other, codes sorted by level")

# %%
CodeExplorer(quantizer, split.test.by_session()[0])

# %% [markdown]
# ## What the embeddings know
# Task variables of the neurons are measured on trials of the training part, in halves, so that noise does not look like tuning. A linear probe is fitted on some neurons and scored on
# others; grey are the scores of shuffled neurons. **What to see:** only what lies right of the grey counts.

# %%
seen = study.store.trials(baseline_s=1.0, response_s=2.0, signal="zscore")
seen = qf.split_chronological(seen).train
names = [name for name in ("side", "choice") if name in seen.table.columns] or None
variables = neuron_variables(seen, names)
tokens = neuron_tokens(model)
first = str(variables["variable"].values[0])
strength = variables["strength"].sel(variable=first)
probes = {f"strength of {first}": probe(tokens, strength, n_shuffles=50)}
fig, ax = plt.subplots(figsize=(5, 1.8), layout="constrained")
plot_probes(probes, ax=ax)
keep(fig, "probes", "What embeddings know", "Score of a linear probe of the neurons' embeddings, beside those of shuffled neurons")

# %% [markdown]
# The embeddings in a plane: the variable that each neuron is related to, and the direction along which tuning grows, with how well that holds for neurons that it was not fitted on.

# %%
fig = figure_tuning(pca(tokens), variables, gradient(tokens, strength, n_shuffles=50))
keep(fig, "tuning", "Tuning in the embeddings", "Map of the neurons' embeddings by task variable, and the gradient of the tuning strength")

# %% [markdown]
# Whose neuron is it? The animal, read from the neurons' embeddings (0.224 in the authors' paper, 0.930 from those of sessions, which needs several sessions of an animal).

# %%
identity_probe(model, of=("neuron",), n_shuffles=20).to_dataframe().round(3)
