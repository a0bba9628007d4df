"""Scores of classifications of activity: of a decision at a threshold, and of the probabilities themselves.

Observations, (trial, neuron), are pooled over sessions. How sure a score is comes from `significance`: blocks of trials, sessions and animals are
drawn, never single observations.
"""

import numpy as np
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, precision_recall_fscore_support, roc_auc_score

from ..errors import QfError


def classification_scores(active, predicted):
    """Balanced accuracy, precision, recall and F1 of the class "active", and the fraction of active observations.

    Parameters
    ----------
    active, predicted : bool array, any one shape

    Returns
    -------
    dict of float
        balanced_accuracy NaN where only one class is there; precision 0 where nothing is predicted active.

    Examples
    --------
    >>> scores = classification_scores(np.array([True, True, False, False]), np.array([True, False, False, False]))
    >>> scores["precision"], scores["recall"], scores["balanced_accuracy"]
    (1.0, 0.5, 0.75)
    """
    active, predicted = np.asarray(active, bool).ravel(), np.asarray(predicted, bool).ravel()
    if active.shape != predicted.shape:
        raise QfError(f"predicted: expected {active.size} labels, found {predicted.size}.")
    both = active.any() and not active.all()
    precision, recall, f1, _ = precision_recall_fscore_support(active, predicted, labels=[True], average="macro", zero_division=0)
    return {
        "balanced_accuracy": float(balanced_accuracy_score(active, predicted)) if both else float("nan"),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "active_fraction": float(active.mean()) if active.size else float("nan"),
    }


def choose_threshold(probability, active):
    """The threshold with the greatest balanced accuracy; choose it on the validation part only.

    Parameters
    ----------
    probability : float array, any shape
    active : bool array, same shape

    Returns
    -------
    float
        Predict active where probability >= threshold; midway between two observed probabilities, 0.5 where only one class is there.
    """
    p, a = np.asarray(probability, np.float64).ravel(), np.asarray(active, bool).ravel()
    if p.shape != a.shape:
        raise QfError(f"active: expected {p.size} labels, found {a.size}.")
    if not a.any() or a.all():
        return 0.5
    levels, at = np.unique(p, return_inverse=True)
    hits = np.bincount(at, weights=a, minlength=len(levels))
    alarms = np.bincount(at, weights=~a, minlength=len(levels))
    # predicting active from level i on: recall and false alarms are sums over the levels at or above it
    recall, false = hits[::-1].cumsum()[::-1] / a.sum(), alarms[::-1].cumsum()[::-1] / (~a).sum()
    best = int(np.argmax(recall - false))
    return float(levels[best] if best == 0 else (levels[best - 1] + levels[best]) / 2)


def probability_scores(active, probability):
    """Scores that need no threshold (scikit-learn's).

    Parameters
    ----------
    active : bool array, any one shape
    probability : float array, same shape

    Returns
    -------
    dict of float
        `auroc` (chance 0.5) and `average_precision` (chance: the active fraction), NaN where one class alone is there; `brier`, the mean squared
        error of the probability.

    Examples
    --------
    >>> probability_scores(np.array([True, False]), np.array([0.9, 0.1]))["auroc"]
    1.0
    """
    active, probability = np.asarray(active, bool).ravel(), np.asarray(probability, np.float64).ravel()
    both = active.any() and not active.all()
    return {
        "auroc": float(roc_auc_score(active, probability)) if both else float("nan"),
        "average_precision": float(average_precision_score(active, probability)) if both else float("nan"),
        "brier": float(brier_score_loss(active, probability)) if active.size else float("nan"),
    }


class Drawn:
    """The scores of a classifier when blocks of its observations are counted several times, or not at all, as a bootstrap draws them.

    Parameters
    ----------
    active : bool array, shape (observation,)
    probability : float array, shape (observation,)
    threshold : float
    block : int array, shape (observation,)
        From 0 to `n_blocks` - 1.
    n_blocks : int
    """

    names = ("balanced_accuracy", "brier", "auroc", "average_precision")

    def __init__(self, active, probability, threshold, block, n_blocks):
        def by_block(values):
            return np.bincount(block, weights=values, minlength=n_blocks)

        hit = probability >= threshold
        self._sums = np.stack(
            [by_block(active), by_block(~active), by_block(active & hit), by_block(~active & ~hit), by_block((probability - active) ** 2)], 1
        )
        order = np.argsort(-probability, kind="stable")
        self._active, self._block = active[order], block[order]
        # one threshold for equal probabilities: the last of each run of equals
        self._ends = np.flatnonzero(np.append(np.diff(probability[order]) != 0, True))

    def decided(self, counts):
        """Balanced accuracy and Brier score for each draw: counts (draw, block) -> (draw, 2)."""
        positives, negatives, true, false, squares = (counts @ self._sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([(true / positives + false / negatives) / 2, squares / (positives + negatives)], 1)

    def ranked(self, counts):
        """AUROC and average precision for each draw: counts (draw, block) -> (draw, 2)."""
        return np.array([self._ranked(weight) for weight in counts]).reshape(-1, 2)

    def _ranked(self, weight):
        weight = weight[self._block].astype(np.float64)
        true = np.cumsum(np.where(self._active, weight, 0.0))[self._ends]
        false = np.cumsum(np.where(self._active, 0.0, weight))[self._ends]
        if not (true[-1] > 0 and false[-1] > 0):
            return np.nan, np.nan
        auroc = np.trapezoid(np.append(0.0, true), np.append(0.0, false)) / (true[-1] * false[-1])
        above = true + false
        precision = np.divide(true, above, out=np.zeros_like(true), where=above > 0)
        return auroc, (np.diff(true, prepend=0.0) * precision).sum() / true[-1]
