"""How the ridges choose their penalty, and that they stand what recordings bring."""

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from helpers import toy_session
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from qf_toolkit.errors import QfError
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.ridge import PENALTIES, RidgeOwn, RidgePopulation
from qf_toolkit.estimators.rows import naive_forecasters
from qf_toolkit.evaluation.table import evaluate
from qf_toolkit.recordings.splits import Split, split_blocks
from qf_toolkit.recordings.trials import cut

SHORT = {"baseline_s": 1.0, "response_s": 0.5}


def noisy(seed, subject, loud=1.0, **options):
    """A session that a weak penalty overfits: many features for few trials."""

    def change(traces, trials):
        rest = traces.mean(1, keepdims=True)
        noise = np.random.default_rng(seed).normal(size=traces.shape)
        traces[:] = rest * (1 + loud * ((traces - rest) / rest + 0.15 * noise)).clip(0.05)

    return toy_session(seed, subject=subject, change=change, **options)


def without_validation(split, session):
    """The split with the validation trials of a session gone from it."""
    return replace(split, validation=split.validation.subset((split.validation.table["session"] != session).to_numpy()))


def design(ridge, population, part):
    """Features and responses of the population ridge, for the trials of one session."""
    ds = part.dataset()
    n = ds.attrs["n_baseline"]
    x = ds["dff"].values.astype(np.float64)
    edges = np.linspace(0, n, 9).round().astype(int)
    bins = np.stack([x[..., a:b].mean(-1) for a, b in pairwise(edges)], -1).reshape(len(x), -1)
    return np.concatenate([bins * population["scale"], ridge._one_hot(list(ds["condition"].values))], 1), x[..., n:].reshape(len(x), -1)


def relative_errors(ridge, neurons, train, validation):
    """Squared errors of scikit-learn's ridges on `validation`, a penalty each, relative to that of the training mean."""
    population = ridge.populations[tuple(neurons)]
    (x, y), (xv, yv) = (design(ridge, population, p) for p in (train, validation))
    return np.array([((Ridge(alpha=p).fit(x, y).predict(xv) - yv) ** 2).sum() for p in PENALTIES]) / ((yv - y.mean(0)) ** 2).sum()


def test_a_session_without_validation_takes_the_penalty_of_the_others():
    # the loud one, whose own best penalty differs, does not decide alone
    sessions = [noisy(3, "a"), noisy(4, "b"), noisy(5, "c", loud=8.0)]
    whole = split_blocks(cut(sessions, **SHORT))
    split = without_validation(whole, "a/one")
    ridge = RidgePopulation().fit(split)
    names = {s: tuple(split.train.neurons_of(s)) for s in split.train.sessions}
    told = [
        relative_errors(ridge, names[s], *(p.subset((p.table["session"] == s).to_numpy()) for p in (split.train, split.validation)))
        for s in ("b/one", "c/one")
    ]
    assert ridge.populations[names["a/one"]]["penalty"] == PENALTIES[np.argmin(np.sum(told, 0))] > PENALTIES[0]
    kept = RidgePopulation().fit(whole)
    assert kept.populations[names["c/one"]]["penalty"] > ridge.populations[names["a/one"]]["penalty"]
    for s in ("b/one", "c/one"):  # these choose as before
        assert ridge.populations[names[s]]["penalty"] == kept.populations[names[s]]["penalty"] == PENALTIES[np.argmin(told["bc".index(s[0])])]
    (note,) = ridge.notes
    assert "a/one" in note and "other sessions" in note and not kept.notes
    assert any("a/one" in n for n in evaluate([], split).attrs["notes"])


def test_without_any_validation_cross_validation_chooses():
    def change(traces, trials):
        for onset in trials["onset_frame"][trials.index[-2:]]:
            traces[:, onset + 2] = np.nan  # not one whole observation in the validation part below

    trials = cut(toy_session(0, change=change), **SHORT)
    validation = trials.subset([len(trials) - 2, len(trials) - 1])
    split = Split(trials.subset(np.arange(40)), validation, trials.subset(np.arange(41, 50)), "by hand")
    ds = split.train.dataset()
    conditions = list(ds["condition"].values)
    for ridge in (RidgePopulation(), RidgeOwn()):
        ridge.fit(split)
        assert any("cross-validation" in n for n in ridge.notes)
        errors = np.zeros(len(PENALTIES))
        if isinstance(ridge, RidgePopulation):
            (population,) = ridge.populations.values()
            pairs, chosen = [design(ridge, population, split.train)], population["penalty"]
        else:
            d = ds["dff"].values.astype(np.float64)
            one_hot = ridge._one_hot(conditions)
            pairs, chosen = [(np.concatenate([d[:, i, :10], one_hot], 1) * ridge.scale[i], d[:, i, 10:]) for i in range(6)], ridge.penalty
        for x, y in pairs:
            for held_out in np.array_split(np.arange(40), 5):
                fit = np.setdiff1d(np.arange(40), held_out)
                errors += [((Ridge(alpha=p).fit(x[fit], y[fit]).predict(x[held_out]) - y[held_out]) ** 2).sum() for p in PENALTIES]
        assert chosen == PENALTIES[np.argmin(errors)]
        assert np.isfinite(ridge.predict(split.test)["forecast"]).all()


def test_where_nothing_tells_penalties_apart_the_strongest_is_taken():
    trials = cut(toy_session(0), **SHORT)
    split = Split(trials.subset([0]), trials.subset([20]), trials.subset([40, 41]), "by hand")
    for ridge in (RidgePopulation(), RidgeOwn()):
        ridge.fit(split)
        chosen = ridge.penalty if isinstance(ridge, RidgeOwn) else next(iter(ridge.populations.values()))["penalty"]
        assert chosen == PENALTIES[-1] and ridge.notes
        assert np.isfinite(ridge.predict(split.test)["forecast"]).all()


def test_a_session_of_validation_alone_is_fitted_with_the_others_penalty():
    split = split_blocks(cut([noisy(0, "a"), noisy(1, "b")], **SHORT))
    split = replace(split, train=split.train.subset((split.train.table["session"] == "b/one").to_numpy()))
    ridge = RidgePopulation().fit(split)
    a, b = (ridge.populations[tuple(split.test.neurons_of(s))] for s in ("a/one", "b/one"))
    assert a["penalty"] == b["penalty"] and len(ridge.notes) == 1
    for part in split.test.by_session():
        assert np.isfinite(ridge.predict(part)["forecast"]).all()


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 999), n_neurons=st.integers(1, 3), repeats=st.integers(1, 2), n_conditions=st.integers(1, 3), missing=st.booleans(),
    flat=st.booleans(), signal=st.sampled_from(["dff", "zscore"]),
)  # fmt: skip
def test_forecasts_are_finite_whatever_was_recorded(seed, n_neurons, repeats, n_conditions, missing, flat, signal):
    """Sessions of different neurons, one with a single training trial, a neuron unknown in training, a constant context, one condition."""

    def change(traces, trials):
        if missing:
            traces[0, : traces.shape[1] // 2 : 5] = np.nan
        if flat:
            for onset in trials["onset_frame"]:
                traces[-1, onset - 10 : onset] = 100

    few = {"n_conditions": n_conditions, "change": change}
    sessions = [toy_session(seed, n_neurons=n_neurons, repeats=repeats, **few), toy_session(seed, subject="rat", n_neurons=4, repeats=4, **few)]
    with warnings.catch_warnings(action="ignore"):  # flagged neurons are left out
        split = split_blocks(cut(sessions, signal=signal, **SHORT))
    if len(split.train.sessions) == 2:  # of the small one a single trial stays
        first = np.flatnonzero(split.train.table["session"] == "mouse/one")
        split = replace(split, train=split.train.subset(np.setdiff1d(np.arange(len(split.train)), first[1:])))
    for row in naive_forecasters():
        row.fit(split)
        for part in split.test.by_session():
            ds = part.dataset()
            usable = np.isfinite(ds[signal].values[..., :10]).all(-1)
            forecast = row.predict(part)["forecast"].values
            assert np.isfinite(forecast[usable]).all(), row.name
            context = np.nan_to_num(ds[signal].values[..., :10])
            again = row.predict_arrays(Observations(context, part.neurons, list(ds["condition"].values)))  # reads nothing after the onset
            assert np.array_equal(again[usable], forecast[usable]), row.name


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), n_neurons=st.integers(1, 3), n_conditions=st.integers(1, 3), repeats=st.integers(3, 5))
def test_ridges_are_those_of_scikit_learn(seed, n_neurons, n_conditions, repeats):
    split = split_blocks(cut(toy_session(seed, n_neurons=n_neurons, n_conditions=n_conditions, repeats=repeats), **SHORT))
    own, population = RidgeOwn().fit(split), RidgePopulation().fit(split)
    (found,) = population.populations.values()
    (x, y), (xe, _) = (design(population, found, p) for p in (split.fitting, split.test))
    want = Ridge(alpha=found["penalty"]).fit(x, y).predict(xe).reshape(len(xe), n_neurons, -1)
    np.testing.assert_allclose(population.predict(split.test)["forecast"], want, atol=2e-4)
    out = own.predict(split.test)["forecast"].values
    for i in range(n_neurons):
        x, xe = (
            np.concatenate([p.dataset()["dff"].values[:, i, :10], own._one_hot(list(p.table["condition"]))], 1) * own.scale[i]
            for p in (split.fitting, split.test)
        )
        y = split.fitting.dataset()["dff"].values[:, i, 10:]
        np.testing.assert_allclose(out[:, i], Ridge(alpha=own.penalty).fit(x, y).predict(xe), atol=2e-4)


def test_rows_want_a_split():
    split = split_blocks(cut(toy_session(0), **SHORT))
    for row in naive_forecasters():
        for wrong in (split.train, None, 3):
            with pytest.raises(QfError, match=f"^split: expected a Split, found {type(wrong).__name__}. Make one"):
                row.fit(wrong)
