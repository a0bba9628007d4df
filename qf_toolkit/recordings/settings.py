"""The options of choosing, cutting and splitting as one mapping of plain values: made whole, and turned into trials and their split.

The command line, saved models and pages exchange them in this form. This module imports neither numpy nor xarray at its top, so that the command line
starts fast.
"""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..errors import QfError
from ..models.options import defaults
from .options import SETTINGS, Selection, SlideOptions, SplitOptions, WindowOptions

if TYPE_CHECKING:
    from .splits import Split
    from .store import Store
    from .trials import Trials

USUAL = {name: value for kind in SETTINGS for name, value in defaults(kind).items()}
SLIDING = {"baseline_s": "length_s", "stimulus": "epoch", "condition": "epoch", "block": "session"}  # what is chosen by what, without onsets


def whole_settings(given: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All settings: those given, over those of `base`, over the defaults.

    Parameters
    ----------
    given : dict
        {name: value} of options of `SETTINGS`.
    base : dict, optional
        Those of a saved model, for example.

    Returns
    -------
    dict
        {name: value} of all `SETTINGS`.

    Raises
    ------
    QfError
        If an option of sliding windows is given for windows around onsets, or the other way round.

    Examples
    --------
    >>> whole_settings({"response_s": 1.0})["baseline_s"]
    3.0
    """
    settings = {**USUAL, **(base or {}), **given}
    sliding = settings["windows"] == "sliding"
    for name in [name for name, value in given.items() if name in USUAL and value != USUAL[name]]:
        if not sliding and name in defaults(SlideOptions):
            raise QfError(f"{name}: expected only with windows sliding (--windows sliding). Leave it out.")
        if sliding and name in SLIDING:
            raise QfError(f"{name}: expected only around onsets; sliding windows are chosen by {SLIDING[name]}. Leave it out.")
    return settings


def _of(kind, settings):
    return {name: settings[name] for name in defaults(kind)}


def trials_by(store: "Store | str | PathLike", settings: Mapping[str, Any]) -> "Trials":
    """The trials of a store that settings choose, cut by its window.

    Parameters
    ----------
    store : Store, str or Path
    settings : dict
        Of all `SETTINGS`.

    Returns
    -------
    Trials

    Raises
    ------
    QfError
        As `trials.cut` or `sliding.slide`.
    """
    from .store import Store

    store = Store(store) if isinstance(store, str | PathLike) else store
    how = {**_of(Selection, settings), **_of(WindowOptions, settings)}
    if settings["windows"] == "onsets":
        return store.trials(**how)
    return store.windows(**{n: v for n, v in how.items() if n not in SLIDING}, **_of(SlideOptions, settings))


def split_by_settings(store: "Store | str | PathLike", settings: Mapping[str, Any]) -> "Split":
    """The trials of a store and their split, from the options that config.json keeps.

    Parameters
    ----------
    store, settings
        As for `trials_by`.

    Returns
    -------
    Split

    Raises
    ------
    QfError
        As `trials_by` and `splits.split_by`.
    """
    from .splits import split_by

    how = SplitOptions(**_of(SplitOptions, settings))
    return split_by(trials_by(store, settings), how)
