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
import numpy as np

from qf_toolkit.interpret.codes import codebook, transitions
from qf_toolkit.interpret.embedding import pca
from qf_toolkit.interpret.linear import gradient, identity_probe, probe
from qf_toolkit.interpret.neurons import neuron_tokens
from qf_toolkit.interpret.tuning import neuron_variables
from qf_toolkit.plots.codes import plot_codebook, plot_transitions
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
