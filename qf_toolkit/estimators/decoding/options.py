"""Options of decoders. Does not import torch, so that the command line starts fast."""

from dataclasses import dataclass

from ...models.options import Options, option
from ...recordings.options import LONGEST_S

DECODERS = ("ridge", "reduced_rank", "glm", "svm", "mean", "backbone", "probe")
OVER_STATES = ("backbone", "probe")
"""Of DECODERS, those that read the states of a backbone."""
HEAD_LOOP = {
    "epochs": 200, "lr": 3.6e-3, "weight_decay": 1e-2, "optimiser": "adamw", "schedule": "cosine", "schedule_by": "step", "warmup": 0.1, "batch_size": 32,
}  # fmt: skip
"""The defaults of a head's training (CalM's released code, but for the batches, of which it does not tell)."""


@dataclass(frozen=True)
class DecodingWindow(Options):
    """From which frames a category of the trial is decoded."""

    from_s: float | None = option(None, least=-LONGEST_S, most=LONGEST_S, noun="seconds", optional=True, flag="from", help="a category of the trial is "
                                  "read from here on, seconds from the onset; the onset where left out")  # fmt: skip
    to_s: float | None = option(None, least=-LONGEST_S, most=LONGEST_S, noun="seconds", optional=True, flag="to", help="and up to here; the end of the "
                                "response where left out")  # fmt: skip


@dataclass(frozen=True)
class TraceOptions(DecodingWindow):
    """How decoders of traces read them."""

    lag_s: float = option(0.5, least=0, most=LONGEST_S, noun="seconds", flag="lag", help="behaviour in a frame is read from this frame and so many "
                          "seconds before it")  # fmt: skip
    bins: int = option(
        4, "whole", least=1, most=1000, help="time bins, at most, in which those frames, or those of a category's window, are averaged"
    )


@dataclass(frozen=True)
class HeadOptions(DecodingWindow):
    """The head over the states of a backbone."""

    rank: int = option(16, "whole", least=1, most=10**4, help="values a neuron that the states are projected to")
    head_dropout: float = option(0.5, least=0, below=1, help="of these values in training")
    smooth: int = option(0, "whole", least=0, most=10**4, help="frames over which the decoded behaviour is smoothed by learnt weights, the present and "
                         "past ones; 0: none")  # fmt: skip
    within: bool = option(
        False, "flag", help="a frame may take the state of the token it lies in, which has seen the token's later frames; the paper does"
    )
