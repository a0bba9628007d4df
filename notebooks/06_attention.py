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
# # What does the classifier look at?
#
# **What is asked:** the classifier of `05_activation` reads the neuron's token, the stimulus' token and the patches of the baseline. Which of them reach its answer,
# and does that differ between stimuli?
#
# **What is done:** attention rollout (heads averaged, half of each layer kept for the residual path, layers multiplied), averaged over the test observations: the
# paper's figure A-8. Then the same by condition and by head, weighted by gradients, and a check of what rollout can't tell: whether what is looked at matters.

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
import seaborn as sns
import xarray as xr

import qf_toolkit as qf
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.interpret.attention import attention_rollout, readout
from qf_toolkit.plots.attention import figure_heads, figure_rollout, figure_rollout_conditions, plot_heads
from qf_toolkit.plots.style import credit, palette, save_figure, style
from qf_toolkit.widgets import RolloutViewer


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %%
study = qf.Study(STUDY, store=STORE, fast=FAST, seed=SEED, progress=False)
classifiers = {name: study.classifier(name) for name in study.stimuli}
study

# %% [markdown]
# ## By stimulus
# **What to see:** bars say how much of the answer's token, [CLS], comes from each token of the input after all layers; beneath, how that builds up. [CLS] keeps at
# least half of itself at each layer, whatever was learnt: compare the others among themselves. The paper finds [NEURON] first, then the patches, then [STIM]. Points
# are the rollout weighted by gradients: what raises the answer, not only what is looked at.

# %%
parts = [attention_rollout(model, study.split(name).test, gradient=True) for name, model in classifiers.items()]
rollouts = xr.concat(parts, "stimulus", combine_attrs="drop_conflicts")
rollouts

# %%
fig = figure_rollout(rollouts)
credit(fig, *parts)
keep(
    fig,
    "fig-A-8_rollout",
    "Figure A-8: attention rollout, by stimulus",
    "Share of each input token in the answer of the classifier, for each stimulus, and layer by layer",
)

# %% [markdown]
# ## By condition
# **What to see:** left, a line for each condition; right, by how many percentage points it differs from the mean of the lines. A column that changes from line to line, often
# [STIM] and the blank, is what depends on the stimulus; columns that stay the same do not. Of more than 60 conditions the first 60 are shown, and their mean.

# %%
stimulus = study.stimuli[0]
by_condition = attention_rollout(classifiers[stimulus], study.split(stimulus).test, by="condition")
if by_condition.sizes["condition"] > 60:
    by_condition = by_condition.isel(condition=slice(60))
fig = figure_rollout_conditions(by_condition)
keep(
    fig,
    "conditions",
    f"Rollout by condition: {stimulus.replace('_', ' ')}",
    "Share of each input token for every condition, and its difference to the mean",
)

# %% [markdown]
# ## Head by head
# **What to see:** the attention maps themselves, each row a token that looks, each column what it looks at. Heads share the work; the rollout's mean over
# heads hides that.

# %%
fig = figure_heads(parts[0])
keep(
    fig,
    "heads",
    f"Attention maps of each layer and head: {stimulus.replace('_', ' ')}",
    "Mean attention map of every layer and head of the classifier",
)

# %%
with style():
    fig, axes = plt.subplots(1, 2, figsize=(6.4, 1.9))
    for ax, source in zip(axes, ("[NEURON]", "[STIM]"), strict=True):
        plot_heads(parts[0].isel(stimulus=0), source=source, ax=ax)
keep(
    fig,
    "heads_tokens",
    "What each head takes from the neuron's and the stimulus' token",
    "Share of the neuron token and the stimulus token through each head",
)

# %% [markdown]
# ## Looked at is not used
# Rollout follows attention, and a token may be attended to and not matter. So each input is exchanged in turn for that of another observation: the neuron's token
# for another neuron's, the condition for another trial's, the baseline for that of another trial of the same neuron.
#
# **What to see:** left, the share by rollout; right, by how much the probability changes, in percentage points. Where the order differs, believe the right one: it
# asks the model what it does, not where it looks.


# %%
def exchanged(model, trials, rng):
    """Mean absolute change of the probability, percentage points, when an input is exchanged."""
    changes = []
    for part in model.prepare(trials).by_session():
        ds = part.dataset()
        x = ds[part.window.signal].values[..., : ds.attrs["n_baseline"]]
        whole, x = np.isfinite(x).all(-1), np.nan_to_num(x)
        neurons, conditions = part.neurons, [str(c) for c in ds["condition"].values]
        scale = np.array([model.autoencoder.divisor(n) for n in neurons])
        other, swap = rng.permutation(len(conditions)), rng.permutation(len(neurons))
        p = model.predict_arrays(Observations(x, neurons, conditions))
        # the trace keeps its size in units of its own neuron, whatever token stands beside it
        scaled = (x * (scale[swap] / scale)[:, None]).astype(np.float32)
        q = {
            "[NEURON]": model.predict_arrays(Observations(scaled, [neurons[i] for i in swap], conditions)),
            "[STIM]": model.predict_arrays(Observations(x, neurons, [conditions[i] for i in other])),
            "baseline": model.predict_arrays(Observations(x[other], neurons, conditions)),
        }
        kept = {"[NEURON]": whole, "[STIM]": whole, "baseline": whole & whole[other]}
        changes.append({name: 100 * np.abs(q[name] - p)[kept[name]].mean() for name in q})
    return pd.DataFrame(changes).mean()


changed = pd.DataFrame({name: exchanged(model, study.split(name).test, np.random.default_rng(SEED)) for name, model in classifiers.items()})
share = readout(rollouts["rollout"].isel(layer=-1)).to_pandas()
shares = pd.DataFrame(
    {name: {"[NEURON]": row["[NEURON]"], "[STIM]": row["[STIM]"], "baseline": row.filter(regex=r"^t\d").sum()} for name, row in share.iterrows()}
)
with style():
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.4))
    for ax, values, label in ((axes[0], 100 * shares, "share by rollout (%)"), (axes[1], changed, "change of probability (points)")):
        long = values.rename(columns=lambda name: name.replace("_", " ")).melt(var_name="stimulus", ignore_index=False).reset_index(names="input")
        sns.barplot(long, x="input", y="value", hue="stimulus", palette=palette()[: values.shape[1]], saturation=1, ax=ax)
        ax.set(xlabel="", ylabel=label)
    handles, labels = axes[0].get_legend_handles_labels()
    for ax in axes:
        ax.get_legend().remove()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    credit(fig, *parts)
keep(
    fig,
    "exchanged",
    "Looked at, and used",
    "Share of neuron token, stimulus token and baseline by rollout, beside the change of the answer when each is exchanged",
)
changed.round(2)

# %% [markdown]
# ## Observation by observation
# The viewer shows maps, rollout and heads of one observation after the other; here is its first view.

# %%
viewer = RolloutViewer(classifiers[stimulus], study.split(stimulus).test)
viewer

# %%
fig = viewer.figure()
keep(fig, "viewer", "The rollout viewer", "View of the rollout viewer: attention of one observation")

# %% [markdown]
# What this doesn't show: a mechanism in the brain. It is what this network reads from one neuron's past; the paper's order of the tokens may come out otherwise with
# another training, and a share by rollout depends on the number of layers.
