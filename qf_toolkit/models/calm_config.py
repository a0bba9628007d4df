"""Sizes and constants of CalM's two parts. Does not import torch, so that the command line starts fast."""

from dataclasses import dataclass

from ..errors import QfError
from .options import Options, option

PATCH_FRAMES = 4  # two halvings by convolutions (code)
TOKENS = ("codes", "patches")


@dataclass(frozen=True)
class QuantizerConfig(Options):
    """CalM's neural quantiser. The defaults are the released code's; `models.calm` lists the exceptions."""

    codes: int = option(128, "whole", least=2, most=10**6, help="in the codebook")
    width: int = option(512, "whole", least=2, most=10**5, help="of latents and codes")
    layers: int = option(4, "whole", least=0, most=1000, help="of the encoder, and of the decoder")
    heads: int = option(4, "whole", least=1, most=10**5, help="of attention over time")
    dropout: float = option(0.2, least=0, below=1, help="of attention, in training")
    smooth: float = option(0.1, least=0, below=1, help="share of the latent before that enters each latent")
    pearson: float = option(0.5, least=0, most=1e6, help="weight of 1 - Pearson beside the squared error")
    codebook: float = option(1.0, least=0, most=1e6, help="weight of the codes' distance to the latents, by which codes move")
    commitment: float = option(0.5, least=0, most=1e6, help="weight of the latents' distance to their codes, by which latents move")
    orthogonality: float = option(5e-6, least=0, most=1e6, help="weight of the codes' products with each other")
    usage: float = option(0.5, least=0, most=1e6, help="weight of the entropy, in bits, of the batch's mean assignment to codes")
    change: float = option(5e-2, least=0, most=1e6, help="weight of the latents' squared first differences")
    curve: float = option(5e-4, least=0, most=1e6, help="weight of the latents' squared second differences")
    hot: float = option(2.5, above=0, most=1e6, help="temperature of the random assignment in the first epoch")
    cold: float = option(0.01, above=0, most=1e6, help="temperature at the end")
    cooling: float = option(0.8, above=0, most=1, help="share of the epochs in which the temperature falls, geometrically")
    decay: float = option(0.99, least=0, below=1, help="by which codes follow the mean of their latents, per step; 0: not at all")
    reset_every: int = option(10, "whole", least=0, most=10**9, help="epochs after which little used codes become random latents; 0: never")
    reset_below: float = option(0.2, least=0, below=1, help="of the mean use: codes used less are reset")
    recluster_every: int = option(
        20, "whole", least=0, most=10**9, help="epochs after which codes are clustered anew, while the temperature falls; 0: never"
    )
    kmeans: bool = option(True, "flag", help="start the codes as the cluster centres of latents, after an epoch without codes")

    def __post_init__(self):
        super().__post_init__()
        if self.width % (2 * self.heads):
            raise QfError(f"heads: expected a divisor of width / 2 = {self.width / 2:g}, found {self.heads}.")


@dataclass(frozen=True)
class DualAxisConfig(Options):
    """CalM's dual-axis transformer. The defaults are the released code's."""

    width: int = option(256, "whole", least=2, most=10**5, help="of the model")
    layers: int = option(4, "whole", least=1, most=1000, help="each of which attends over time, then over neurons")
    heads: int = option(4, "whole", least=1, most=10**5, help="of each attention")
    dropout: float = option(0.25, least=0, below=1, help="of embeddings and of what is added to them, in training")
    attention_dropout: float = option(0.25, least=0, below=1, help="of attention, in training; on a CPU, steps without take half the time")
    neuron_attention: bool = option(True, "flag", help="attend over neurons; without, each neuron is forecast by itself")
    replace: float = option(0.1, least=0, below=1, help="share of the tokens that a training step replaces by a code near to them")
    replace_among: int = option(12, "whole", least=1, most=10**6, help="nearest codes, of which one takes a replaced token's place")
    own_share: float = option(0.6, least=0, most=1, help="of the training steps that put the model's own guesses in the place of a block of tokens")
    own_tokens: int = option(6, "whole", least=1, most=10**6, help="of that block")
    untold: float = option(0.25, least=0, most=1, help="share of the trials whose condition a training step withholds")

    def __post_init__(self):
        super().__post_init__()
        if self.width % (2 * self.heads):
            raise QfError(f"heads: expected a divisor of width / 2 = {self.width / 2:g}, found {self.heads}.")
