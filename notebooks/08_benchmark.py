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
# # A benchmark
#
# **What is asked:** which model forecasts best, is it better than the naive rows, and how sure is that?
#
# **What is done:** some models are trained on each subject and stimulus, all with the same trials, steps and batches, and scored once on the last block. Every run leaves one file;
# the tables and figures below are made from these files, so that running this page again trains nothing anew. The paper's tables are made in the same way, from a shell:
# `qf benchmark table2 --store data/store --models all --seeds 3 --workers 8`.

# %% tags=["parameters"]
FAST = True  # small models, minutes on a CPU; False: the paper's sizes, for a GPU
STORE = None  # a folder of recordings (a store); None: simulated mice
STUDY = "study"  # the runs are kept in its folder `benchmark`
FIGURES = "figures"
SEED = 0

# %%
from pathlib import Path

import matplotlib.pyplot as plt

import qf_toolkit as qf
from qf_toolkit.benchmark.ranking import ahead, statistics
from qf_toolkit.benchmark.shown import as_text, cells
from qf_toolkit.benchmark.tables import make_table, paper_table
from qf_toolkit.plots.comparisons import plot_differences, plot_runs
from qf_toolkit.plots.horizon import plot_skill_by_step
from qf_toolkit.plots.style import save_figure, style

out = Path(STUDY) / "benchmark"


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %% [markdown]
# ## The grid
# A run is one model on one subject and one stimulus with one seed. `models` names the rows; the naive rows are always there. More seeds and more models take proportionally longer.

# %%
size = "small" if FAST else "paper"
how = {"models": ["nlinear", "lstm", "quantformer"], "seeds": 1 if FAST else 3, "size": size}
few = {"subject": ["sim1", "sim2"], "stimulus": ["drifting_gratings"]} if FAST and STORE is None else {}
results = qf.benchmark_table("table2", STORE, out=out, progress=False, **how, **few)
results.runs[["row", "subject", "stimulus", "seed", "mse_ratio", "r", "train_s"]].round(3)

# %% [markdown]
# ## The table
# Mean and standard deviation over runs, as the paper prints them. `paper_mse` is infinite where a row forecasts a constant: it is computed on signals that are divided by the sum of
# their steps. `mse_ratio` is the squared error over that of the mean of the context: below 1 is better than "it stays as it is".

# %%
table = make_table(results)
cells(table)

# %% [markdown]
# What the paper prints stands beside it, with the reasons why it can't be compared:

# %%
paper_table("table2").pivot_table(index="row", columns="column", values="mean", sort=False)

# %%
print(*(f"- {why}" for why in table.attrs["compared"]), sep="\n")

# %% [markdown]
# ## Who is better, and how sure is that
# **What to see:** a bar that does not touch the line at 0. The intervals are drawn over animals, their recordings and blocks of trials. Of two animals they say little of others.

# %%
found = statistics(results)
pairs = found["differences"]
with style():
    fig, axes = plt.subplots(1, 2, figsize=(9, 1.2 + 0.22 * len(pairs)), layout="constrained", sharey=True)
    plot_differences(pairs, "ratio_lower", ax=axes[0])
    plot_differences(pairs, "r_higher", ax=axes[1])
keep(
    fig,
    "differences",
    "Paired differences to the naive rows",
    "By how much each model's error is lower and its r higher than those of each naive row, with intervals",
)

# %% [markdown]
# Every run by itself: a model that is better on average may be worse on some recordings.

# %%
with style():
    fig, ax = plt.subplots(figsize=(6, 0.6 + 0.32 * results.runs["row"].nunique()), layout="constrained")
    plot_runs(results.runs, "mse_ratio", ax=ax)
keep(fig, "runs", "The error of every run", "The error ratio of each run, a row for each model, the colour is the stimulus")

# %% [markdown]
# ## Over all runs
# The leaderboard counts every run alike. Skill is 1 - the geometric mean of a row's error over that of the best naive row, so that the best naive row has 0; the win rate is the share of
# pairs (run, other row) in which the row has the lower error.

# %%
found["leaderboard"].drop(columns=["task"]).round(3)

# %% [markdown]
# ## How far ahead
# **What to see:** where a curve falls to 0. From there on, the best naive row does as well. The bands are 95 % intervals; `informative_s` is the last step before a band first meets 0. The
# other columns hold the skill in thirds of the neurons by the signal-to-noise ratio of their training traces, and in active and inactive windows.

# %%
skill = found["horizon"]
with style():
    fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
    models = [row for row in results.order if row not in table.attrs["naive"]]
    plot_skill_by_step(skill[skill["forecaster"].isin(models)].set_index(["forecaster", "time_s"]), ax=ax)
keep(fig, "horizon", "Skill by horizon", "Skill of each model against the best naive row at each step after the onset, with intervals")
ahead(skill, found["groups"]).round(3)

# %% [markdown]
# ## What is written for a paper
# `qf benchmark` writes the table as text, CSV, LaTeX and HTML, with the data's and the code's digests beside it. The text:

# %%
print(as_text(results, table, found))
