"""What a validation score is worth: the same score of forecasts that know nothing but means of the training part."""

import warnings

import numpy as np
import torch

from ..training.bank import CHUNK


def constant_scores(train, validation, target, score, shrinkage=0.0) -> dict[str, float]:
    """The validation score of the stimulus mean and of the mean.

    Parameters
    ----------
    train, validation : Bank
    target : callable
        (bank, long tensor (b,)) -> float tensor (b, M), what is forecast of those observations.
    score : callable
        ([float tensor (b, M), ...], long tensor (b,)) -> [score of each of these forecasts of those validation observations, ...].
    shrinkage : float
        How many observations at the mean one level above are added to each mean, so that a frequency is never 0 or 1.

    Returns
    -------
    dict
        stimulus_mean: of the mean of each neuron and condition, frame by frame; of its neuron alone where the training part lacks the pair.
        mean: of each neuron's mean over trials and frames.
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
    """The neuron of each observation, and its pair of neuron and condition, as numbers that two banks share."""
    neuron = np.array([neurons[k] for k in bank.keys])[bank.row.cpu().numpy()]
    condition = np.array([shown[c] for c in bank.conditions])[bank.trial.cpu().numpy()]
    return neuron, neuron * len(shown) + condition


def _on(at, ids):
    return torch.from_numpy(ids).to(at.device)


def _mean(sums, counts, above, shrinkage):
    """Means of groups, drawn to those `above`, which they take altogether where a group is empty."""
    n = counts[:, None] + shrinkage
    return torch.where(n > 0, (sums + shrinkage * above) / n.clamp(min=1e-6), above.expand_as(sums))


class _Sums:
    """Sums of a target over groups of a bank's observations, a few groups at a time, so that all of them never lie in memory."""

    def __init__(self, bank, ids, target):
        self.bank, self.target = bank, target
        self.order = np.argsort(ids, kind="stable")
        self.ordered = ids[self.order]

    def __call__(self, wanted):
        """(sums (g, M), counts (g,)) of the groups `wanted`, float tensors."""
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
    """What a training came to, beside what means come to: printed where progress is shown, with a warning where it is no better than the mean.

    Parameters
    ----------
    label : str
    history : list of dict
        Of `loop.run`.
    scores : dict
        Of `constant_scores`.
    progress : bool

    Returns
    -------
    dict
        epoch (the best one, from 0), epochs, score, stimulus_mean, mean.
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
    """A reference of `told` in words."""
    return (
        f"{label}: best epoch {reference['epoch'] + 1} of {reference['epochs']}, validation score {reference['score']:.4g} "
        f"(stimulus mean {reference['stimulus_mean']:.4g}, mean {reference['mean']:.4g})"
    )
