"""Tables of decoders: how well behaviour and categories of trials are read from the population.

Scores are pooled over the trials and frames of a session, then averaged over sessions, each of which counts once. A frame in which the behaviour was not
recorded, or no neuron was, enters no score. R2 is about the mean of the scored frames of the session: a decoder that gives the training mean is at or below
0. By chance r is 0 and auroc 0.5; the other scores of categories stand beside those of the best answer that ignores the activity.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..estimators.decoding.decoder import Decoder, behaviour_values, category_values
from ..estimators.interface import origin
from ..recordings.trials import Trials, check_trials
from .activation_scores import Drawn
from .options import EvaluateOptions
from .scored import models_of
from .significance import DRAWS, LEVEL, animal_of, blocks_of, intervals, levels

RANKED_DRAWS = 300  # of the intervals of auroc, a slow sum over all ranks
LEAST_PROBABILITY = 1e-7


def behaviour_scores(sums: np.ndarray) -> np.ndarray:
    """R2 and Pearson's r from sums over frames.

    Parameters
    ----------
    sums : float64 array, shape (..., 7)
        The sums of 1, y, d, y y, d d, y d and (y - d)^2, with the truth y and the decoded d.

    Returns
    -------
    float64 array, shape (..., 2)
        NaN where the truth is constant; r also where the decoded values are.
    """
    n, y, d, yy, dd, yd, ee = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_y, of_d = yy - y * y / n, dd - d * d / n
        # what rounding leaves of a constant is no variance
        of_y, of_d = (np.where(v > 1e-9 * raw, v, np.nan) for v, raw in ((of_y, yy), (of_d, dd)))
        return np.stack([1 - ee / of_y, (yd - y * d / n) / np.sqrt(of_y * of_d)], -1)


def category_scores(sums: np.ndarray) -> np.ndarray:
    """Accuracy, balanced accuracy and cross-entropy, each followed by that of chance, from sums over trials.

    Parameters
    ----------
    sums : float64 array, shape (..., 1 + 2 K)
        The sum of the cross-entropy (nat), then for each of K classes the number of trials and of those decoded rightly.

    Returns
    -------
    float64 array, shape (..., 6)
        Chance: the accuracy of the commonest class; 1 over the number of classes shown; the entropy of their frequencies. NaN without trials.
    """
    k = (sums.shape[-1] - 1) // 2
    entropy, shown, right = sums[..., 0], sums[..., 1 : 1 + k], sums[..., 1 + k :]
    n = shown.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = shown / n[..., None]
        kinds = (shown > 0).sum(-1)
        balanced = np.where(shown > 0, right / shown, 0.0).sum(-1) / kinds
        own = -np.where(share > 0, share * np.log(share), 0.0).sum(-1)
        return np.stack([right.sum(-1) / n, shown.max(-1) / n, balanced, 1 / kinds, entropy / n, np.where(n > 0, own, np.nan)], -1)


OF_BEHAVIOUR = ("r2", "r")
OF_CATEGORY = ("accuracy", "accuracy_chance", "balanced_accuracy", "balanced_accuracy_chance", "cross_entropy", "cross_entropy_chance")


def decoding_table(decoders: Any, trials: Trials, *, seed: int = EvaluateOptions.seed) -> pd.DataFrame:
    """Score decoders on trials that they have not seen.

    Parameters
    ----------
    decoders : Decoder, list of Decoder, or dict of str to Decoder
        Fitted. A dict gives the rows their names. The row to beat is `decode(split, variables, "mean")`.
    trials : Trials
        The test part of the split on which they were fitted.
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per decoder and variable. Columns of behaviour: r2, and r (Pearson). Columns of a category: accuracy, balanced_accuracy, auroc (each
        class against the rest, averaged over classes), cross_entropy (nat; NaN for a decoder without probabilities), and *_chance beside them. Each score
        is followed by the ends of its 95 % interval, *_from and *_to, from a bootstrap over animals, sessions and blocks of trials. n: scored frames, or
        trials. Scores are averaged over sessions; see the module.
        attrs: n_animals, n_sessions, n_trials, n_blocks, data, simulated, models, seeds, notes.

    Raises
    ------
    LeakageError
        If a decoder saw a frame of the trials in its fit.
    QfError
        If one of them is no decoder, two share a name, trials show a class that a decoder does not know, or nothing can be scored.

    Examples
    --------
    >>> from qf_toolkit.recordings.simulated.network import simulate_network
    >>> store = simulate_network("data/network", n_neurons=100, subjects=1, seconds=60, seed=1)
    >>> split = qf.split_chronological(store.windows(length_s=3, response_s=2, signal="zscore"))
    >>> table = decoding_table([qf.decode(split, "speed", d) for d in ("ridge", "mean")], split.test)
    >>> table.index.tolist()
    [('ridge', 'speed'), ('training mean', 'speed')]
    """
    check_trials(trials)
    rows = _named(decoders)
    for decoder in rows.values():
        decoder.check_unseen(trials)
    units, parts = [], []
    for part in trials.by_session():
        block = blocks_of(len(part)) + len(units)
        parts.append((part, block))
        units += [{"animal": animal_of(part.source.header(part.sessions[0])), "session": part.sessions[0]}] * len(set(block))
    units = pd.DataFrame(units)
    found = {}
    for name, decoder in rows.items():
        score = _category_rows if decoder.classes else _behaviour_rows
        for variable, row in score(decoder, parts, units, seed).items():
            found[name, variable] = row
    out = pd.DataFrame.from_dict(found, orient="index").rename_axis(["decoder", "variable"])
    notes = [f"{name}: {note}" for name, decoder in rows.items() for note in getattr(decoder, "notes", ())]
    out.attrs = {**levels(units, len(trials)), **origin(trials), **models_of(rows), "interval_draws": DRAWS, "draw_seed": seed, "notes": notes}
    return out


def _named(decoders):
    rows = dict(decoders) if isinstance(decoders, dict) else {}
    for row in [] if isinstance(decoders, dict) else decoders if isinstance(decoders, list | tuple) else [decoders]:
        name = getattr(row, "name", type(row).__name__)
        if name in rows:
            raise QfError(f"decoders: expected a name each, found {name!r} twice. Pass a dict of name to decoder.")
        rows[name] = row
    for name, row in rows.items():
        if getattr(row, "task", None) != Decoder.task:
            raise QfError(f"{name}: expected a fitted decoder, found {type(row).__name__}. Fit one with decode.")
    if not rows:
        raise QfError("decoders: expected at least one, found none. Fit some with decode.")
    return rows


@dataclass
class _Summed:
    """Sums of a session that its scores are made of, (block, sum), and the rows of these blocks in the table of units."""

    at: np.ndarray
    sums: np.ndarray


def _behaviour_rows(decoder, parts, units, seed):
    """{variable: row of the table}."""
    summed, n = {v: [] for v in decoder.variables}, dict.fromkeys(decoder.variables, 0)
    for part, block in parts:
        truth, _ = behaviour_values(part, decoder.variables)
        decoded = decoder.predict(part)["decoded"].values.astype(np.float64)
        for i, variable in enumerate(decoder.variables):
            known = np.isfinite(truth[:, i])
            if not np.isfinite(decoded[:, i][known]).all():
                raise QfError(f"{decoder.name}: expected a value in every frame, found NaN in {part.sessions[0]}.")
            n[variable] += int(known.sum())
            if known.any():
                middle = truth[:, i][known].mean()
                y, d = (np.where(known, x - middle, 0.0) for x in (truth[:, i], decoded[:, i]))
                by_trial = np.stack([x.sum(1) for x in (known, y, d, y * y, d * d, y * d, (y - d) ** 2)], 1)
                summed[variable].append(_by_block(by_trial, block))
    return {
        variable: {**_with_ends(OF_BEHAVIOUR, _macro(summed[variable], behaviour_scores), units, seed, variable), "n": n[variable]}
        for variable in decoder.variables
    }


def _category_rows(decoder, parts, units, seed):
    """{variable: row of the table}."""
    (variable,), places = decoder.variables, {name: i for i, name in enumerate(decoder.classes)}
    summed, drawn, n = [], [], 0
    for part, block in parts:
        names = category_values(part, variable)
        unknown = sorted({str(name) for name in names if name and name not in places})
        if unknown:
            raise UnknownKeyError(
                f"{variable}: {unknown[0]!r} in {part.sessions[0]} is no class of the decoder, which never saw it in training; "
                f"{did_you_mean(unknown[0], decoder.classes, most=20)}. Score other trials, or train on all classes."
            )
        known = names != ""
        if not known.any():
            continue
        answer = decoder.predict(part)
        score = answer["probability" if decoder.has_probability else "score"].values[known].astype(np.float64)
        y, mine = np.array([places[name] for name in names[known]]), block[known]
        n += len(y)
        one_hot = np.eye(len(places))[y]
        lost = -np.log(np.clip(score[np.arange(len(y)), y], LEAST_PROBABILITY, 1)) if decoder.has_probability else np.full(len(y), np.nan)
        by_trial = np.concatenate([lost[:, None], one_hot, one_hot * (score.argmax(1) == y)[:, None]], 1)
        summed.append(_by_block(by_trial, mine))
        drawn.append((mine, [Drawn(y == k, score[:, k], 0.0, mine, len(units)) for k in np.unique(y)]))
    row = _with_ends(OF_CATEGORY, _macro(summed, category_scores), units, seed, variable)
    ranked = _with_ends(("auroc",), lambda counts: _aurocs(drawn, counts), units, seed, variable, RANKED_DRAWS)
    return {
        variable: {
            **{k: v for k, v in row.items() if not k.startswith("cross")},
            **ranked,
            **{k: v for k, v in row.items() if k.startswith("cross")},
            "n": n,
        }
    }


def _aurocs(drawn, counts):
    """Mean over sessions of the auroc, itself a mean over the classes, for each draw: float64 (draw, 1). A session counts as often as it is drawn."""
    if not drawn:
        return np.full((len(counts), 1), np.nan)
    total, weight = np.zeros(len(counts)), np.zeros(len(counts))
    for block, classes in drawn:
        of_class = np.stack([one.ranked(counts)[:, 0] for one in classes], 1)
        known = np.isfinite(of_class)
        times = counts[:, np.unique(block)].mean(1) * known.any(1)
        total += times * np.where(known, of_class, 0).sum(1) / np.maximum(known.sum(1), 1)
        weight += times
    with np.errstate(invalid="ignore"):
        return np.where(weight > 0, total / weight, np.nan)[:, None]


def _by_block(by_trial, block):
    at, place = np.unique(block, return_inverse=True)
    sums = np.zeros((len(at), by_trial.shape[1]))
    np.add.at(sums, place, by_trial)
    return _Summed(at, sums)


def _macro(summed, scores):
    """A statistic for `significance.intervals`: the mean over sessions of scores of sums, each session as often as it is drawn."""

    def statistic(counts):
        total, weight = 0.0, 0.0
        for session in summed:
            mine = counts[:, session.at]
            found = scores(mine @ session.sums)
            times = mine.mean(1)[:, None] * np.isfinite(found)
            total, weight = total + times * np.where(np.isfinite(found), found, 0.0), weight + times
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(np.asarray(weight) > 0, total / np.asarray(weight), np.nan)

    return statistic if summed else None


def _with_ends(names, statistic, units, seed, variable, n=DRAWS):
    """{score: value, score_from, score_to}; scores of chance have no ends."""
    if statistic is None:
        raise QfError(f"{variable}: expected values to score in these trials, found none recorded. Score others.")
    values = statistic(np.ones((1, len(units)), int))[0]
    low, high = intervals(units, statistic, n, seed)
    out = {}
    for i, name in enumerate(names):
        out[name] = float(values[i])
        if not name.endswith("_chance"):
            out |= {f"{name}_from": float(low[i]), f"{name}_to": float(high[i])}
    return out


def show_decoding(table: pd.DataFrame) -> str:
    """A table of `decoding_table` as text: a head that describes the trials, then the rows with their intervals.

    Parameters
    ----------
    table : pandas.DataFrame

    Returns
    -------
    str

    Examples
    --------
    >>> from qf_toolkit.recordings.simulated.network import simulate_network
    >>> store = simulate_network("data/network", n_neurons=100, subjects=1, seconds=60, seed=1)
    >>> split = qf.split_chronological(store.windows(length_s=3, response_s=2, signal="zscore"))
    >>> print(show_decoding(decoding_table(qf.decode(split, "speed"), split.test)))
    SIMULATED DATA, ... trials, 1 session, 1 animal; [95% interval] over animals, sessions and blocks of trials
    ...
    """
    a = table.attrs
    counts = (f"{a[f'n_{what}s']} {what}{'s' * (a[f'n_{what}s'] != 1)}" for what in ("trial", "session", "animal"))
    head = f"{'SIMULATED DATA, ' if a['simulated'] else ''}{', '.join(counts)}; [{LEVEL:.0%} interval] over animals, sessions and blocks of trials"
    text = pd.DataFrame({c: [_cell(row, c) for _, row in table.iterrows()] for c in table if not c.endswith(("_from", "_to"))}, table.index)
    notes = list(dict.fromkeys(note.partition(": ")[2] if note.count("signal=") else note for note in a["notes"]))
    return "\n".join([head, "", text.reset_index().to_string(index=False), *([""] if notes else []), *notes])


def _cell(row, column):
    value = row[column]
    if not np.isfinite(value):
        return "-"
    if column == "n":
        return f"{value:.0f}"
    ends = f" [{row[f'{column}_from']:.3f}, {row[f'{column}_to']:.3f}]" if f"{column}_from" in row else ""
    return f"{value:.3f}{ends}"
