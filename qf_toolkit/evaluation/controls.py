"""Negative controls: where a recording holds nothing to be forecast, nobody may forecast it. Who still wins there, leaks.

Every row is fitted anew on what a control leaves of the recording, and its error is compared with what an honest row can reach there at best:

====================  ============================================  ===============================================================================
control               what rows are fitted and asked on             where the error must be, and why
====================  ============================================  ===============================================================================
conditions shuffled   conditions permuted within session, category  Asked about the baselines of other trials, at least that of the mean. Baseline
                      and block                                     and condition are then both of no use: the stimulus mean (PSTH), too, is no
                                                                    better than the mean over all trials, frame by frame.
surrogates            traces with the same power spectrum and       Asked about the baselines of other trials, at least that of the mean: no
                      random phases                                 stimulus drives a surrogate, so there is no stimulus-locked part. (With its own
                                                                    baseline a ridge rightly beats the mean, as a spectrum tells how a trace goes on.)
responses exchanged   baselines with responses of other trials      At least that of the mean. This is the control of everything: no baseline,
                      (for classifiers: with their labels)          condition or trial number tells of the response behind it.
other neurons         the recording; asked under keys of other      At least that of the same row under the right keys. A row that keeps no keys
                      neurons                                       has the same.
reversed context      the recording; asked with baselines that run  At least that of the same row with baselines as they were. A row that only
                      backwards                                     averages them has the same; ridges and networks lose.
====================  ============================================  ===============================================================================

"The mean" is that of the tested trials themselves, for each session, neuron and frame (or label). It is known only afterwards: every forecast that is
independent of the response has at least its error, so that honest rows stay above it even if they shrink or smooth better than a mean of training trials
can. The price is that a leak of less than about 1 / trials of the variance stays hidden.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import LeakageError, QfError
from ..estimators.interface import Classifier, Estimator, Forecaster, Observations
from ..estimators.naive import scored_whole
from ..estimators.rows import naive_classifiers, naive_forecasters
from ..recordings.splits import Split, split_blocks
from ..recordings.surrogates import exchanged_responses, other_contexts, phase_randomised, shuffled_conditions
from ..recordings.trials import Trials, check_trials
from .measured import forecast_of, truth_of
from .significance import animal_of, blocks_of, intervals, macro_means

LEVEL = 0.99  # of the intervals: with some fifty tests a table, honest rows would leave one of 95 % by chance
RECORDED = "as recorded"


Answer = Callable[[Observations], np.ndarray]


def other_neurons(answer: Answer, asked: Observations, seed: int = 0) -> np.ndarray:
    """What a row answers if each neuron's baseline stands under the key of another neuron, chosen at random.

    Parameters
    ----------
    answer : callable
        `predict_arrays` of a row.
    asked : Observations
    seed : int

    Returns
    -------
    float32 array, shape (trial, neuron, ...)
        In the order of the baselines.
    """
    order = np.random.default_rng(seed).permutation(len(asked.neurons))
    under = np.empty_like(order)
    under[order] = np.roll(order, 1)  # along one cycle, so that none keeps its own key
    given = np.argsort(under)
    valid = None if asked.valid is None else asked.valid[:, given]
    return answer(replace(asked, context=asked.context[:, given], valid=valid))[:, under]


def reversed_context(answer: Answer, asked: Observations, seed: int = 0) -> np.ndarray:
    """What a row answers if the baselines, and the behaviour in them, run backwards; arguments and result as of `other_neurons`."""
    valid = None if asked.valid is None else asked.valid[..., ::-1]
    return answer(replace(asked, context=asked.context[..., ::-1], valid=valid, behaviour={k: v[..., ::-1] for k, v in asked.behaviour.items()}))


@dataclass(frozen=True)
class Control:
    """A negative control.

    Attributes
    ----------
    name : str
    made : callable, optional
        (Trials, seed) -> the Trials that rows are fitted and asked on; the recording itself if None.
    shown : callable, optional
        (Trials, seed) -> what is asked about in place of the tested trials.
    asked : callable, optional
        (answer, Observations, seed) -> the answer to another question. Its error is then compared with that of the right answer.
    """

    name: str
    made: Callable[[Trials, int], Trials] | None = None
    shown: Callable[[Trials, int], Trials] | None = None
    asked: Callable[[Answer, Observations, int], np.ndarray] | None = None


CONTROLS = (
    Control("conditions shuffled", made=shuffled_conditions, shown=other_contexts),
    Control("surrogates", made=phase_randomised, shown=other_contexts),
    Control("responses exchanged", made=exchanged_responses),
    Control("other neurons", asked=other_neurons),
    Control("reversed context", asked=reversed_context),
)


def controls(
    makers: Mapping[str, Callable[[Split], Any]],
    trials: Trials,
    *,
    task: str = "forecast",
    split: Callable[[Trials], Split] = split_blocks,
    naive: bool = True,
    seed: int = 0,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Fit and score rows under the negative controls of this module.

    Parameters
    ----------
    makers : mapping of str to callable
        By name, Split -> a newly fitted forecaster or classifier. The whole of a training belongs inside, its choices included.
    trials : Trials
        Its test part is scored under each control. To keep a recording's own test part unread, pass the trials without it.
    task : {"forecast", "activation"}
    split : callable
        Trials -> Split, for the recording and for what each control makes of it.
    naive : bool
        Whether the naive rows of the task are among the rows.
    seed : int
        Seed of what is shuffled, and of the bootstrap.
    level : float
        Level of the intervals, between 0 and 1.

    Returns
    -------
    pandas.DataFrame
        One row per control and row, and per row as recorded. Columns:

        - control, row: str;
        - score: squared error over that of the mean of the tested trials (see above), mean over sessions; 1 is the mean itself, 0 a forecast without
          error. For classifiers the error is that of the probability (Brier);
        - least: where the score must be at least: 1, or the same row's score when it is asked rightly; NaN as recorded;
        - better, better_from, better_to: by how much the score lies below that (as recorded, below 1), and its interval from a paired bootstrap over
          animals, sessions and blocks of trials;
        - passed: False if better_from is above 0, or if the row says that it saw the tested trials; None where nothing was tested;
        - note: why a score is missing, else "".

    Raises
    ------
    QfError
        If the task is unknown, a maker has the name of a naive row, or no observation can be scored.

    Examples
    --------
    >>> table = controls({}, trials)
    >>> table["control"].unique().tolist()
    ['as recorded', 'conditions shuffled', 'surrogates', 'responses exchanged', 'other neurons', 'reversed context']
    >>> suspicious(table)
    []
    """
    check_trials(trials)
    if task not in TASKS:
        raise QfError(f"task: expected one of {', '.join(TASKS)}, found {task!r}.")
    makers = {**makers}
    for row in TASKS[task].naive() if naive else ():
        if row.name in makers:
            raise QfError(f"{row.name!r}: expected a name of its own, found that of a naive row. Pass another name, or naive=False.")
        makers[row.name] = lambda split, row=row: deepcopy(row).fit(split)
    recorded = split(trials)
    fitted = {name: _fitted(make, recorded) for name, make in makers.items()}
    right = {name: _tried(row, lambda row: _errors(row, recorded.test, recorded.test, task)) for name, row in fitted.items()}
    found = [_line(RECORDED, name, errors, None, seed, level) for name, errors in right.items()]
    for control in CONTROLS:
        here = recorded if control.made is None else split(control.made(trials, seed))
        shown = here.test if control.shown is None else control.shown(here.test, seed)
        for name, make in makers.items():
            row = fitted[name] if control.made is None else _fitted(make, here)
            errors = _tried(row, lambda row, c=control, h=here, s=shown: _errors(_asked(row, c, seed), h.test, s, task))
            least = right[name] if control.asked else MEAN
            found.append(_line(control.name, name, errors, least, seed, level))
    return pd.DataFrame(found)


def suspicious(table: pd.DataFrame) -> list[str]:
    """The rows of a table of `controls` that forecast what can't be forecast: they leak, or are told what they should not know.

    Parameters
    ----------
    table : pandas.DataFrame

    Returns
    -------
    list of str
        Names of the rows that failed a control, each once.
    """
    return list(dict.fromkeys(table.loc[table["passed"].eq(False), "row"]))


MEAN = "mean"  # in place of the errors of a row


@dataclass(frozen=True)
class _Errors:
    """Squared errors of a row and of the mean of the tested trials, float64 (block,), and the table of the blocks."""

    row: np.ndarray
    mean: np.ndarray
    units: pd.DataFrame


def _fitted(make, split):
    """A fitted row, or the QfError for which there is none."""
    try:
        row = make(split)
        row.check_unseen(split.test)
    except QfError as error:
        return error
    return row


def _tried(row, score):
    """`score(row)`, or the QfError for which there is none."""
    if isinstance(row, QfError):
        return row
    try:
        return score(row)
    except QfError as error:
        return error


def _asked(row, control, seed):
    if control.asked is None:
        return row
    if not row.has_arrays:
        raise QfError("reads more than a question holds: it can't be asked another")
    return TASKS[row.task].asked(row, lambda asked: control.asked(row.predict_arrays, asked, seed))


def _line(control, name, errors, least, seed, level):
    """One row of the table."""
    line = {"control": control, "row": name, "score": np.nan, "least": np.nan, "better": np.nan, "better_from": np.nan, "better_to": np.nan,
            "passed": None, "note": ""}  # fmt: skip
    for problem in (errors, least):
        if isinstance(problem, QfError):
            return {**line, "note": str(problem), "passed": False if isinstance(problem, LeakageError) else None}
    once = np.ones((1, len(errors.units)), np.int32)
    line["score"] = float(macro_means(errors.units, errors.row[:, None], errors.mean[:, None], once)[0, 0])
    allowed = errors.mean if least is None or least is MEAN else least.row
    gain = (allowed - errors.row)[:, None], errors.mean[:, None]
    line["better"] = float(macro_means(errors.units, *gain, once)[0, 0])
    low, high = intervals(errors.units, lambda counts: macro_means(errors.units, *gain, counts), seed=seed, level=level)
    line |= {"better_from": float(low[0]), "better_to": float(high[0])}
    return line if least is None else {**line, "least": line["score"] + line["better"], "passed": not low[0] > 0}


def _errors(row, test, shown, task):
    """The _Errors on the trials `test` of the forecasts for the trials `shown`, which are as many and in the same order."""
    parts = []
    for part, other in zip(test.by_session(), shown.by_session(), strict=True):
        truth, mask, answer = TASKS[task].answers(row, part, other)
        mask &= np.isfinite(answer)
        n = mask.sum(0)
        mean = np.where(mask, truth, 0).sum(0) / np.maximum(n, 1)
        block = blocks_of(len(part))
        sums = [np.where(mask, (of - truth) ** 2, 0).reshape(len(part), -1).sum(1) for of in (answer, mean)]
        key, header = part.sessions[0], part.source.header(part.sessions[0])
        units = pd.DataFrame({"animal": animal_of(header), "session": key}, index=range(block.max() + 1))
        parts.append((*(np.bincount(block, weights=s) for s in sums), units))
    of_row, of_mean, units = zip(*parts, strict=True)
    if not sum(m.sum() for m in of_mean):
        raise QfError("controls: expected responses that differ between trials, found none. Choose trials that can be scored.")
    return _Errors(np.concatenate(of_row), np.concatenate(of_mean), pd.concat(units, ignore_index=True))


def _forecasts(row, part, other):
    """Truth, which of it is scored, and forecasts, (trial, neuron, time), of one session."""
    truth, mask, _ = truth_of(part)
    _, known, _ = truth_of(other)
    mask = mask & known
    answer, _, _ = forecast_of(row, other, truth, mask)
    return truth.astype(np.float64), mask, answer.astype(np.float64)


def _probabilities(row, part, other):
    """Labels, which of them are scored, and probabilities, (trial, neuron), of one session."""
    ds = part.dataset()
    answer = row.predict_probability(other).transpose("trial", "neuron").values
    return ds["active"].values.astype(np.float64), scored_whole(ds), answer.astype(np.float64)


class _Asked(Estimator):
    """A fitted row that answers another question than its caller asks."""

    def __init__(self, row, answer):
        super().__init__()
        self.row, self.answer, self.name = row, answer, row.name
        self.population, self.n_response, self.device = row.population, row.n_response, row.device

    def prepare(self, trials):
        return self.row.prepare(trials)

    def predict_arrays(self, asked):
        return self.answer(asked)


class _AskedForecaster(_Asked, Forecaster):
    pass


class _AskedClassifier(_Asked, Classifier):
    pass


@dataclass(frozen=True)
class _Task:
    """What the controls need of a task: its naive rows, how a session is answered, and how a row is asked another question."""

    naive: Callable[[], list]
    answers: Callable
    asked: type


TASKS = {
    "forecast": _Task(naive_forecasters, _forecasts, _AskedForecaster),
    "activation": _Task(naive_classifiers, _probabilities, _AskedClassifier),
}
