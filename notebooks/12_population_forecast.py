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
# # A whole population at once
#
# **What is asked:** do a neuron's neighbours say where it goes next? A model of single neurons can't know; a model of the population can.
#
# **What is done:** CalM codes each neuron's trace and forecasts the codes of all neurons together, token by token. It stands beside POCO and NLinear, the naive rows, and an upper bound
# that only a simulation has: the true state of the network, rolled on with fresh noise. Then two pictures: who looks at whom, and the population itself, recorded and forecast.
#
# The tables of a paper are made from a shell: `qf benchmark calm-simulation --seeds 3 --workers 2`, or with `--store` on your own recordings.

# %% tags=["parameters"]
FAST = True  # small models, minutes on a CPU; False: the authors' sizes, for a GPU
STORE = None  # a folder of recordings (a store); None: simulated networks
STUDY = "study"  # the models are kept in its folder `population`
FIGURES = "figures"
SEED = 0

# %%
from pathlib import Path

import qf_toolkit as qf
from qf_toolkit.estimators.ceiling import RolloutBound
from qf_toolkit.interpret.population import population_view
from qf_toolkit.interpret.population_attention import against_connections, neuron_attention
from qf_toolkit.plots.population import figure_neuron_attention, figure_population
from qf_toolkit.plots.style import save_figure
from qf_toolkit.recordings.simulated.cortex import load_truth
from qf_toolkit.study.population import PopulationStudy
from qf_toolkit.widgets import PopulationViewer


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %%
study = PopulationStudy(Path(STUDY) / "population", store=STORE, fast=FAST, seed=SEED, progress=False)
split = study.split()
split

# %% [markdown]
# ## The models
# The quantiser is trained first, on single neurons; the transformer then learns which code follows, from all neurons of a session. `chosen` holds the squared error on validation of
# each way to go on from a context.

# %%
model = study.forecaster()
print(model.name, model.decode, {how: round(error, 3) for how, error in model.chosen.items()})
{name: round(float(value), 1) for name, value in study.quantizer().code_usage(split.validation).attrs.items() if name in ("perplexity", "codes_used")}

# %% [markdown]
# ## The table
# **What to see:** `r` and `poco` (1 - squared error over that of the last value) above those of the models of single neurons, `mse_ratio` below. The upper bound knows the true state,
# which no model can know. The networks are simulated, and small models were trained for some hundred steps: the order may differ on your recordings.

# %%
rows = [model, study.peer("poco"), study.peer("nlinear"), *([RolloutBound()] if STORE is None else [])]
table = qf.evaluate(rows, split, n_samples=0)
table[["r", "poco", "mse_ratio"]].round(3)

# %% [markdown]
# ## The population, recorded and forecast
# One trial of the test part: each row is a neuron, sorted by when the recorded neuron peaks. Grey tells what is beyond the scale.

# %%
part = split.test.by_session()[0]
few = part.subset(range(min(8, len(part))))
forecast = model.predict(few)
view = population_view(few.dataset(), forecast, int(few.table["trial"].iloc[0]))
fig = figure_population(view)
keep(
    fig, "population", "A population, recorded and forecast", "Rasters of all neurons in one trial: recorded, forecast by CalM, and their difference"
)

# %% [markdown]
# ## Who looks at whom
# Attention over neurons, mean over trials and tokens. Beside it, where the truth is known, the strongest true connections. **What to see:** whether what a neuron looks at is what drives
# it. `p` is the share of shuffled neurons that do as well; attention is no proof of a connection.

# %%
attention = neuron_attention(model, few)
truth = None
if STORE is None:
    with load_truth(study.store, part.sessions[0]) as ds:
        truth = ds.load()
compared = None if truth is None else against_connections(attention, truth)
fig = figure_neuron_attention(attention, truth, compared)
keep(fig, "attention", "Who looks at whom", "Matrix of the attention between neurons, and the network's true connections")
compared

# %% [markdown]
# ## To look at
# Choose a session, a trial and how neurons are sorted; a click on a neuron shows its trace.

# %%
PopulationViewer([model, study.peer("poco")], part)
