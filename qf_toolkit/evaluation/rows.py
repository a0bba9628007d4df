"""The naive rows that every table holds."""

from .naive import ContextMean, CopyLast, StimulusMean, TrainingMean
from .ridge import RidgeOwn, RidgePopulation


def naive_forecasters():
    """The six naive rows, not yet fitted."""
    return [CopyLast(), ContextMean(), TrainingMean(), StimulusMean(), RidgeOwn(), RidgePopulation()]
