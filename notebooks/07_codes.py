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
# # What do the codes stand for?
#
# **What is asked:** what shapes do the codes have, how well do they spell a trace, and does a code mean the same wherever it stands?
#
# **What is done:** real windows are laid beside what their codes decode to (the paper's A-7); the code book is laid out by t-SNE (A-9 a, b); and a code is put
# into bursts of every other, to see how much the decoder makes it depend on its neighbours (A-9 c).

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
from qf_toolkit.estimators.interface import origin
from qf_toolkit.interpret.codes import codebook, reconstruction_error, run_lengths, swaps, transitions
from qf_toolkit.interpret.embedding import tsne
from qf_toolkit.plots.clusters import figure_code_contexts
from qf_toolkit.plots.codes import figure_codebook, figure_context, figure_quantisation, plot_transitions
from qf_toolkit.plots.style import credit, save_figure, style
from qf_toolkit.plots.training import plot_code_usage
from qf_toolkit.widgets import CodeExplorer


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %%
study = qf.Study(STUDY, store=STORE, fast=FAST, seed=SEED, progress=False)
autoencoder = study.autoencoder()
test = study.split().test
autoencoder.config

# %% [markdown]
# ## What quantisation keeps
# **What to see:** windows of the test block (black) and what their codes decode to; numbers are the codes. Slow events should be there, noise from frame to frame need
# not. Look whether the largest responses are reached or cut off: above its highest code the code book ends, and no forecast made of codes goes further.

# %%
stimulus = study.stimuli[0]
part = study.split(stimulus).test.by_session()[0]
truth, codes = part.dataset(), autoencoder.codes(part)
fig = figure_quantisation(truth, codes, n=8, seed=SEED)
keep(
    fig,
    "fig-A-7_quantisation",
    "Figure A-7: traces and what their codes decode to",
    "Four most active and four random test windows, measured and reconstructed from codes",
)

# %%
rows = {}
for name in study.stimuli:
    for one in study.split(name).test.by_session():
        error = reconstruction_error(one.dataset(), autoencoder.codes(one)).attrs
        rows[f"{name}, {one.sessions[0]}"] = {
            "observations": error["observations"],
            "RMS error": error["rms"],
            "variance explained": error["explained"],
        }
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ## The code book
# **What to see:** each code's own shape: a burst of that code alone, decoded, mean over the places. Near codes have near vectors. On one scale (a) the codes order by
# level, as in the paper; each on its own scale (b) shows rises, falls and flat stretches. Distances across a t-SNE map mean little, neighbours mean something.

# %%
book = codebook(autoencoder, test)
embedding = tsne(book["vector"], seed=SEED)
fig = figure_codebook(book, embedding)
keep(fig, "fig-A-9ab_codebook", "Figure A-9 a, b: the code book", "t-SNE of the code book with each code's shape, on one scale and each on its own")

# %% [markdown]
# ## Which are used, and what follows what
# **What to see:** left, the share of the patches of each code; one that takes less than 0.2 % (grey) is a code too many. Right, which code comes next, codes in the order of
# their level, the highest at the bottom: a bright diagonal is activity that lasts longer than a patch; in the lower rows, what lies left of it is the decay after a peak.

# %%
order = np.argsort(book["level"].values)
found = [autoencoder.codes(one) for one in test.by_session()]
n_codes = autoencoder.config.codes
with style():
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=[1.2, 1])
    plot_code_usage(book["usage"], ax=axes[0])
    plot_transitions(transitions(found, n_codes), order=order, ax=axes[1])
keep(fig, "usage", "Use of the codes, and which follows which", "Share of patches of each code; matrix of the probability of the next code")

# %%
runs = run_lengths(found, n_codes)
pd.DataFrame({name: runs[name].values for name in ("number", "mean_length", "longest")}, runs["code"].values).sort_values(
    "mean_length", ascending=False
).head(8).round(2)

# %% [markdown]
# ## Does a code mean the same everywhere?
# The decoder reads the whole sequence, so the shape of a code may depend on its neighbours. One code, that of the highest peak, is put into bursts of others.
#
# **What to see:** left, the decoded patch of that code in several bursts: were a code a shape, the lines would lie on each other. Right, the same for every pair, as the
# root mean square of the change; rows of one colour are codes that bend with any neighbour.

# %%
swapped = swaps(autoencoder)  # every code in every burst at every place
peak = int(book["code"].values[int(book["level"].argmax("code"))])
fig = figure_context(swapped, peak)
credit(fig, origin(test, autoencoder))
keep(
    fig,
    "fig-A-9c_context",
    f"Figure A-9 c: code {peak} inside bursts of others",
    "Decoded patch of one code in several bursts, and the change of every code in every burst",
)

# %% [markdown]
# Sorted by likeness: **what to see** are blocks. Rows of a block are codes that their neighbours bend alike; columns of a block are neighbours that bend alike. The grey strip is
# the level of each code, dark is high.

# %%
fig = figure_code_contexts(swapped, book)
keep(
    fig,
    "contexts",
    "Codes and their neighbours, sorted by likeness",
    "Cluster map of the change of every code in every burst, with the level of each code",
)

# %%
size = book["prototype"].std().item()
print(
    f"a code changes by {float(swapped['context_dependence'].mean()):.2f} on average, {float(swapped['context_dependence'].max()):.2f} at most; codes differ by {size:.2f} (SD)"
)

# %% [markdown]
# ## Edit a sequence
# Change a code of a burst or of a real window and see what becomes of the trace. Here the code of the highest peak is put at the onset.

# %%
explorer = CodeExplorer(autoencoder, part)
explorer.code.value = peak
explorer

# %%
fig = explorer.figure()
keep(fig, "explorer", "The code explorer", "View of the code explorer: a sequence of codes and the trace it decodes to")

# %% [markdown]
# What this doesn't show: that the codes are events of the brain. They are what makes this decoder's error small; another seed gives another alphabet that spells as well.
