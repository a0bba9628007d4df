"""Rows that forecast one number a frame are drawn from with residuals of the validation part, and so compare with distributions."""

import numpy as np
import pytest
from helpers import toy_session

from qf_toolkit.errors import QfError
from qf_toolkit.estimators.interface import Forecaster, observations_of
from qf_toolkit.estimators.naive import CopyLast, StimulusMean, TrainingMean, Zero
from qf_toolkit.estimators.residuals import WithResiduals
from qf_toolkit.estimators.rows import naive_forecasters
from qf_toolkit.evaluation.scored import score
from qf_toolkit.evaluation.table import evaluate, show
from qf_toolkit.recordings.splits import Split, split_blocks
from qf_toolkit.recordings.trials import cut


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut([toy_session(0, repeats=9), toy_session(1, subject="rat", repeats=9)]))


class Given(Forecaster):
    """Forecasts the truth less errors that are known: white in time, of a size that differs between neurons."""

    name = "given"

    def __init__(self, trials, sd):
        super().__init__()
        self.errors = {}
        rng = np.random.default_rng(0)
        for part in trials:
            for one in part.by_session():
                ds = one.dataset()
                shape = ds["dff"].values[..., ds.attrs["n_baseline"] :].shape
                self.errors[one.digest()] = rng.normal(size=shape) * np.resize(sd, shape[1])[:, None]

    def predict(self, trials):
        ds = trials.dataset()
        truth = ds["dff"].isel(time=slice(ds.attrs["n_baseline"], None))
        return (truth - self.errors[trials.digest()]).to_dataset(name="forecast")


def test_draws_have_the_errors_of_validation(split):
    sd = np.linspace(0.02, 0.2, 6)
    row = WithResiduals(Given([split.validation, split.test], sd)).fit(split)
    part = split.test.by_session()[0]
    draws = row.sample(part, 400, 3)["samples"].transpose("sample", "trial", "neuron", "time").values
    spread = (draws - row.predict(part)["forecast"].values).std((0, 1, 3))
    assert np.corrcoef(spread, sd)[0, 1] > 0.95 and (np.diff(spread) > 0).all()
    assert spread[0] > sd[0] and spread[-1] < sd[-1]  # few windows: shrunk towards the others
    assert np.array_equal(draws, row.sample(part, 400, 3)["samples"].transpose("sample", "trial", "neuron", "time").values)
    assert not np.array_equal(draws[:9], row.sample(part, 9, 4)["samples"].values)


def test_an_error_that_lasts_keeps_lasting(split):
    part = split.test.by_session()[0]
    row = WithResiduals(CopyLast().fit(split)).fit(split)
    errors = row.residuals("mouse/one", part.neurons, 50, 20, 50)
    truth = part.dataset()["dff"].values
    own = truth[..., 30:] - truth[..., 29:30]

    def lasting(x):
        return np.corrcoef(x[..., :-5].ravel(), x[..., 5:].ravel())[0, 1]

    assert lasting(errors) == pytest.approx(lasting(own), abs=0.12) and lasting(errors) > 0.5


def test_a_row_that_learns_from_validation_is_judged_by_a_copy_fitted_without_it(split):
    # a validation part of other responses than training: errors of a row fitted on both would be smaller
    alone = Split(split.train, split.train.subset(np.zeros(len(split.train), bool)), split.validation, "")
    honest = TrainingMean().fit(alone)
    row = TrainingMean().fit(split)
    before = row.means["neuron"].copy()
    found = WithResiduals(row).fit(split)
    assert np.array_equal(row.means["neuron"], before)  # the row itself stays
    part = split.validation.by_session()[0]
    errors = part.dataset()["dff"].values[..., 30:] - honest.predict(part)["forecast"].values
    power = (errors**2).mean((0, 2))
    want = np.sqrt((len(part) * power + 10 * power.mean()) / (len(part) + 10))
    np.testing.assert_allclose(found.sd_of("mouse/one", part.neurons), want, rtol=1e-4)


def test_nothing_of_test_or_of_frames_after_the_onset_reaches_a_draw():
    first = split_blocks(cut(toy_session(0)))
    start = int(first.test.intervals("mouse/one")[:, 0].min())

    def change(traces, trials):
        traces[:, start:] *= np.float32(2.5)

    other = split_blocks(cut(toy_session(0, change=change)))
    rows = [WithResiduals(row.fit(s)).fit(s) for s in (first, other) for row in (StimulusMean(),)]
    draws = [row.residuals("mouse/one", first.test.neurons, 4, 20, 8) for row in rows]
    assert np.array_equal(*draws)


def test_unknown_neurons_and_sessions_draw_from_all(split):
    row = WithResiduals(Zero().fit(split)).fit(split)
    truth = [part.dataset()["dff"].values[..., 30:] for part in split.validation.by_session()]
    drawn = row.residuals("new/one", ["new/one/0", "new/one/1"], 3, 20, 2000)
    assert np.sqrt((drawn**2).mean()) == pytest.approx(np.sqrt(np.mean([(x**2).mean() for x in truth])), rel=0.1)
    with pytest.raises(QfError, match="residuals of 21 frames, found 20"):
        row.residuals("mouse/one", ["x"], 1, 21)
    with pytest.raises(QfError, match="Call fit"):
        WithResiduals(Zero()).residuals("mouse/one", ["x"], 1, 2)


def test_it_is_asked_like_any_forecaster(split):
    row = WithResiduals(StimulusMean().fit(split)).fit(split)
    assert row.probabilistic and row.name == "stimulus mean (PSTH)" and row.digest() and row.digest() != row.forecaster.digest()
    both = row.sample(split.test, 5, 1)
    assert both["samples"].shape == (5, len(split.test), 12, 20)
    for part in split.test.by_session():
        asked = observations_of(part.dataset(), "dff")[0]
        mine = both.sel(trial=both["session"] == part.sessions[0])["samples"].sel(neuron=part.neurons)
        np.testing.assert_allclose(mine.transpose("sample", "trial", "neuron", "time"), row.sample_arrays(asked, 5, 1), rtol=1e-5, atol=1e-6)
        assert np.array_equal(row.predict_arrays(asked), row.forecaster.predict_arrays(asked))


@pytest.mark.parametrize("signal", ["dff", "zscore"])
def test_in_a_table_every_row_has_them(signal):
    split = split_blocks(cut([toy_session(0, repeats=9), toy_session(1, session="two", repeats=9)], signal=signal))
    table = evaluate([], split, n_samples=40)
    rows = [row.name for row in naive_forecasters()]
    assert table.attrs["residuals"] == rows and table.attrs["draws"] == 40
    assert (table["crps"] < table["mae"]).all() and (table["crps"] > 0.4 * table["mae"]).all()
    assert table["coverage_90"].between(0.75, 0.99).all() and table["coverage_50"].between(0.3, 0.7).all() and (table["pit"] < 0.25).all()
    assert "drawn with their residuals" in show(table)
    without = evaluate([], split)
    assert without["crps"].equals(without["mae"]) and without.attrs["residuals"] == [] and "is its mae" in show(without)


def test_a_row_without_residuals_says_why():
    def holes(traces, trials):
        at = trials["onset_frame"].to_numpy()
        for block in (0, 1):  # the validation trials are the last of the training blocks
            for onset in at[trials["block"] == block][-6:]:
                traces[:, onset + 3] = np.nan

    split = split_blocks(cut(toy_session(0, change=holes)))
    split = Split(split.train, split.validation.subset(~np.isfinite(split.validation.dataset()["dff"].values).all((1, 2))), split.test, split.rule)
    found = score([], split, n_samples=10)
    table = evaluate(found, split)
    assert table["crps"].isna().all() and table.attrs["residuals"] == []
    assert any("no crps" in note and "Make validation longer" in note for note in table.attrs["notes"])


def test_units_of_a_row_with_z_scores_of_its_own(split):
    trials = cut(toy_session(0, repeats=9), signal="zscore")
    ours, theirs = split_blocks(trials), split_blocks(trials.subset(trials.table["block"].to_numpy() != 1))
    row = StimulusMean().fit(theirs)
    scale = ours.test.scale_of("mouse/one")[1] / row.prepare(ours.test).scale_of("mouse/one")[1]
    assert np.abs(scale - 1).max() > 0.01
    found = score(row, ours, naive=False, n_samples=40)
    name = row.name
    draws = WithResiduals(row).fit(ours)
    part = ours.test.by_session()[0]
    mine = draws.sample(part, 40, 0)["samples"].transpose("sample", "trial", "neuron", "time").values
    (mean, sd), (their_mean, their_sd) = part.scale_of("mouse/one"), row.prepare(part).scale_of("mouse/one")
    mine = (mine * their_sd[:, None] + their_mean[:, None] - mean[:, None]) / sd[:, None]
    truth = part.dataset()["zscore"].values[..., 30:]
    error = np.abs(mine - truth).mean(0)
    spread = np.abs(mine[:, None] - mine[None]).sum((0, 1)) / (2 * 40 * 39)
    assert found.sessions[name][0]["crps"] == pytest.approx((error - spread).mean(), rel=1e-4)
