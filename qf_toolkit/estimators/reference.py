"""References for a validation score: the scores of forecasts that know only means of the training part."""

import warnings

import numpy as np
import torch

from ..training.bank import CHUNK


def constant_scores(train, validation, target, score, shrinkage=0.0) -> dict[str, float]:
    """Validation scores of two constant forecasts: the stimulus mean and the neuron's mean.

    Parameters
    ----------
    train, validation : Bank
    target : callable
        (bank, long tensor (b,)) -> float tensor (b, M), the values to forecast for those observations.
    score : callable
        ([float tensor (b, M), ...], long tensor (b,)) -> [float, ...]: one score per forecast, averaged over those validation observations.
    shrinkage : float
        Each mean counts this many extra observations, whose value is the mean one level above. A frequency is then never 0 or 1.

    Returns
    -------
    dict
        stimulus_mean: float, the score of forecasting each neuron's mean for the condition, frame by frame. A pair of neuron and condition that the
        training part lacks takes the neuron's mean over all conditions, frame by frame.
        mean: float, the score of forecasting each neuron's mean over trials and frames.
    """
    neurons, shown = (
        {k: i for i, k in enumerate(dict.fromkeys(a + b))} for a, b in ((train.keys, validation.keys), (train.conditions, validation.conditions))
    )
    (neuron, pair), (val_neuron, val_pair) = (_ids(bank, neurons, shown) for bank in (train, validation))
    sums, counts = _Sums(train, neuron, target)(np.arange(len(neurons)))
    of_pair = _Sums(train, pair, target)
    pooled = (sums.sum(0) + shrinkage) / (counts.sum() + 2 * shrinkage)
    by_neuron = _mean(sums, counts, pooled, shrinkage)
    totals = np.zeros(2)
    for at in validation.chunks():
        here = at.cpu().numpy()
        wanted, which = np.unique(val_pair[here], return_inverse=True)
        means = _mean(*of_pair(wanted), by_neuron[_on(at, wanted // len(shown))], shrinkage)
        flat = by_neuron[_on(at, val_neuron[here])]
        outs = means[_on(at, which)], flat.mean(1, keepdim=True).expand_as(flat)
        totals += [float(s) * len(at) for s in score(outs, at)]
    return dict(zip(("stimulus_mean", "mean"), (totals / len(validation)).tolist(), strict=True))


def _ids(bank, neurons, shown):
    """Two int arrays (n,): the neuron of each observation, and its pair of neuron and condition. Both banks use the same numbers."""
    neuron = np.array([neurons[k] for k in bank.keys])[bank.row.cpu().numpy()]
    condition = np.array([shown[c] for c in bank.conditions])[bank.trial.cpu().numpy()]
    return neuron, neuron * len(shown) + condition


def _on(at, ids):
    return torch.from_numpy(ids).to(at.device)


def _mean(sums, counts, above, shrinkage):
    """Means of groups, shrunk towards the means `above`. An empty group takes the mean above."""
    n = counts[:, None] + shrinkage
    return torch.where(n > 0, (sums + shrinkage * above) / n.clamp(min=1e-6), above.expand_as(sums))


class _Sums:
    """Sums of a target over groups of a bank's observations. The caller asks for a few groups at a time, so that memory never holds all of them."""

    def __init__(self, bank, ids, target):
        self.bank, self.target = bank, target
        self.order = np.argsort(ids, kind="stable")
        self.ordered = ids[self.order]

    def __call__(self, wanted):
        """Sums (g, M) and counts (g,) of the groups `wanted`, both float tensors."""
        first, last = (np.searchsorted(self.ordered, wanted, side) for side in ("left", "right"))
        count = last - first
        which = np.repeat(np.arange(len(wanted)), count)
        members = self.order[np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)]
        device = self.bank.device
        size = self.target(self.bank, torch.zeros(1, dtype=torch.long, device=device)).shape[1]
        sums = torch.zeros(len(wanted), size, device=device)
        for start in range(0, len(members), CHUNK):
            at, into = (torch.from_numpy(a[start : start + CHUNK]).to(device) for a in (members, which))
            sums.index_add_(0, into, self.target(self.bank, at))
        return sums, torch.from_numpy(count.astype(np.float32)).to(device)


def told(label, history, scores, progress):
    """Compare the best validation score of a training with the scores of constant forecasts.

    Prints the comparison if `progress` is True. Warns if the model is no better than the mean.

    Parameters
    ----------
    label : str
        Name of the training in the printed line and in the warning.
    history : list of dict
        The list that `loop.run` returned.
    scores : dict
        The dict that `constant_scores` returned.
    progress : bool

    Returns
    -------
    dict
        epoch (int, the best one, counted from 0), epochs (int), score, stimulus_mean and mean (float).
    """
    best = min(history, key=lambda entry: entry["score"])
    reference = {"epoch": best["epoch"], "epochs": history[-1]["epoch"] + 1, "score": best["score"], **scores}
    if progress:
        print(line(label, reference))
    if not reference["score"] < reference["mean"]:
        warnings.warn(
            f"{label}: the validation score, {reference['score']:.4g}, is not below that of the mean, {reference['mean']:.4g}: nothing was learnt that "
            "forecasts. Train longer (steps, --steps), take a smaller model (width, layers), or record more trials.",
            stacklevel=3,
        )
    return reference


def line(label, reference):
    """The dict that `told` returned, as one line of text."""
    return (
        f"{label}: best epoch {reference['epoch'] + 1} of {reference['epochs']}, validation score {reference['score']:.4g} "
        f"(stimulus mean {reference['stimulus_mean']:.4g}, mean {reference['mean']:.4g})"
    )
