"""Tables of scores: every forecaster beside the naive rows, on the test part of a split, measured once.

The test part is forecast session by session. Scores are pooled within a session, then averaged over sessions. Each session counts once (macro), so
that one large recording does not outweigh the others. mse, mae, crps and coverage pool frames: if stimuli are scored over windows of different
lengths (score_s="paper"), longer windows weigh more. r and the paper's family pool windows: each (trial, neuron) counts once.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from .._files import atomic_path, write_text
from .._version import versions
from ..errors import QfError
from ..estimators.ceiling import SimulatorCeiling
from ..estimators.naive import scored_whole
from ..estimators.rows import naive_classifiers
from ..recordings.splits import check_split
from . import scores as metrics
from .activation_scores import Drawn, choose_threshold, classification_scores, probability_scores
from .compare import WIDTH, compare, marks, shortened, show_differences
from .options import EvaluateOptions
from .scored import Scored, facts_of, named, score
from .significance import DRAWS, LEVEL, animal_of, blocks_of, intervals, levels

RANKED_WORK = 100_000_000  # most observations x draws for the intervals of auroc and average precision, which are slow sums over all ranks


def evaluate(
    forecasters,
    split,
    *,
    naive=EvaluateOptions.naive,
    ceiling=EvaluateOptions.ceiling,
    n_samples=EvaluateOptions.n_samples,
    seed=EvaluateOptions.seed,
    ceiling_samples=EvaluateOptions.ceiling_samples,
    progress=False,
):
    """Score forecasters on the test part of a split, beside the naive rows.

    Parameters
    ----------
    forecasters : Forecaster, list of Forecaster, dict of str to Forecaster, or Scored
        Fitted on the train and validation parts of `split`. A dict gives the rows their names. [] scores only the naive rows. A Scored is used as it
        is: nothing is forecast again.
    split : Split
    naive : bool
        Fit and score the nine naive rows, too.
    ceiling : bool
        For simulated stores: add a row for the best possible forecast, computed by the simulator, and the column E, the explained share of the
        explainable error (from the mean squared errors averaged over sessions). The Monte Carlo error of the simulator's forecast is subtracted from
        the mse and mse_ratio of this row, and so also from E.
    n_samples : int
        Samples per forecast for crps, coverage, energy and pit; 0 for none.
    seed : int
        Seed of the samples, of the ceiling's Monte Carlo and of the bootstrap.
    ceiling_samples : int
        Number of futures that the simulator draws for the ceiling.
    progress : bool
        Show a bar over sessions and rows, on a terminal.

    Returns
    -------
    pandas.DataFrame
        One row per forecaster. Columns:

        - mse: in squared units of the signal
        - mse_ratio: mse over that of the mean of the context, session by session
        - mae: in units of the signal
        - r: signed; silent windows are left out
        - E: only with `ceiling`
        - crps: in units of the signal, by the fair ensemble estimator. A row that forecasts one number a frame is drawn from with residuals of the
          validation part (see `WithResiduals`). Without draws (`n_samples` 0) its crps is its mae, and that of a probabilistic row is NaN
        - coverage_90: share of the frames inside the 90 % interval
        - jump: steps at the borders of patches over steps inside them, 1 without seams; a row without patches takes the patches of the first row that
          has some
        - paper_mse, paper_smape, paper_mae (of normalised signals), paper_corr (mean of abs r), paper_ssim (of the signal itself): the paper's family
        - poco: POCO's score, 1 - mse over that of the last frame, held
        - sd_ratio: standard deviation of the forecasts over that of the training responses (see `distribution_scores.sd_ratio`)
        - coverage_50, coverage_80, energy (fair energy score over a trial's neurons and frames), pit (deviation of the PIT histogram from flat, 0 for
          a calibrated forecast): of draws; see `distribution_scores`
        - smape: of the signal itself, over frames

        attrs: n_animals, n_trials, n_neurons, n_sessions, n_observations, constant_truth_windows (silent windows, left out of r), unusable
        (observations left out), active_fraction, truth_jump (the jump of the truth), data, simulated, models, seeds, split, not_applicable ({row: why
        it could not be made}), naive (names of the built-in rows), residuals (names of the rows that were drawn from with residuals), notes (limits of
        single rows), marks (see `compare.marks`).

    Raises
    ------
    LeakageError
        If a forecaster saw a frame of the test windows in training.
    QfError
        If a forecaster returns NaN where the truth can be scored, two rows share a name, or nothing can be scored.

    Examples
    --------
    >>> table = evaluate([forecaster], split)
    >>> table.index.tolist()[:3]
    ['QuantFormer', 'copy last', 'mean of the context']
    """
    options = {"naive": naive, "ceiling": ceiling, "n_samples": n_samples, "seed": seed, "ceiling_samples": ceiling_samples, "progress": progress}
    scored = forecasters if isinstance(forecasters, Scored) else score(forecasters, split, **options)
    table = pd.DataFrame({name: pd.DataFrame(scored.sessions.get(name, [])).mean(skipna=True).to_dict() for name in scored.rows}).T
    if scored.zero_mse:
        best = table.loc[SimulatorCeiling.name, "mse"]
        table.insert(4, "E", [metrics.explained_share(m, np.mean(scored.zero_mse), best) for m in table["mse"]])
    table.index.name = "forecaster"
    found = marks(compare(scored, split, seed=seed)) if scored.models and scored.naive else {}
    table.attrs = {**scored.facts, "marks": found}
    return table


def evaluate_classifier(classifier, split, shrinkage=EvaluateOptions.shrinkage, *, naive=EvaluateOptions.naive, seed=EvaluateOptions.seed):
    """Score classifiers of activation on the test part, beside the naive classifiers.

    Probabilities are pooled over sessions. The threshold of each row is the one with the best balanced accuracy on the validation part. If validation
    holds only one class, the threshold is the share of active observations in training, the best choice for calibrated probabilities, and
    attrs["notes"] contains a note about it.

    Parameters
    ----------
    classifier : Classifier, list of Classifier, or dict of str to Classifier
        Fitted on the train and validation parts of `split`. A dict gives the rows their names.
    split : Split
    shrinkage : float
        Weight of a neuron's own frequency in the naive rows, in trials; see `FrequencyClassifier`. The thresholds of the naive rows are chosen with
        fits on the training part only.
    naive : bool
        Fit and score the naive classifiers, too.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per classifier, the naive ones last. Columns: balanced_accuracy, auroc, average_precision and brier, each with the ends of its 95 %
        interval, *_from and *_to, from a bootstrap over animals, sessions and blocks of trials (see `significance`); precision, recall, f1,
        threshold, active_fraction.

    Raises
    ------
    LeakageError
        If a classifier saw a frame of the test windows in training.
    QfError
        If a probability is NaN where the label is known, or two rows share a name.

    Examples
    --------
    >>> table = evaluate_classifier(classifier, split)
    >>> bool((table["brier"] <= 1).all())
    True
    """
    check_split(split)
    split = split.keeping()
    rows = named(classifier, task="activation")
    for c in rows.values():
        c.check_unseen(split.test)
    naive = naive_classifiers(shrinkage) if naive else []
    for row in naive:
        if row.name in rows:
            raise QfError(f"{row.name!r}: expected a name of its own, found that of a built-in row. Pass a dict with another name.")
    table, drawn, units, facts, notes = {}, {}, None, {}, []
    for name, c in {**rows, **{row.name: row for row in naive}}.items():
        # a naive row fitted on validation, too, would know the labels that its threshold is chosen on
        chooser = c.fit_on(split.train) if c in naive else c
        probability, active = _probabilities(chooser, split.validation)[:2]
        if active.any() and not active.all():
            threshold = choose_threshold(probability, active)
        else:
            threshold = _active_share(split.train)
            notes = ["thresholds: validation holds one class alone; each is the share of active observations in training."]
        if c in naive:
            c.fit(split)
            c.check_unseen(split.test)
        probability, active, block, units = _probabilities(c, split.test)
        found = classification_scores(active, probability >= threshold)
        fraction = found.pop("active_fraction")
        drawn[name] = Drawn(active, probability, threshold, block, len(units))
        found = {"balanced_accuracy": found.pop("balanced_accuracy"), **probability_scores(active, probability), **found}
        table[name] = {**found, "threshold": threshold, "active_fraction": fraction}
        facts = {"n_observations": int(active.size), "active_fraction": fraction}
    out = _with_intervals(pd.DataFrame(table).T, drawn, units, facts["n_observations"], seed)
    out.index.name = "classifier"
    facts |= facts_of({**rows, **{row.name: row for row in naive}}, split, {}, [row.name for row in naive])
    better = _classifier_marks(drawn, list(rows), [row.name for row in naive], units, seed) if naive else {}
    out.attrs = {
        **levels(units, len(split.test)), **facts, "n_neurons": len(split.test.neurons), "interval_draws": DRAWS, "draw_seed": seed,
        "notes": [*notes, *facts["notes"]], "marks": {"balanced_accuracy": better},
    }  # fmt: skip
    return out


def _active_share(trials):
    """Share of active observations among those that can be scored; 0.5 if all are of one class."""
    parts = [part.dataset() for part in trials.by_session()]
    active = np.concatenate([ds["active"].values[scored_whole(ds)] for ds in parts])
    return float(active.mean()) if active.any() and not active.all() else 0.5


def _probabilities(classifier, trials):
    """Probability, label and block of every observation that can be scored, (observation,), over all sessions; and the table of blocks."""
    probabilities, labels, blocks, units, n = [], [], [], [], 0
    for part in trials.by_session():
        ds = part.dataset()
        known = scored_whole(ds)
        p = classifier.predict_probability(part).transpose("trial", "neuron").values[known]
        if not np.isfinite(p).all():
            raise QfError(f"{classifier.name}: expected a probability for every observation, found {int((~np.isfinite(p)).sum())} NaN of {p.size}.")
        block = blocks_of(len(part))
        probabilities.append(p)
        labels.append(ds["active"].values[known])
        blocks.append((n + np.repeat(block, known.shape[1]).reshape(known.shape))[known])
        n += block[-1] + 1
        animal = animal_of(part.source.header(part.sessions[0]))
        units += [{"animal": animal, "session": part.sessions[0]}] * (block[-1] + 1)
    return np.concatenate(probabilities), np.concatenate(labels), np.concatenate(blocks), pd.DataFrame(units)


def _with_intervals(table, drawn, units, n_observations, seed):
    """Add the ends of each score's interval to the table, beside the score."""
    ends = {}
    for name, row in drawn.items():
        fewer = int(np.clip(RANKED_WORK // max(n_observations, 1), 100, 1000))
        low, high = (
            np.concatenate(pair) for pair in zip(intervals(units, row.decided, seed=seed), intervals(units, row.ranked, fewer, seed), strict=True)
        )
        ends[name] = {f"{column}{end}": v for end, of in (("_from", low), ("_to", high)) for column, v in zip(Drawn.names, of, strict=True)}
    ends = pd.DataFrame(ends).T
    first = ["balanced_accuracy", "auroc", "average_precision", "brier"]
    order = [f"{c}{end}" for c in first for end in ("", "_from", "_to")]
    return pd.concat([table, ends], axis=1)[[*order, *(c for c in table if c not in first)]]


def _classifier_marks(drawn, models, naive, units, seed):
    """{classifier: "+" or "-"}, from the paired differences in balanced accuracy to the naive rows; see `compare.marks`."""
    found = {}
    for name in models:
        of = lambda counts, name=name: np.stack([(drawn[name].decided(counts) - drawn[n].decided(counts))[:, 0] for n in naive], 1)  # noqa: E731
        low, high = intervals(units, of, seed=seed)
        if (low > 0).all():
            found[name] = "+"
        elif (high < 0).any():
            found[name] = "-"
    return found


# ---------------------------------------------------------------- printed and saved


def show(table):
    """Format a table of `evaluate`, `evaluate_classifier` or `compare` as text of at most 100 columns.

    Parameters
    ----------
    table : pandas.DataFrame

    Returns
    -------
    str
        A head that describes the test data, then the rows. A dot marks the naive rows; + marks scores that are surely better than those of all naive
        rows, - marks scores that are surely worse than that of one.

    Examples
    --------
    >>> print(show(evaluate([], split)))
    SIMULATED DATA, ... test trials, 14 neurons, 1 session, 1 animal, ...
    """
    if list(table.index.names) == ["forecaster", "than"]:
        return show_differences(table)
    a = table.attrs
    head = [
        f"{'SIMULATED DATA, ' if a['simulated'] else ''}{_count(a['n_trials'], 'test trial')}, {_count(a['n_neurons'], 'neuron')}, "
        f"{_count(a['n_sessions'], 'session')}, {_count(a['n_animals'], 'animal')},",
        f"{a['n_observations']} observations, {a['active_fraction']:.1%} active; split {a['split']}",
    ]
    if "constant_truth_windows" in a:
        head.append(f"left out: {a['unusable']} unusable observations; of r also {a['constant_truth_windows']} silent windows")
    found = a.get("marks", {})
    text = pd.DataFrame({c: [_cell(table, name, c, found) for name in table.index] for c in table if not c.endswith(("_from", "_to"))})
    text.index = [f". {n}" if n in a["naive"] else str(n) for n in table.index]
    text = text.loc[:, table[text.columns].notna().any().to_numpy()]
    notes = [". marks the rows every table holds for comparison"]
    if table.index.name == "classifier":
        notes.append(f"[{LEVEL:.0%} interval], drawn over {_count(a['n_animals'], 'animal')}, their sessions and blocks of trials")
    if any(found.values()):
        notes.append(f"+ better than each of these, - worse than one: the {LEVEL:.0%} interval of the difference excludes 0")
    if "crps" in text:
        notes += _of_crps(a)
    if "truth_jump" in a:
        notes.append(f"jump: steps at borders of patches over those inside; what was measured has {a['truth_jump']:.3g}")
    notes += a.get("notes", [])
    notes += [f"not applicable: {name} ({why})" for name, why in a.get("not_applicable", {}).items()]
    return "\n".join([*head, "", *_folded(text), "", *notes])


def _of_crps(a):
    if "draws" not in a:
        return ["crps without draws (--samples): that of a forecast of one number is its mae"]
    drawn = f"crps, coverage, energy, pit: of {a['draws']} draws; crps and energy by the fair ensemble estimator"
    return [drawn, "rows that forecast one number: drawn with their residuals on validation"] if a.get("residuals") else [drawn]


def _count(n, word):
    return f"{n} {word}{'s' * (n != 1)}"


def _cell(table, name, column, found):
    value = table.loc[name, column]
    if pd.isna(value):
        return "-"
    mark = found.get(column, {}).get(name, "")
    if f"{column}_from" in table and column in ("balanced_accuracy", "auroc"):
        return f"{value:.3f} [{table.loc[name, f'{column}_from']:.3f}, {table.loc[name, f'{column}_to']:.3f}]{mark or ' '}"
    return f"{value:.4g}{mark or ' '}"


def _folded(text):
    """The lines of a table, in as many blocks of columns as the width requires. The paper's family gets blocks of its own."""
    text.index = [shortened(n, 44) for n in text.index]
    blocks, room = [], WIDTH - max(map(len, text.index), default=0)
    used, family = room + 1, None
    for column in text:
        wide = 2 + max(len(column), *(len(v) for v in text[column]))
        if used + wide > room or column.startswith("paper_") != family:
            blocks.append([])
            used, family = 0, column.startswith("paper_")
        blocks[-1].append(column)
        used += wide
    lines = []
    for columns in blocks:
        lines += [*([""] if lines else []), *text[columns].to_string().splitlines()]
    return lines


def write_table(table, path):
    """Write a table as CSV, and a sidecar `<name>.json` beside it.

    The sidecar names the data, weights, seeds and versions that made the table, and whether the data was simulated.

    Parameters
    ----------
    table : pandas.DataFrame
        As `evaluate`, `evaluate_classifier` or `compare` returns it.
    path : str or Path

    Returns
    -------
    list of Path
        Both files.

    Raises
    ------
    QfError
        If the disk is full, the folder can't be written, or the name ends in .json, which is the name of the sidecar.
    """
    path = Path(path)
    if path.suffix == ".json":
        raise QfError(f"out: expected a name for a table, table.csv for example, found {path.name}, the name of what is written beside it.")
    text, sidecar = table.to_csv(), path.with_suffix(".json")
    ours, there = (hashlib.blake2b(data, digest_size=12).hexdigest() for data in (text.encode(), path.read_bytes() if path.is_file() else b""))
    note = {"table": path.name, "blake2b": ours, **table.attrs, "simulated": bool(table.attrs.get("simulated")), "versions": versions()}
    note |= {"qf_toolkit": note["versions"]["qf_toolkit"], "made": datetime.now(UTC).isoformat(timespec="seconds")}
    replacing = path.is_file() and there != ours
    # the sidecar is written first, since it identifies a table as ours: it names the new table and, until that has replaced it, the former one, so
    # that a process killed in between leaves a table that is still known
    _write_json(sidecar, note | ({"replaces": there} if replacing else {}))
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8", newline="")
    if replacing:
        _write_json(sidecar, note)
    return [path, sidecar]


def _write_json(path, note):
    write_text(path, json.dumps(note, indent=2, default=_plain) + "\n")


def _plain(value):
    return value.item() if hasattr(value, "item") else str(value)
