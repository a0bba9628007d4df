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
# # Forecasting the response
#
# **What is asked:** how well can the response of a single neuron in a single trial be forecast from its last three seconds and the stimulus?
#
# **What is done:** for each stimulus a forecaster is fitted on the auto-encoder of `03_pretrain_on_gpu`, and its forecasts of the last block, which no model has
# seen, are laid beside what was measured and beside nine naive forecasters. This is the paper's Fig. 3, its figures and the tables that go with them.

# %% tags=["parameters"]
FAST = True  # small models, minutes on a CPU; False: the paper's sizes, for a GPU
STORE = None  # a folder of recordings (a store); None: a simulated mouse
STUDY = "study"  # the models that the notebooks share, trained where missing
FIGURES = "figures"
SEED = 0

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import qf_toolkit as qf
from qf_toolkit.estimators.naive import StimulusMean
from qf_toolkit.estimators.ridge import RidgeOwn
from qf_toolkit.evaluation.compare import per_neuron_scores
from qf_toolkit.evaluation.scored import score
from qf_toolkit.plots.chosen import choose_observations
from qf_toolkit.plots.forecasts import figure_examples, figure_forecasts, figure_stimuli
from qf_toolkit.plots.scores import plot_gain_over, plot_neuron_scores
from qf_toolkit.plots.style import credit, palette, save_figure, style
from qf_toolkit.plots.tables import figure_printed_table

PAPER = {"drifting_gratings": "A-3", "static_gratings": "A-4", "natural_scenes": "A-2", "locally_sparse_noise": "A-5"}


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %%
study = qf.Study(STUDY, store=STORE, fast=FAST, seed=SEED, progress=False)
autoencoder = study.autoencoder()
study

# %% [markdown]
# ## Fitting
# Written out for one stimulus: encoder, tokens and head learn, code book and decoder are frozen. The targets are the codes of the response; what is forecast is
# a distribution over codes, of which the expected code is decoded. How it is decoded (expected code, likeliest code, draws) is chosen on the validation part.

# %%
stimulus = study.stimuli[0]
split = study.split(stimulus)
settings = study.settings("forecaster", stimulus)
print(stimulus, settings)
folder = study.path("forecaster", stimulus)
if not (folder / "config.json").exists():
    qf.fit_forecaster(autoencoder, split, checkpoint=folder / "checkpoint", **settings).save(folder)
forecaster = qf.load(folder)
forecaster.decode, forecaster.temperature, forecaster.chosen

# %% [markdown]
# The others in the same way: `study.forecaster` fits what is missing and loads what is there. The paper's own decoding, the likeliest code at each place, is
# kept as a row beside it.

# %%
forecasters, splits, forecasts = {}, {}, {}
for name in study.stimuli:
    likeliest = qf.load(study.forecaster(name) and study.path("forecaster", name))
    likeliest.decode, likeliest.name = "argmax", "QuantFormer, likeliest code"
    forecasters[name], splits[name] = [study.forecaster(name), likeliest], study.split(name)
    rows = [study.forecaster(name), RidgeOwn().fit(splits[name]), StimulusMean().fit(splits[name])]
    forecasts[name] = {row.name: row.predict(splits[name].test) for row in rows}

# %% [markdown]
# ## Figure 3: each stimulus
# **What to see:** of each stimulus the most active observation of the test block. The black line is measured, grey is the part that is scored. A model may catch
# when a response comes and how large it is on average; what a single trial adds is not in its past.

# %%
fig = figure_stimuli({name: (splits[name].test, forecasts[name]) for name in study.stimuli}, seed=SEED)
keep(
    fig,
    "fig-3_stimuli",
    "Figure 3: forecasts for each stimulus",
    "The most active test observation of each stimulus, measured and forecast by three methods",
)

# %% [markdown]
# The most active observation flatters nobody: there, every forecast is too low, since it was chosen for being high. So the next figures show as many drawn at
# random, and means over trials.
#
# ## Figures: examples
# **What to see:** the upper half were chosen for their activity, the lower half at random; most random windows hold noise alone, and a good forecast is flat there.

# %%
for name in study.stimuli:
    fig = figure_examples(splits[name].test, forecasts[name], n=8, seed=SEED)
    keep(
        fig,
        f"fig-{PAPER.get(name, 'examples')}_{name}",
        f"{'Figure ' + PAPER[name] if name in PAPER else 'Examples'}: {name.replace('_', ' ')}",
        f"Four most active and four random test windows of {name.replace('_', ' ')}, measured and forecast by three methods",
    )
    plt.show()

# %% [markdown]
# ## Means over trials
# The first row is of the neurons whose response repeats most from trial to trial in the data the models were fitted on, the second is drawn at random.
#
# **What to see:** the last row. Averaged over the trials of a condition the noise goes, and the stimulus mean, which knows nothing of the baseline, is hard to
# beat: what a model can add is what the baseline tells of the state the neuron is in.

# %%
chosen = choose_observations(splits[stimulus].test, fitting=splits[stimulus].fitting, seed=SEED)
fig = figure_forecasts(splits[stimulus].test, forecasts[stimulus], seed=SEED, chosen=chosen)
keep(
    fig,
    "means",
    f"Single windows and means of conditions: {stimulus.replace('_', ' ')}",
    "Single windows above, means over the trials of a condition below",
)

# %% [markdown]
# ## Tables
# Measured once, on the test block. `E` is the share of the explainable error that is explained (known of simulated data alone). r of single windows is small
# for everybody, since its ceiling is.

# %%
scored = {
    name: score(forecasters[name], splits[name], ceiling=splits[name].test.simulated) for name in study.stimuli
}  # each session is forecast once
tables = {name: qf.evaluate(scored[name], splits[name]) for name in study.stimuli}
for name, table in tables.items():
    print(f"\n{name}\n{qf.show(table)}")

# %%
for name, table in tables.items():
    fig = figure_printed_table(table, columns=[c for c in ("mse", "mse_ratio", "mae", "r", "E") if c in table])
    keep(fig, f"table_{name}", f"Table: {name.replace('_', ' ')}", f"Errors of QuantFormer and naive forecasters on {name.replace('_', ' ')}")
    plt.show()

# %% [markdown]
# ## In one picture
# **What to see:** squared error as a share of that of the baseline's mean, held: left is better. Look at where QuantFormer lies among the naive rows, not at its
# own number alone. A ridge regression on the neuron's own trace is the row to beat.

# %%
ratios = pd.DataFrame({name: table["mse_ratio"] for name, table in tables.items()})
with style():
    fig, ax = plt.subplots(figsize=(5.6, 0.34 * len(ratios.columns) * 2 + 1.2))
    marks = dict(zip(ratios.index, "oDs^vP*X<>", strict=False))
    for i, (row, mark) in enumerate(marks.items()):
        model = row.startswith("QuantFormer")
        color = palette()[i] if model else "0.15" if "ceiling" in row else "0.55"
        ax.plot(
            ratios.loc[row],
            range(len(ratios.columns)),
            mark,
            color=color,
            mfc=color if model else "white",
            ms=6 if model else 5,
            label=row,
            zorder=3 if model else 2,
        )
    ax.set(
        yticks=range(len(ratios.columns)),
        yticklabels=[n.replace("_", " ") for n in ratios.columns],
        xlabel="squared error / that of the baseline's mean",
    )
    ax.invert_yaxis()
    ax.margins(y=0.15)
    ax.grid(axis="x", color="0.92")
    fig.legend(loc="outside right center")
    credit(fig, *tables.values())
keep(
    fig,
    "errors",
    "Squared error of every row, by stimulus",
    "Squared error of each forecaster relative to the mean of the baseline, for each stimulus",
)

# %% [markdown]
# ## How sure is the difference?
# Differences to the naive rows, with 95 % intervals of a paired bootstrap over animals, sessions and blocks of trials. An interval that holds zero is no difference.

# %%
for name in study.stimuli:
    print(f"\n{name}\n{qf.show(qf.compare(scored[name], splits[name]))}")

# %% [markdown]
# ## Neuron by neuron
# **What to see:** left, each point is a neuron. The rows overlap: neurons differ much more than forecasters do. So compare within each neuron, right: below the diagonal
# QuantFormer's error is the lower one.

# %%
scores = per_neuron_scores(scored[stimulus])
with style():
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 2.7), width_ratios=[1.5, 1])
    plot_neuron_scores(scores, ax=axes[0])
    plot_gain_over(scores, "QuantFormer", "ridge, own trace", ax=axes[1])
keep(
    fig,
    "neurons",
    f"Neuron by neuron: {stimulus.replace('_', ' ')}",
    "Squared error of every neuron under each forecaster, and QuantFormer's over that of a ridge regression",
)

# %% [markdown]
# What this doesn't show: other mice, other days, other models (`08` is kept for the comparison with the paper's competitors). In fast mode the models are small
# and trained for a minute each; that is enough to see how a result is read, and not enough to rank methods.
