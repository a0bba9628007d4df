"""The page of a recording: what is in it, how forecastable it is, by whom and how surely, in one HTML file that needs no network."""

import html
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from .._version import __version__
from ..errors import QfError
from ..evaluation.options import EvaluateOptions
from ..models.options import refuse_unknown
from ..recordings.settings import USUAL
from ..recordings.store import Store
from . import recording_about as about
from .options import REPORT_SAMPLES
from .page_file import write_page
from .recording_advice import advise
from .recording_choice import Choice, choose_for
from .recording_facts import facts_of_recording
from .recording_neurons import neurons_of, reliability
from .recording_results import Results, calibration, examples, in_words, results_of, who
from .recording_skill import groups, horizon, horizon_in_words

TEMPLATE = "recording_page.html"
SIMULATED = "Every number on this page is of a simulated recording, not of an animal."
TALL = 900  # pixels of the page inside a notebook


class RecordingPage:
    """The page of a recording. In a notebook it shows itself.

    Attributes
    ----------
    html : str
        The whole page.
    short : list of str
        The page in a few sentences.
    choice : Choice
        Window, split and settings that were taken, and why.
    results : Results or None
        The scores behind the page; None if the recording permits no forecast.
    neurons : pandas.DataFrame or None
        SNR, explainable share and skill of each neuron (see `recording_neurons.neurons_of`); None if no window could be cut.
    path : Path or None
        Where it was saved last.
    """

    def __init__(self, html: str, short: list[str], choice: Choice, results: Results | None, neurons: pd.DataFrame | None) -> None:
        self.html, self.short, self.choice, self.results, self.neurons = html, short, choice, results, neurons
        self.path: Path | None = None

    def __repr__(self) -> str:
        return f"<RecordingPage: {len(self.html) / 1e6:.1f} MB{f', saved in {self.path}' if self.path else ''}>"

    def save(self, path: str | PathLike, overwrite: bool = False) -> Path:
        """Write the page, whole or not at all.

        Parameters
        ----------
        path : str or Path
        overwrite : bool
            Replace a file that is no page of the toolkit's.

        Returns
        -------
        Path

        Raises
        ------
        QfError
            If something else is there (unless `overwrite`), the disk is full, or the folder can't be written.
        """
        self.path = write_page(self.html, Path(path), overwrite)
        return self.path

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style and the notebook's don't mix."""
        return f'<iframe srcdoc="{html.escape(self.html)}" sandbox="" style="width: 100%; height: {TALL}px; border: 0" title="report"></iframe>'


def report(
    store: "Store | str | PathLike",
    models: Sequence[Any] = (),
    *,
    out: "str | PathLike | None" = None,
    overwrite: bool = False,
    n_samples: int = REPORT_SAMPLES,
    seed: int = EvaluateOptions.seed,
    progress: bool = False,
    **options: Any,
) -> RecordingPage:
    """Make the page of a recording: what is in it, and how far ahead, by whom and how surely it can be forecast.

    The window is the usual one, or the longest that the trials hold; recordings without trials get sliding windows. Tested is the last block, or
    without blocks the last third of each session. The page says what was taken. The test part is forecast once.

    Parameters
    ----------
    store : Store, str or Path
    models : str or Path, or sequence of Forecaster, str or Path
        Fitted forecasters, or folders of saved ones, shown beside the naive rows. The window and the split are those of the first, if it was fitted
        by the command line.
    out : str or Path, optional
        Where the page is written. If None, it is not.
    overwrite : bool
        Replace a file at `out` that is no page of the toolkit's.
    n_samples : int
        Samples of each forecast for the calibration; 0 leaves it out.
    seed : int
        Seed of the samples and of the bootstrap.
    progress : bool
        Show a bar while the sessions are forecast.
    **options
        Any option of choosing, cutting and splitting (stimulus, session, baseline_s, response_s, windows, split...), as `Store.trials` and the splits
        take them.

    Returns
    -------
    RecordingPage

    Raises
    ------
    LeakageError
        If a model saw a frame of the test part in training.
    QfError
        If an option is unknown or out of range, a model is no forecaster or has another window, the store holds no session, or `out` holds something
        that the toolkit did not write.

    Examples
    --------
    >>> page = report(store, n_samples=0)
    >>> page.save("recording.html").name
    'recording.html'
    """
    refuse_unknown("report", options, list(USUAL))
    how = EvaluateOptions(n_samples=n_samples, seed=seed)
    models = [models] if isinstance(models, str | PathLike) else models
    store = Store(store) if isinstance(store, str | PathLike) else store
    if not store.keys():
        raise QfError(f"{store.path}: expected a store with at least one session, found none. Import one with `qf import`.")
    with warnings.catch_warnings(record=True) as said:  # what is said on the way stands on the page
        warnings.simplefilter("always")
        fitted = [_loaded(model) for model in models]
        base = _settings_of(fitted[0], store) if fitted else None
        choice = choose_for(store, options, base)
        facts = facts_of_recording(store, choice)
        advised = advise(facts, choice)
        results = results_of(choice, fitted, n_samples=how.n_samples, seed=how.seed, progress=progress) if choice.split is not None else None
        neurons = neurons_of(choice, results) if choice.trials is not None else None
    notes = list(dict.fromkeys(" ".join(str(w.message).split()) for w in said if issubclass(w.category, UserWarning)))
    if results is None:
        found, middle = [f"There is no forecast on this page: {choice.missing}"], []
    else:
        found = [*in_words(results, choice), *horizon_in_words(results, choice)]
        middle = [horizon(results, choice), who(results, choice), groups(results, choice), calibration(results), examples(results, choice)]
    sections = [
        about.contents(facts, choice),
        *([reliability(neurons, choice, results)] if neurons is not None else []),
        *middle,
        about.advice(advised),
        about.provenance(store.path, facts, choice, {"seed": how.seed, "samples of each forecast": how.n_samples}, notes),
    ]
    short = about.in_short(facts, choice, found, advised)
    title, simulated = store.path.resolve().name, SIMULATED if facts.simulated else ""
    page = RecordingPage(
        _rendered(title=title, version=__version__, simulated=simulated, short=short, sections=sections), short, choice, results, neurons
    )
    if out is not None:
        page.save(out, overwrite)
    return page


def _rendered(**content):
    """The page as HTML; every name from a recording is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return env.get_template(TEMPLATE).render(**content)


def _loaded(model):
    """The forecaster, or the one saved in a folder."""
    found, where = model, ""
    if isinstance(model, str | PathLike):
        from ..estimators.registry import load

        found, where = load(model), f" in {model}"
    if getattr(found, "task", None) != "forecast":
        raise QfError(f"model: expected fitted forecasters, found a {type(found).__name__}{where}. Leave it out.")
    return found


def _settings_of(model, store):
    """The settings that a model was fitted with; of one fitted from Python the window and the conditions are known."""
    if model.run is not None:
        return model.run["settings"]
    settings = asdict(model.window)
    if model.has_tokens and len(store.index):
        present = store.index["condition"]
        if lacking := set(model.tokens.lacking(present)):
            settings["condition"] = sorted(set(present) - lacking) or None
    return settings
