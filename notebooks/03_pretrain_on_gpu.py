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
# # Pre-training the auto-encoder, on a GPU or without
#
# **What is asked:** can a small alphabet of patterns, 32 codes, spell the activity of every neuron?
#
# **What is done:** a masked auto-encoder is trained on the windows of all stimuli together; it doesn't know which neuron or stimulus it sees (paper, 3.3). Cells
# are the same on a GPU and on a CPU; with `FAST = False` they take the paper's sizes, and a GPU is wanted.

# %% tags=["parameters"]
FAST = True  # small models, minutes on a CPU; False: the paper's sizes, for a GPU
STORE = None  # a folder of recordings (a store); None: a simulated mouse
STUDY = "study"  # the models that the notebooks share, trained where missing
FIGURES = "figures"
SEED = 0
DEVICE = "auto"  # cuda, cpu...

# %%
import json
import platform
import threading
from _thread import interrupt_main
from contextlib import suppress
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import xarray as xr
from IPython.display import display
from safetensors import SafetensorError, safe_open

import qf_toolkit as qf
from qf_toolkit.estimators.interface import origin
from qf_toolkit.plots.style import credit, save_figure
from qf_toolkit.plots.training import figure_training


def keep(fig, name, title, alt):
    """Save a figure, with its title and a description for those who can't see it."""
    save_figure(fig, Path(FIGURES) / name, title=title, alt=alt)


# %% [markdown]
# ## Where it runs

# %%
if torch.cuda.is_available():
    name, memory = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory / 2**30
    print(f"GPU: {name}, {memory:.0f} GiB; torch {torch.__version__}")
else:
    print(f"no GPU: {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; torch {torch.__version__}")

# %% [markdown]
# ## What it learns from
# The training parts of all stimuli. Neither validation nor test part shares a frame with them.

# %%
study = qf.Study(STUDY, store=STORE, fast=FAST, seed=SEED, device=DEVICE)
split = study.split()
split

# %% [markdown]
# ## Settings
# These go into `qf.pretrain`; change what you like, but keep what you train in a folder of its own then: a study refuses models of other settings. What is not
# named has the paper's value (`qf.QuantFormerConfig`).

# %%
settings = study.settings("autoencoder")
settings

# %% [markdown]
# ## Training, watched
# The bar shows the loss and the validation score as they come. After each epoch a checkpoint is written, from which the pictures of losses and codes below the
# bar are drawn while the training goes on.

# %%
folder = study.path("autoencoder")


def train(stop_after=None):
    """Pre-train with a live view; `stop_after` so many epochs as if the stop button had been pressed."""
    done, view = threading.Event(), display("the first epoch is running", display_id=True)

    def watch():
        shown = 0
        while True:
            last = done.wait(1)
            with suppress(OSError, SafetensorError), safe_open(folder / "checkpoint" / "checkpoint.safetensors", "pt") as file:
                history = json.loads(file.metadata()["qf"])["state"]["history"]
                uses = next(file.get_tensor(k) for k in file.keys() if k.startswith("model.") and k.endswith("quantizer.uses")).double()  # noqa: SIM118
                if len(history) > shown:
                    shown = len(history)
                    fig = figure_training(history, xr.DataArray(uses / uses.sum().clamp(min=1), dims="code"))
                    plt.close(fig)
                    view.update(fig)
                    if stop_after and shown >= stop_after:
                        return interrupt_main()
            if last:
                return None

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        qf.pretrain(split, checkpoint=folder / "checkpoint", **settings).save(folder)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        done.set()
        watcher.join()


if not (folder / "config.json").exists():
    train(stop_after=1)

# %% [markdown]
# ## Interrupted, and gone on with
# That was stopped after an epoch, as if you had pressed the stop button. Whoever runs the cell again goes on from the checkpoint, and ends at the same weights as if
# nothing had happened.

# %%
if not (folder / "config.json").exists():
    train()
autoencoder = study.autoencoder()  # trains what is missing, as above, and loads it
print(f"on {autoencoder.device}, {sum(p.numel() for p in autoencoder.module.parameters()):,} weights, {len(autoencoder.history)} epochs")

# %% [markdown]
# ## Did it learn?
# **What to see:** left, both losses fall and then flatten; a validation score that rises again would be over-fitting, and the epoch of the least one is kept.
# Right, how the patches of the validation part spread over the codes. A code book of which a few codes take everything has collapsed: `replace_below`
# gives codes that are hardly used a new place. Perplexity is how many codes it would be if all were used alike.

# %%
usage = autoencoder.code_usage(split.validation)
fig = figure_training(autoencoder.history, usage)
credit(fig, origin(split.validation, autoencoder))
keep(
    fig,
    "training",
    "Pre-training: losses and use of the codes",
    "Training loss and validation score by epoch; share of the patches that each code takes",
)

# %% [markdown]
# What this doesn't show: whether the codes are good for anything. How closely they render a trace is in `07_codes`, what forecasts they allow in
# `04_forecast`. On one GPU the paper's size takes minutes to an hour, as many observations as there are; the loop is one process on one device.
