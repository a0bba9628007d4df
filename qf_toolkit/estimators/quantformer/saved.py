"""Checks of config.json of a saved QuantFormer."""

from dataclasses import fields

from ...models.config import STIM_TOKENS, QuantFormerConfig
from .. import schema
from .options import FitConfig

LATE = ("neuron_token",)  # options that older saved models lack; they have the default
AUTOENCODER = schema.record(
    {
        "model": schema.options(QuantFormerConfig, required=("rate_hz", "n_baseline", "n_response", "patch_frames", "codes", "width", "layers", "heads")),
        "window": schema.WINDOW, "normalise": schema.choice("neuron", "global", "none"), "scale": schema.DIVISORS, "seen": schema.SEEN, "history": schema.history,
        "scaling": schema.maybe(schema.scaling),
    },
    {"seed": schema.SEED, "simulated": schema.flag(optional=True), "reference": schema.maybe(schema.REFERENCE), "run": schema.maybe(schema.RUN)},
)  # fmt: skip


def fitted(own, results):
    """The check for config.json of a fitted forecaster or classifier.

    Parameters
    ----------
    own : sequence of str
        The options of `FitConfig` that the model saves.
    results : dict
        {attribute that is set after training: check}.

    Returns
    -------
    callable
        A check of `schema`.
    """
    checks = {f.name: schema.within(f.metadata["range"]) for f in fields(FitConfig) if f.name in own}
    late = {n: checks.pop(n) for n in LATE if n in checks}
    return schema.record(
        {
            "autoencoder": AUTOENCODER, "neurons": schema.KEYS, "stimuli": schema.KEYS, "scale": schema.DIVISORS, "window": schema.WINDOW, "seen": schema.SEEN, "history": schema.history,
            "chosen": schema.mapping(schema.number()), **checks, **results,
        },
        {**late, "stim_token": schema.choice(*STIM_TOKENS), "features": schema.listing(schema.FEATURE), "seed": schema.SEED, "reference": schema.maybe(schema.REFERENCE), "run": schema.maybe(schema.RUN)},
    )  # fmt: skip
