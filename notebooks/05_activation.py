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
# # Will the neuron respond at all?
#
# **What is asked:** from its baseline and the stimulus, will a neuron be active: mean dF/F of the scored response at least 10 % (paper, 3.2)?
#
# **What is done:** a classifier reads [CLS], a token of the neuron, one of the stimulus and the six patches or so of the baseline (paper, 3.4.1), for each stimulus one.
# Beside it stands the honest competitor: how often the neuron was active for that condition in training, which needs no baseline and no network.

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
from qf_toolkit.estimators.frequency import FrequencyClassifier
from qf_toolkit.plots.style import credit, palette, save_figure, style
from qf_toolkit.plots.tables import figure_printed_table, plot_classification


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %%
study = qf.Study(STUDY, store=STORE, fast=FAST, seed=SEED, progress=False)
autoencoder = study.autoencoder()
study

# %% [markdown]
# ## Fitting
# Active observations are rare. The paper weighs them in pre-training; here `gain_weight` teaches by how much a neuron responded, not only whether, and `hide=1`
# masks up to the whole baseline in training steps, so that tuning is learnt first.

# %%
stimulus = study.stimuli[0]
split = study.split(stimulus)
settings = study.settings("classifier", stimulus)
print(stimulus, settings)
folder = study.path("classifier", stimulus)
if not (folder / "config.json").exists():
    qf.fit_classifier(autoencoder, split, checkpoint=folder / "checkpoint", **settings).save(folder)
classifier = qf.load(folder)
classifier.predict(split.test)

# %% [markdown]
# ## Tables
# Balanced accuracy is the mean of the shares of active and of inactive observations that are told right: 0.5 is chance, whatever the share of active ones. Plain
# accuracy would be high for whoever always says no. Thresholds are chosen on validation.

# %%
tables = {name: qf.evaluate_classifier(study.classifier(name), study.split(name)) for name in study.stimuli}
for name, table in tables.items():
    print(f"\n{name}\n{qf.show(table)}")

# %%
for name, table in tables.items():
    fig = figure_printed_table(table, columns=["balanced_accuracy", "precision", "recall", "f1", "active_fraction"])
    keep(
        fig,
        f"table_{name}",
        f"Activation, {name.replace('_', ' ')}",
        f"Scores of the classifier and of the frequency of activation on {name.replace('_', ' ')}",
    )
    plt.show()

# %% [markdown]
# All stimuli in one picture. **What to see:** precision is low for everybody where activations are rare; compare rows of one stimulus, not stimuli.

# %%
with style():
    fig, ax = plt.subplots(figsize=(5.0, 0.36 * sum(map(len, tables.values())) + 0.9))
    every = pd.concat(
        [table.rename(index=lambda row, name=name: f"{name.replace('_', ' ')}: {row.removeprefix('. ')}") for name, table in tables.items()]
    )
    every.attrs = {}
    plot_classification(every, ax=ax)
    credit(ax, *tables.values())
keep(fig, "scores", "Scores of the classifiers", "Scores of the classifier and of naive rules on each stimulus, as a heat map with numbers")

# %% [markdown]
# ## Are the probabilities right?
# **What to see:** of the observations that were given a probability of 30 %, are 30 % active? On the dashed line, yes; below it the model promises too much, above it too little. Points
# are tenths of the observations in the order of their probability; bars are two standard errors (neighbouring trials of a neuron are not independent, so that
# they are rather too short).


# %%
def reliability(probability, active):
    known = np.isfinite(probability)
    probability, active = probability[known], active[known]
    parts = np.array_split(np.argsort(probability, kind="stable"), 10)
    said, found = (np.array([v[part].mean() for part in parts if len(part)]) for v in (probability, active))
    n = np.array([len(part) for part in parts if len(part)])
    return said, found, 2 * np.sqrt(found * (1 - found) / n)


with style():
    fig, axes = plt.subplots(1, len(study.stimuli), figsize=(2.2 * len(study.stimuli) + 0.4, 2.6), squeeze=False, sharex=True, sharey=True)
    for ax, name in zip(axes[0], study.stimuli, strict=True):
        split = study.split(name)
        for row, color in ((study.classifier(name), palette()[0]), (FrequencyClassifier().fit(split), "0.55")):
            probability, active = [], []
            for part in split.test.by_session():
                ds = part.dataset()
                probability.append(row.predict_probability(part).transpose("trial", "neuron").values.ravel())
                active.append(ds["active"].values.ravel())
            said, found, error = reliability(np.concatenate(probability), np.concatenate(active).astype(float))
            ax.errorbar(said, found, error, fmt="o-", ms=3, color=color, lw=0.9, label=row.name)
        ax.plot([0, 1], [0, 1], color="0.4", ls="--", lw=0.8)
        ax.set(title=name.replace("_", " "), xlabel="probability said")
        credit(ax, tables[name])
    axes[0, 0].set(ylabel="share found active", xlim=(0, 1), ylim=(0, 1))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper left", ncols=2)
keep(fig, "reliability", "Are the probabilities right?", "Share of active observations against the probability that was said, for each stimulus")

# %% [markdown]
# ## Does the baseline help?
# The frequency says the same for every trial of a neuron and a condition. So take pairs of such trials, one active and one not: how often was the active one given
# the higher probability? Without a look at the baseline it would be half of the time.
#
# **What to see:** points above 0.5 are what the baseline tells of the coming response. Bars are 95 % intervals of a bootstrap over neurons. Where conditions are
# shown once, the pairs are of one neuron under any of them.


# %%
def concordance(classifier, trials):
    """Pairs of one neuron in one condition, an active and an inactive one: those ordered rightly, and all of them, by neuron."""
    right, pairs = [], []
    for part in trials.by_session():
        ds = part.dataset()
        p = classifier.predict_probability(part).transpose("trial", "neuron").values
        keys = ds["condition"].values.astype(str)
        if len(set(keys)) > len(keys) / 2:
            keys = ds["stimulus"].values.astype(str)
        for i in range(p.shape[1]):
            won = n = 0
            for key in set(keys):
                mine = (keys == key) & np.isfinite(p[:, i])
                yes, no = (p[mine & (ds["active"].values[:, i] == a), i] for a in (True, False))
                won += (yes[:, None] > no).sum() + (yes[:, None] == no).sum() / 2
                n += len(yes) * len(no)
            right.append(won)
            pairs.append(n)
    return np.array(right), np.array(pairs)


rng = np.random.default_rng(SEED)
with style():
    fig, ax = plt.subplots(figsize=(4.6, 0.3 * len(study.stimuli) + 0.9))
    for y, name in enumerate(study.stimuli):
        right, pairs = concordance(study.classifier(name), study.split(name).test)
        drawn = rng.integers(len(pairs), size=(2000, len(pairs)))
        low, high = np.nanquantile(right[drawn].sum(1) / np.maximum(pairs[drawn].sum(1), 1), [0.025, 0.975])
        ax.plot([low, high], [y, y], color=palette()[0])
        ax.plot(right.sum() / max(pairs.sum(), 1), y, "o", color=palette()[0])
        credit(ax, tables[name])
    ax.axvline(0.5, color="0.4", ls="--", lw=0.8)
    ax.set(yticks=range(len(study.stimuli)), yticklabels=[n.replace("_", " ") for n in study.stimuli], xlabel="share of pairs ordered rightly")
    ax.set_title("what the baseline tells", loc="left")
    ax.invert_yaxis()
    ax.margins(y=0.2)
keep(
    fig,
    "pairs",
    "What the baseline tells of the coming response",
    "Share of pairs of trials of one neuron and condition that are ordered rightly, by stimulus, with intervals",
)

# %% [markdown]
# What this doesn't show: why. `06_attention` asks what the classifier looks at, and whether what it looks at matters.
