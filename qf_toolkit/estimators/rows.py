"""The naive rows that every table holds."""

from .autoregression import Autoregression
from .frequency import FrequencyClassifier
from .naive import ContextMean, CopyLast, StimulusMean, TrainingMean
from .over_f0 import FrequencyOverF0, LevelOverF0
from .ridge import RidgeOwn, RidgePopulation
from .smoothed_ridge import SmoothedRidge
from .stimulus_context import StimulusContext


def naive_forecasters():
    """The nine naive rows of forecasts, not yet fitted."""
    means = [CopyLast(), ContextMean(), TrainingMean(), StimulusMean()]
    return [*means, RidgeOwn(), RidgePopulation(), Autoregression(), StimulusContext(), SmoothedRidge()]


def naive_classifiers(shrinkage=2.0):
    """The three naive rows of activation, not yet fitted.

    Besides `fit(split)` each has `fit_on(trials)`. A caller who chooses the threshold on the validation part fits with it on the training part only.

    Parameters
    ----------
    shrinkage : float
        In trials; see `FrequencyClassifier` and `FrequencyOverF0`.

    Returns
    -------
    list of NaiveClassifier

    Raises
    ------
    QfError
        If `shrinkage` is no finite number above 0.
    """
    return [FrequencyClassifier(shrinkage), LevelOverF0(), FrequencyOverF0(shrinkage)]
