"""Options of choosing trials, cutting windows and splitting. This module imports neither numpy nor xarray, so that the command line starts fast."""

import numbers
from dataclasses import dataclass
from typing import Any

from ..errors import QfError
from ..models.options import Options, Range, option

TARGETS = ("dff", "zscore")
ACTIVE_RULES = ("gain", "abs_dff")
LONGEST_S = 3600  # seconds; the longest part of a window
A_DAY_S = 86400
SPLITS = ("blocks", "chronological", "subject", "stimulus")
INDEX = "See what there is with store.index (qf info)."
SECONDS = {"above": 0, "most": LONGEST_S, "noun": "seconds"}
KEYS = {"optional": True, "several": True, "noun": "text", "hint": INDEX}


@dataclass(frozen=True)
class Selection(Options):
    """Which trials and neurons are taken; all of what is left out."""

    stimulus: tuple | None = option(None, "text", **KEYS, help="stimulus categories")
    condition: tuple | None = option(None, "text", **KEYS, help="conditions, stimulus/feature=value,...")
    session: tuple | None = option(None, "text", **KEYS, help="sessions, subject/session")
    subject: tuple | None = option(None, "text", **KEYS, help="subjects")
    block: tuple | None = option(None, "whole", **{**KEYS, "noun": "whole numbers"}, help="blocks, by their numbers")
    neurons: tuple | None = option(None, "text", **KEYS, help="keys of neurons; flagged ones stay out")
    strict: bool = option(False, "flag", help="refuse where anything would be left out, a flagged neuron say")


@dataclass(frozen=True)
class WindowOptions(Options):
    """The window around an onset, and what is computed from it."""

    baseline_s: float = option(3.0, **SECONDS, flag="baseline", help="seconds before the onset (paper 4.2)")
    response_s: float = option(2.0, **SECONDS, flag="response", help="seconds from the onset on (paper 4.2)")
    f0_s: float | None = option(None, **SECONDS, optional=True, flag="f0", help="F0 is the mean of the baseline's last seconds; 2, or all of a "
                                "shorter baseline, where left out (the paper is silent, the released code takes 2)")  # fmt: skip
    score_s: float | str | None = option(None, **SECONDS, words=("paper",), optional=True, flag="score", help="seconds of the response that are "
                                         "labelled and scored, all of it where left out; paper: by stimulus (Table A-1), 2 s for drifting "
                                         "gratings, 0.5 s for images, static gratings and noise")  # fmt: skip
    signal: str = option(
        "dff", "text", known=TARGETS, help="what is forecast: dF/F of the window, or the stored trace's z-score, by the training part"
    )
    active_rule: str = option("gain", "text", known=ACTIVE_RULES, help="what is active: mean dF/F of at least active_gain (paper 3.2), or mean of its "
                              "absolute value above it (released code)")  # fmt: skip
    active_gain: float = option(0.10, least=-1e6, most=1e6, noun="a fraction", hint="The paper's is 0.10.", help="fraction of F0 that makes active")


@dataclass(frozen=True)
class SlideOptions(Options):
    """Windows at a regular step, on continuous recordings."""

    length_s: float = option(5.0, **SECONDS, flag="length", help="seconds of a window, its response included")
    every_s: float | None = option(None, **SECONDS, optional=True, flag="every", help="seconds from the beginning of a window to that of the next; "
                                   "those of the response where left out, so that each frame is forecast once")  # fmt: skip
    epoch: tuple | None = option(None, "text", **KEYS, help="only inside stretches of these stimuli, spontaneous activity for example")


@dataclass(frozen=True)
class Windows(SlideOptions):
    """Windows around onsets, or sliding ones: at a regular step, on continuous recordings."""

    windows: str = option("onsets", "text", known=("onsets", "sliding"), help="around the onsets of trials, or sliding over continuous recordings")


@dataclass(frozen=True)
class SplitOptions(Options):
    """How trials are divided into training, validation and test part."""

    split: str = option("blocks", "text", known=SPLITS, help="test on a block, on the end of every session, or on one subject or stimulus")
    test: float | None = option(
        None, optional=True, help="position of the test block (-1, the last), or share of a session's trials that is tested (1/3)"
    )
    validation: float = option(0.15, above=0, below=1, noun="a share", hint="Pass 0.15, say.", help="share of each training block, its end")
    gap_s: float | None = option(None, least=0, most=A_DAY_S, noun="seconds", optional=True, flag="gap", help="chronological: seconds between training "
                                 "and test, a window's length where left out")  # fmt: skip
    leave_out: str | None = option(None, "text", optional=True, help="subject, stimulus: which one is tested")

    def __post_init__(self):
        if self.test is not None and self.split in TESTED:
            object.__setattr__(self, "test", check_test(self.split, self.test))
        super().__post_init__()
        by_name = self.split in ("subject", "stimulus")
        if self.gap_s is not None and self.split != "chronological":
            raise QfError("gap_s: expected only with split chronological; blocks are apart as recorded. Leave it out.")
        if self.test is not None and by_name:
            raise QfError(
                f"test: expected only with split blocks or chronological, found {self.test}. Name by leave_out which {self.split} is tested."
            )
        if (self.leave_out is not None) != by_name:
            raise QfError("leave_out: expected with split subject or stimulus, and with these alone. It names the one that is tested.")


TESTED = {
    "blocks": Range("whole", least=-(10**9), most=10**9, noun="a whole number (position of a block)", hint="Pass -1 for the last block."),
    "chronological": Range("number", above=0, below=1, noun="a share", hint="Pass 0.15, say."),
}


def check_test(split: str, test: Any) -> Any:
    """Check the option `test` of a rule of splitting.

    Parameters
    ----------
    split : {"blocks", "chronological"}
    test : int or float
        Position of the test block, or share of a session's trials that is tested.

    Returns
    -------
    int or float

    Raises
    ------
    QfError
        If `test` is of another kind or out of range.
    """
    whole = isinstance(test, numbers.Real) and not isinstance(test, numbers.Integral) and float(test).is_integer()
    return TESTED[split].checked("test", int(test) if whole else test)


SETTINGS = (Selection, WindowOptions, Windows, SplitOptions)
"""The options that decide which observations a model is trained and tested on; config.json of a model keeps their values."""
