"""The naive rows that every table holds."""

from .frequency import FrequencyClassifier
from .naive import ContextMean, CopyLast, StimulusMean, TrainingMean
from .over_f0 import FrequencyOverF0, LevelOverF0
from .ridge import RidgeOwn, RidgePopulation


def naive_forecasters():
    """The six naive rows of forecasts, not yet fitted."""
    return [CopyLast(), ContextMean(), TrainingMean(), StimulusMean(), RidgeOwn(), RidgePopulation()]


def naive_classifiers(shrinkage=2.0):
    """The three naive rows of activation, not yet fitted; `shrinkage` is that of the frequencies.

    Each has, beside `fit(split)`, `fit_on(trials)`: its threshold is chosen on the validation part after learning from the training part alone.
    """
    return [FrequencyClassifier(shrinkage), LevelOverF0(), FrequencyOverF0(shrinkage)]
