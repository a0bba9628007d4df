"""The interface of decoders: what is decoded, from which trials, and how the answer is labelled."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ...errors import QfError, UnknownKeyError, did_you_mean
from ...recordings.behaviour import behaviour_of
from ...recordings.trials import Trials
from ..interface import Estimator, Observations

COLUMNS = ("stimulus", "condition", "block")  # categories that every table of trials has, beside the features
MOST_CLASSES = 200


class Decoder(Estimator):
    """Reads behaviour frame by frame, or one category of the trial, from the activity of the population.

    A decoder is asked about whole windows: unlike in forecasting, `context` of its `Observations` holds the baseline and the response. Behaviour in a
    frame is decoded from this frame and earlier ones alone, a category from the frames of a named window.

    Attributes
    ----------
    variables : tuple of str
        Names of behaviours of the sessions, or of one column of the table of trials.
    classes : tuple of str
        The classes of the column in order, as `class_names` gives them; empty if behaviour is decoded.
    has_probability : bool
        Whether it gives each class a probability; else a score, of which the greatest wins.
    """

    task = "behaviour"
    name = "decoder"
    population = True
    variables: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    has_probability: bool = False

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        """Decode windows of one session.

        Parameters
        ----------
        asked : Observations
            `context` (trial, neuron, time) holds all frames of the windows.

        Returns
        -------
        float32 array
            Behaviour: (trial, variable, time), in the units of the variables and the order of `variables`. A category: (trial, class), the probability
            or the score of each class.
        """
        raise NotImplementedError

    def predict(self, trials: Trials) -> xr.Dataset:
        """Decode every trial.

        Parameters
        ----------
        trials : Trials

        Returns
        -------
        xarray.Dataset
            Behaviour: `decoded` (trial, behaviour, time), float32 in each variable's units, for every frame of the window; time is in seconds from the
            onset. A category: `decoded` (trial), str, and `probability` or `score` (trial, class).

        Raises
        ------
        QfError
            If the decoder is not fitted, or window, rate or session are not those of its fit.
        """
        if not self.classes:
            found = self.labelled(trials, lambda asked: {"decoded": (("trial", "behaviour", "time"), self.predict_arrays(asked))})
            return found.assign_coords(behaviour=list(self.variables))
        what, names = "probability" if self.has_probability else "score", np.array(self.classes, dtype=object)

        def answer(asked):
            values = self.predict_arrays(asked)
            return {"decoded": (("trial",), names[values.argmax(1)]), what: (("trial", "class"), values)}

        return self.labelled(trials, answer).assign_coords({"class": names}).assign_attrs(variable=self.variables[0])


def is_category(trials: Trials, variables: Sequence[str]) -> bool:
    """Whether `variables` name a category of the trials; False if they name behaviours of their sessions.

    Parameters
    ----------
    trials : Trials
    variables : sequence of str

    Returns
    -------
    bool

    Raises
    ------
    UnknownKeyError
        If a name is neither.
    QfError
        If categories are mixed with others, no name is given or one is given twice, or a session lacks a behaviour.
    """
    by_session = {s: set(behaviour_of(trials.source[s])) for s in trials.sessions}
    behaviours = set().union(*by_session.values())
    columns = {c for s in trials.sessions for c in trials.features_of(s)} | set(COLUMNS)
    if not variables or len(set(variables)) < len(variables):
        raise QfError(f"variables: expected names, each once, found {list(variables)}. Choose from {', '.join(sorted(behaviours | columns))}.")
    for name in variables:
        if name not in behaviours | columns:
            raise UnknownKeyError(
                f"variables: {name!r} is neither a behaviour of these sessions nor a column of their trials; "
                f"{did_you_mean(name, sorted(behaviours) + sorted(columns), most=20)}"
            )
    categories = [name for name in variables if name not in behaviours]
    if categories and len(variables) > 1:
        raise QfError(f"variables: expected behaviours, or one category alone, found {list(variables)}. Decode {categories[0]!r} apart.")
    for name in set(variables) - set(categories):
        lacking = [s for s, there in by_session.items() if name not in there]
        if lacking:
            raise QfError(
                f"variables: expected {name!r} in every session, found none in {lacking[0]}"
                f"{f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''}. Choose the sessions that have it, by session=[...]."
            )
    return bool(categories)


def class_names(values: Sequence) -> np.ndarray:
    """Values of a column as names of classes.

    Parameters
    ----------
    values : sequence of str, bool or numbers

    Returns
    -------
    object array of str, shape (trial,)
        "" where the value is missing.

    Examples
    --------
    >>> class_names([45.0, float("nan"), "go", True]).tolist()
    ['45', '', 'go', 'True']
    """

    def name(value):
        if isinstance(value, str | bool | np.bool_):
            return str(value)
        number = float(value)
        return "" if not np.isfinite(number) else f"{number:.15g}"

    return np.array([name(v) for v in values], dtype=object)


def behaviour_values(trials: Trials, variables: Sequence[str]) -> tuple[np.ndarray, list[bool]]:
    """The behaviour in the windows of one session.

    Parameters
    ----------
    trials : Trials
        Of one session.
    variables : sequence of str

    Returns
    -------
    values : float64 array, shape (trial, variable, time)
        NaN where it was not recorded, or no neuron was.
    events : list of bool
        Which of the variables are events.
    """
    ds = trials.dataset(behaviour=list(variables))
    values = np.stack([ds[v].values for v in variables], 1).astype(np.float64)
    values[~np.broadcast_to(ds["valid"].values.any(1)[:, None], values.shape)] = np.nan
    return values, [ds[v].attrs.get("kind") == "events" for v in variables]


def category_values(trials: Trials, variable: str) -> np.ndarray:
    """The class of each trial of one session, object array (trial,); "" if it is missing, or no neuron of the trial was recorded."""
    names = class_names(trials.table[variable].tolist())
    names[~trials.dataset()["valid"].values.any((1, 2))] = ""
    return names


def classes_in(trials: Trials, variable: str) -> tuple[str, ...]:
    """The classes of a column in training trials: numbers by their size, then texts.

    Raises
    ------
    QfError
        If a session shows fewer than 2 of them, or there are too many to be classes.
    """
    found = {}
    for part in trials.by_session():
        names = category_values(part, variable)
        mine = {str(n) for n in names if n}
        if len(mine) < 2:
            raise QfError(
                f"{variable}: expected at least two classes in the training part of {part.sessions[0]}, found {', '.join(mine) or 'none'}. "
                "Choose more trials, or leave the session out."
            )
        if len(mine) > min(MOST_CLASSES, sum(names != "") - 1):  # no trial shares its value with another
            raise QfError(
                f"{variable}: expected classes that trials share, found {len(mine)} values in {len(names)} training trials of {part.sessions[0]}. "
                "Choose another column."
            )
        found |= dict.fromkeys(mine)

    def rank(name):
        try:
            return (0, float(name), name)
        except ValueError:
            return (1, 0.0, name)

    return tuple(sorted(found, key=rank))


def window_frames(from_s: float | None, to_s: float | None, n_baseline: int, n_time: int, rate_hz: float) -> tuple[int, int]:
    """The frames of a window from `from_s` to `to_s`, seconds from the onset: the first one and one past the last.

    Raises
    ------
    QfError
        If it holds no frame, or reaches beyond the window of the trials.
    """
    start = n_baseline if from_s is None else n_baseline + round(from_s * rate_hz)
    stop = n_time if to_s is None else n_baseline + round(to_s * rate_hz)
    if not 0 <= start < stop <= n_time:
        name, value = ("from_s", from_s) if from_s is not None and (to_s is None or start < 0) else ("to_s", to_s)
        raise QfError(
            f"{name}: expected a window of at least a frame between {-n_baseline / rate_hz:g} and {(n_time - n_baseline) / rate_hz:g} s from the onset, "
            f"found {value} (frames {start} to {stop} of {n_time}). Choose from_s and to_s inside the window, from_s first."
        )
    return start, stop
