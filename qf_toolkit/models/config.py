"""Sizes and constants of QuantFormer. Does not import torch, so that the command line starts fast."""

from dataclasses import dataclass

from ..errors import QfError
from .options import Options, option

STIM_TOKENS = ("auto", "condition", "category", "features")
DECODINGS = ("soft", "argmax", "sample")
MOST_WEIGHTS = 10**9  # of one model; the paper's has 2.4 million
MOST_PATCHES = 4096


@dataclass(frozen=True)
class QuantFormerConfig(Options):
    """Sizes and constants. The defaults are the paper's (4.2), or the released code's where the paper is silent; `models.quantformer` lists the exceptions.

    Raises
    ------
    QfError
        If a value is out of range, or values don't fit together.

    Examples
    --------
    >>> config = QuantFormerConfig(rate_hz=30.0, n_baseline=90, n_response=60, patch_frames=16)
    >>> config.baseline_patches, config.response_patches
    (6, 4)
    """

    rate_hz: float = option(30.0, above=0, most=1e6, help="frames a second")
    n_baseline: int = option(90, "whole", least=1, most=10**7, help="frames before the onset, padded to a whole number of patches")
    n_response: int = option(60, "whole", least=1, most=10**7, help="frames from the onset on, padded likewise")
    patch_frames: int = option(16, "whole", least=1, most=10**6, help="frames a patch")
    codes: int = option(32, "whole", least=2, most=10**6, help="in the codebook")
    width: int = option(128, "whole", least=1, most=10**5, help="of the model")
    layers: int = option(6, "whole", least=1, most=1000, help="of the encoder, and of the decoder")
    heads: int = option(8, "whole", least=1, most=10**5, help="of attention")
    mask_ratio: float = option(0.2, above=0, below=1, help="share of the patches taken by [MASK] in pre-training")
    redraw_masks: bool = option(True, "flag", help="draw a mask that hides nothing again; the paper doesn't")
    alpha: float = option(2.0, least=0, most=1e6, help="weight of the masked part in eq. 2")
    mean_weight: bool = option(True, "flag", help="divide the weights of eq. 2 by their mean over the batch; the paper doesn't")
    beta_most: float = option(100.0, above=0, most=1e9, help="cap of beta in eq. 2; the paper has none")
    dropout: float = option(0.0, least=0, below=1, help="of encoder and decoder in training")
    norm: str = option("post", "text", known=("post", "pre"), help="LayerNorm after or before each part of a block")
    residual_attention: bool = option(False, "flag", help="add a layer's scores of attention to the next layer's (released code)")
    quantise: bool = option(True, "flag", help="replace the encoder's outputs by codes; without, a plain auto-encoder (paper Table 3)")
    quantizer_beta: float = option(0.25, least=0, most=1, help="weight of the commitment")
    affine_lr: float = option(10.0, least=0, most=1e6, help="of the codebook's affine map")
    sync: float = option(0.2, least=0, most=1e6, help="share of the reconstruction's gradient that reaches the codes")
    replace_every: int = option(20, "whole", least=0, most=10**9, help="steps after which unused codes are replaced; 0: never")
    replace_below: float = option(0.0, least=0, below=0.5, help="replace codes that take less than this share of the patches; 0: unused ones")
    stim_token: str = option("auto", "text", known=STIM_TOKENS, help="what has a stimulus token in fits that don't say")

    def __post_init__(self):
        super().__post_init__()
        L = self.patch_frames
        if self.n_baseline < L or self.n_response < L:
            raise QfError(
                f"patch_frames: expected at most the frames of the baseline ({self.n_baseline}) and of the response ({self.n_response}) at "
                f"{self.rate_hz:g} Hz, found {L}. Take a smaller patch_frames or a longer window."
            )
        if self.patches > MOST_PATCHES:
            raise QfError(f"patch_frames: expected a window of at most {MOST_PATCHES} patches, found {self.patches}. Take a larger patch_frames.")
        if self.width % self.heads:
            raise QfError(f"heads: expected a divisor of width = {self.width}, found {self.heads}.")
        if self.quantise and self.replace_below >= 1 / self.codes:
            raise QfError(f"replace_below: expected a share from 0 to below 1 / codes = {1 / self.codes:.3g}, found {self.replace_below}.")
        if self.weights > MOST_WEIGHTS:
            raise QfError(
                f"width: expected a model of at most {MOST_WEIGHTS:.0e} weights, found about {self.weights:.0e} of width {self.width}, "
                f"layers {self.layers} and codes {self.codes}. Take fewer."
            )

    @property
    def weights(self):
        """About how many weights the auto-encoder has."""
        D = self.width
        return 2 * self.layers * (12 * D * D + 13 * D) + D * (self.codes * self.quantise + 2 * self.patch_frames + 2 * self.patches + 8)

    @property
    def first(self):
        """Frames of a window before those that are coded: none, since the first patch is padded."""
        return 0

    @property
    def baseline_patches(self):
        return -(-self.n_baseline // self.patch_frames)

    @property
    def response_patches(self):
        return -(-self.n_response // self.patch_frames)

    @property
    def patches(self):
        return self.baseline_patches + self.response_patches

    @property
    def patch_starts(self):
        """The start of each patch in seconds from the onset, a list of float. The onset lies on the edge between two patches."""
        return [(p - self.baseline_patches) * self.patch_frames / self.rate_hz for p in range(self.patches)]
