"""Scores of classifications of activity: scores of a decision at a threshold, and scores of the probabilities themselves.

Observations, (trial, neuron), are pooled over sessions. `significance` computes how sure a score is. It draws blocks of trials, sessions and animals,
never single observations.
"""

import numpy as np
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss, precision_recall_fscore_support, roc_auc_score

from ..errors import QfError


def classification_scores(active, predicted):
    """Balanced accuracy, precision, recall and F1 of the class "active", and the fraction of active observations.

    Parameters
    ----------
    active, predicted : bool arrays, of one shape
        The labels, and the decisions of the classifier.

    Returns
    -------
    dict of float
        balanced_accuracy (NaN if there is only one class), precision (0 if no observation is predicted active), recall, f1, and active_fraction (NaN
        without observations); each between 0 and 1.

    Raises
    ------
    QfError
        If the two arrays differ in shape.

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
    """Choose the threshold with the greatest balanced accuracy. Choose it on the validation part only.

    Parameters
    ----------
    probability : float array, any shape
        Probability of "active".
    active : bool array, same shape
        The labels.

    Returns
    -------
    float
        An observation is predicted active if probability >= threshold. The threshold is midway between two observed probabilities, or the lowest
        observed probability if all observations are predicted active; 0.5 if there is only one class.

    Raises
    ------
    QfError
        If the two arrays differ in shape.
    """
    p, a = np.asarray(probability, np.float64).ravel(), np.asarray(active, bool).ravel()
    if p.shape != a.shape:
        raise QfError(f"active: expected {p.size} labels, found {a.size}.")
    if not a.any() or a.all():
        return 0.5
    levels, at = np.unique(p, return_inverse=True)
    hits = np.bincount(at, weights=a, minlength=len(levels))
    alarms = np.bincount(at, weights=~a, minlength=len(levels))
    # with level i as the threshold, recall and false alarms are sums over level i and the levels above it
    recall, false = hits[::-1].cumsum()[::-1] / a.sum(), alarms[::-1].cumsum()[::-1] / (~a).sum()
    best = int(np.argmax(recall - false))
    return float(levels[best] if best == 0 else (levels[best - 1] + levels[best]) / 2)


def probability_scores(active, probability):
    """Scores that need no threshold, as scikit-learn computes them.

    Parameters
    ----------
    active : bool array, any shape
        The labels.
    probability : float array, same shape
        Probability of "active".

    Returns
    -------
    dict of float
        `auroc` (0.5 by chance) and `average_precision` (the active fraction by chance), NaN if there is only one class; `brier`, the mean squared
        error of the probability, NaN without observations.

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
    """Scores of a classifier under bootstrap draws. A draw counts each block of observations several times, once, or not at all.

    Parameters
    ----------
    active : bool array, shape (observation,)
        The labels.
    probability : float array, shape (observation,)
        Probability of "active".
    threshold : float
        An observation is predicted active if probability >= threshold.
    block : int array, shape (observation,)
        Block of each observation, from 0 to `n_blocks` - 1.
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
        # equal probabilities share one threshold: only the last observation of each run of equals ends a step of the curves
        self._ends = np.flatnonzero(np.append(np.diff(probability[order]) != 0, True))

    def decided(self, counts):
        """Balanced accuracy and Brier score of each draw.

        Parameters
        ----------
        counts : int array, shape (draw, block)
            How often each block is drawn.

        Returns
        -------
        float64 array, shape (draw, 2)
            NaN where a draw has no observation that the score needs.
        """
        positives, negatives, true, false, squares = (counts @ self._sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([(true / positives + false / negatives) / 2, squares / (positives + negatives)], 1)

    def ranked(self, counts):
        """AUROC and average precision of each draw.

        Parameters
        ----------
        counts : int array, shape (draw, block)
            How often each block is drawn.

        Returns
        -------
        float64 array, shape (draw, 2)
            NaN where a draw has only one class.
        """
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
