"""Tables of scores: every forecaster beside the naive rows, on the test part of a split, measured once.

The test part is forecast session by session. Scores are pooled within a session, then averaged over sessions, each counting once (macro), so that
one large recording does not speak for all. mse, mae, crps and coverage pool frames: where stimuli are scored over windows of different lengths
(score_s="paper"), the longer one weighs more. r and the paper's family pool windows, one a (trial, neuron), each counting once.
"""

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..errors import QfError, UnknownKeyError
from ..training.forecaster import origin
from . import metrics
from .ceiling import SimulatorCeiling
from .naive import ContextMean, FrequencyClassifier, Zero, naive_forecasters, scored, scored_whole

MOST_SAMPLED = 20_000_000  # values held at once while sampling (80 MB)
COVERAGE = 0.9


def evaluate(forecasters, split, *, naive=True, ceiling=False, n_samples=0, seed=0, ceiling_samples=64, progress=False):
    """Score forecasters on the test part of a split, beside the naive rows.

    Parameters
    ----------
    forecasters : Forecaster, list of Forecaster, or dict of str to Forecaster
        Fitted on `split` (its train and validation parts); a dict gives the rows their names. [] scores the naive rows alone.
    split : Split
    naive : bool
        Fit and score the six naive rows, too.
    ceiling : bool
        For simulated stores: add the row of the simulator's truth and the column E, the explained share of the explainable error (from the mean
        squared errors averaged over sessions).
    n_samples : int
        Samples a forecast for crps and coverage_90; 0 for none.
    seed : int
        Of the samples and the ceiling's Monte Carlo.
    ceiling_samples : int
    progress : bool
        Show a bar over sessions and rows, on a terminal.

    Returns
    -------
    pandas.DataFrame
        A row a forecaster. Columns: mse, mse_ratio (to the mean of the context, session by session), mae, r (signed, silent windows left out), E, crps, coverage_90,
        then the paper's family: paper_mse and paper_smape on normalised signals, paper_corr (mean of abs r), paper_ssim (of the signal itself).
        A deterministic forecast's crps is its mae. attrs: n_trials, n_neurons, n_sessions, n_observations, constant_truth_windows (silent, left out
        of r), unusable (observations left out), active_fraction, simulated, split, not_applicable {row: why it could not be made}.

    Raises
    ------
    LeakageError
        If a forecaster saw a frame of the test windows in training.
    QfError
        If a forecaster returns NaN where the truth can be scored, two rows share a name, or nothing can be scored.
    """
    rows = _named(forecasters)
    for forecaster in rows.values():
        forecaster.check_unseen(split.test)
    extra = [*(naive_forecasters() if naive else []), *([SimulatorCeiling(ceiling_samples, seed)] if ceiling else [])]
    for forecaster in extra:
        if forecaster.name in rows:
            raise QfError(
                f"{forecaster.name!r}: expected a name of its own, found that of a built-in row. Pass a dict with another name, or naive=False."
            )
        rows[forecaster.name] = forecaster.fit(split)
        forecaster.check_unseen(split.test)
    context_mean, zero = ContextMean().fit(split), Zero().fit(split)

    scores = {name: [] for name in rows}
    zero_mse = []
    missing, facts = {}, {"n_trials": 0, "n_sessions": 0, "n_observations": 0, "constant_truth_windows": 0, "unusable": 0}
    active, neurons = 0, set()
    parts = split.test.by_session()
    bar = tqdm(total=len(parts) * len(rows), desc="evaluate", unit="row", disable=None if progress else True, leave=False)
    for part in parts:
        truth, mask, ds = _truth(part)
        used = mask.any(-1)
        facts["unusable"] += int((~used).sum())
        if not used.any():
            continue
        facts["n_sessions"] += 1
        facts["n_trials"] += len(part)
        facts["n_observations"] += int(used.sum())
        facts["constant_truth_windows"] += int(metrics.constant_windows(truth, mask).sum())
        active += int((ds["active"].values & used).sum())
        neurons.update(part.neurons)
        reference_mse = metrics.mse(_forecast(context_mean, part, truth, mask), truth, mask)
        if ceiling:  # E needs the error of the constant forecast, no other column does
            zero_mse.append(metrics.mse(_forecast(zero, part, truth, mask), truth, mask))
        for name, forecaster in rows.items():
            bar.update()
            if name in missing:
                continue
            try:
                scores[name].append(_score(forecaster, part, truth, mask, ds["n_score"].values, reference_mse, n_samples, seed))
            except UnknownKeyError as error:
                # a naive row that knows the training neurons alone can't be made when a subject is left out: the table says so instead of a number
                if forecaster not in extra:
                    raise
                missing[name] = str(error)
    bar.close()
    if not facts["n_sessions"]:
        raise QfError(
            "evaluate: expected observations to score in the test part, found none with a whole baseline. Look at the recording with `qf info`."
        )
    table = pd.DataFrame({n: {} if n in missing else pd.DataFrame(s).mean(skipna=True).to_dict() for n, s in scores.items()}).T
    if ceiling:
        best = table.loc[SimulatorCeiling.name, "mse"]
        table.insert(4, "E", [metrics.explained_share(m, np.mean(zero_mse), best) for m in table["mse"]])
    table.index.name = "forecaster"
    table.attrs = {
        **facts, "n_neurons": len(neurons), "active_fraction": active / facts["n_observations"], **origin(split.test),
        **_models(rows), "split": split.rule, "not_applicable": missing, "naive": [f.name for f in extra],
    }  # fmt: skip
    return table


def _named(forecasters):
    if isinstance(forecasters, dict):
        return dict(forecasters)
    if not isinstance(forecasters, list | tuple):
        forecasters = [forecasters]
    rows = {f.name: f for f in forecasters}
    if len(rows) < len(forecasters):
        raise QfError("forecasters: expected a name each, found one twice. Pass a dict of name to forecaster.")
    return rows


def _models(rows):
    """Of the rows that have some: hashes of what they learnt, and the seeds of their trainings, by name."""
    found = {name: row.digest() for name, row in rows.items() if hasattr(row, "digest")}
    seeds = {name: row.seed for name, row in rows.items() if getattr(row, "seed", None) is not None}
    return {"models": {name: value for name, value in found.items() if value}, "seeds": seeds}


def _truth(part):
    """The scored part of the response, (trial, neuron, n_score), 0 where missing; its mask; the dataset."""
    ds = part.dataset()
    n, k = ds.attrs["n_baseline"], ds.attrs["n_score"]
    return np.nan_to_num(ds[part.window.signal].values[..., n : n + k]), scored(ds), ds


def _forecast(forecaster, part, truth, mask):
    """The forecast of one session on the scored frames.

    Raises
    ------
    QfError
        If it lacks frames, or is NaN where the truth can be scored: another row would then be judged on other observations.
    """
    forecast = _in_units_of(part, forecaster, forecaster.predict(part)["forecast"].transpose("trial", "neuron", "time").values)
    k = truth.shape[-1]
    if forecast.shape[:2] != truth.shape[:2] or forecast.shape[-1] < k:
        raise QfError(f"{forecaster.name}: expected a forecast of at least {truth.shape}, found {forecast.shape}. Forecast score_s seconds at least.")
    forecast = forecast[..., :k]
    missing = mask & ~np.isfinite(forecast)
    if missing.any():
        raise QfError(
            f"{forecaster.name}: expected a number for every scored frame, found {int(missing.sum())} NaN or infinite of {int(mask.sum())} "
            f"in {part.sessions[0]}. Look for diverged training or zero scales."
        )
    return np.where(mask, forecast, 0.0)


def _in_units_of(part, forecaster, values):
    """Forecasts (..., neuron, time) in the units of the truth: a model trained on another split has z-scores of its own."""
    if part.window.signal != "zscore":
        return values
    session = part.sessions[0]
    (mean, sd), (their_mean, their_sd) = part.scale_of(session), forecaster.prepare(part).scale_of(session)
    if np.array_equal(mean, their_mean) and np.array_equal(sd, their_sd):
        return values
    return (values * their_sd[:, None] + their_mean[:, None] - mean[:, None]) / sd[:, None]


def _score(forecaster, part, truth, mask, n_score, reference_mse, n_samples, seed):
    forecast = _forecast(forecaster, part, truth, mask)
    mse = metrics.mse(forecast, truth, mask)
    out = {"mse": mse, "mse_ratio": mse / reference_mse, "mae": metrics.mae(forecast, truth, mask), "r": metrics.pearson(forecast, truth, mask)}
    out["crps"], out["coverage_90"] = out["mae"], float("nan")
    if forecaster.probabilistic:
        out["crps"] = float("nan")
        if n_samples > 0:
            out["crps"], out["coverage_90"] = _sampled(forecaster, part, truth, mask, n_samples, seed)
    return {
        **out,
        "paper_mse": metrics.paper_mse(forecast, truth, mask, n_score),
        "paper_smape": metrics.paper_smape(forecast, truth, mask, n_score),
        "paper_corr": metrics.corr_abs(forecast, truth, mask, n_score),
        "paper_ssim": metrics.ssim_global(forecast, truth, mask, n_score),
    }


def _sampled(forecaster, part, truth, mask, n_samples, seed):
    """crps and coverage, a handful of trials at a time so that the samples fit into memory."""
    k = truth.shape[-1]
    rate = float(part.source.header(part.sessions[0]).attrs["rate_hz"])
    step = max(1, MOST_SAMPLED // (n_samples * truth.shape[1] * part.window.frames(rate)[1]))
    crps = covered = n = 0
    for i, start in enumerate(range(0, len(part), step)):
        rows = np.arange(start, min(start + step, len(part)))
        samples = forecaster.sample(part.subset(rows), n_samples, seed + i)["samples"].transpose("sample", "trial", "neuron", "time").values[..., :k]
        samples = _in_units_of(part, forecaster, samples)
        count = int(mask[rows].sum())
        if count:
            crps += count * metrics.crps_samples(samples, truth[rows], mask[rows])
            covered += count * metrics.coverage(samples, truth[rows], COVERAGE, mask[rows])
            n += count
    return crps / n, covered / n


def evaluate_classifier(classifier, split, shrinkage=2.0):
    """Score a classifier of activation on the test part, beside how often the neuron was active for the condition in training.

    Probabilities are pooled over sessions; each row's threshold is the one with the best balanced accuracy on the validation part.

    Parameters
    ----------
    classifier : object, or list of objects, with `name`, `check_unseen(trials)` and `predict_probability(trials)` (trial, neuron)
    split : Split
    shrinkage : float
        Of the frequency row; see `FrequencyClassifier`. For its threshold it is fitted on the training part alone.

    Returns
    -------
    pandas.DataFrame
        Rows: the classifiers, then the frequency of activation. Columns: balanced_accuracy, precision, recall, f1, threshold, active_fraction.

    Raises
    ------
    LeakageError
        If a classifier saw a frame of the test windows in training.
    QfError
        If a probability is NaN where the label is known.
    """
    rows = _named(classifier)
    for c in rows.values():
        c.check_unseen(split.test)
    frequency = FrequencyClassifier(shrinkage)
    if frequency.name in rows:
        raise QfError(f"{frequency.name!r}: expected a name of its own, found that of the built-in row. Pass a dict with another name.")
    table, facts = {}, {}
    for name, c in {**rows, frequency.name: frequency}.items():
        # counted on validation, too, the frequencies would know the labels that the threshold is chosen on
        chooser = FrequencyClassifier(shrinkage).fit_on(split.train) if c is frequency else c
        threshold = metrics.choose_threshold(*_probabilities(chooser, split.validation))
        if c is frequency:
            c.fit(split)
            c.check_unseen(split.test)
        probability, active = _probabilities(c, split.test)
        score = metrics.classification_scores(active, probability >= threshold)
        fraction = score.pop("active_fraction")
        table[name] = {**score, "threshold": threshold, "active_fraction": fraction}
        facts = {"n_observations": int(active.size), "active_fraction": fraction}
    out = pd.DataFrame(table).T
    out.index.name = "classifier"
    out.attrs = {
        **facts, "n_trials": len(split.test), "n_neurons": len(split.test.neurons), "n_sessions": len(split.test.sessions),
        **origin(split.test), **_models(rows), "split": split.rule, "naive": [frequency.name],
    }  # fmt: skip
    return out


def _probabilities(classifier, trials):
    """Probability and label of every observation that can be scored, flat, over all sessions."""
    probabilities, labels = [], []
    for part in trials.by_session():
        ds = part.dataset()
        known = scored_whole(ds)
        p = classifier.predict_probability(part).transpose("trial", "neuron").values[known]
        if not np.isfinite(p).all():
            raise QfError(f"{classifier.name}: expected a probability for every observation, found {int((~np.isfinite(p)).sum())} NaN of {p.size}.")
        probabilities.append(p)
        labels.append(ds["active"].values[known])
    return np.concatenate(probabilities), np.concatenate(labels)


def show(table):
    """A table of `evaluate` or `evaluate_classifier` as text: what it was measured on, the rows, the naive ones marked with a dot.

    Parameters
    ----------
    table : pandas.DataFrame

    Returns
    -------
    str
    """
    a = table.attrs
    head = [
        f"{'SIMULATED DATA, ' if a['simulated'] else ''}{a['n_trials']} test trials, {a['n_neurons']} neurons, {a['n_sessions']} session{'s' * (a['n_sessions'] != 1)}, "
        f"{a['n_observations']} observations, {a['active_fraction']:.1%} active; split {a['split']}"
    ]
    if "constant_truth_windows" in a:
        head.append(f"left out: {a['unusable']} unusable observations; of r also {a['constant_truth_windows']} silent windows")
    body = table.dropna(axis=1, how="all").rename(index={n: f". {n}" for n in a["naive"]}).rename_axis(None)
    lines = body.to_string(float_format=lambda v: f"{v:.4g}", na_rep="-")
    notes = [f"not applicable: {name} ({why})" for name, why in a.get("not_applicable", {}).items()]
    return "\n".join([*head, "", lines, "", ". marks the rows every table holds for comparison", *notes])
