"""Skill by horizon step and by group, from the sums of one pass, against forecasts scored anew."""

import numpy as np
import pytest
from helpers import toy_session

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.interface import Forecaster
from qf_toolkit.estimators.naive import StimulusMean
from qf_toolkit.estimators.rows import naive_forecasters
from qf_toolkit.evaluation.horizon import best_naive, by_group, informative_to, skill_by_horizon
from qf_toolkit.evaluation.scored import score
from qf_toolkit.evaluation.table import evaluate
from qf_toolkit.recordings.splits import leave_one_out, split_blocks
from qf_toolkit.recordings.trials import cut

STEPS = 20


class Ahead(Forecaster):
    """Knows the truth for its first half, and is worse than any row in the second."""

    name = "ahead"

    def predict(self, trials):
        ds = trials.dataset()
        truth = ds["dff"].isel(time=slice(ds.attrs["n_baseline"], None))
        wrong = np.where(np.arange(truth.sizes["time"]) < STEPS // 2, 0.0, 5.0)
        return (truth + wrong).to_dataset(name="forecast")


@pytest.fixture(scope="module")
def split():
    def holes(traces, trials):
        traces[1, 900:903] = np.nan

    sessions = [toy_session(0, subject="a", change=holes, n_neurons=7), toy_session(1, subject="b", stimuli=("gratings", "scenes"), repeats=4)]
    return split_blocks(cut(sessions))


@pytest.fixture(scope="module")
def found(split):
    return score(Ahead(), split, n_samples=12)


def parts_of(split):
    for part in split.test.by_session():
        ds = part.dataset()
        yield part, ds, ds["dff"].values[..., 30:].astype(np.float64), ds["valid"].values[..., 30:] & ds["valid"].values[..., :30].all(-1)[..., None]


def test_skill_by_step_is_that_of_the_forecasts(split, found):
    skill = skill_by_horizon(found, "ridge, own trace", n=200)
    rows = {r.name: r.fit(split) for r in naive_forecasters()}
    for name in ("training mean", "ridge, population"):
        want = []
        for part, _, truth, mask in parts_of(split):
            errors = [((rows[n].predict(part)["forecast"].values - truth) ** 2 * mask).sum((0, 1)) for n in (name, "ridge, own trace")]
            want.append(1 - np.divide(*np.nan_to_num(errors)))
        mine = skill[skill["forecaster"] == name]
        np.testing.assert_allclose(mine["skill"], np.mean(want, 0), rtol=1e-4)
        assert mine["time_s"].tolist() == pytest.approx([0.1 * i for i in range(1, STEPS + 1)])
        assert (mine["skill_from"] <= mine["skill"] + 1e-9).all() and (mine["skill"] <= mine["skill_to"] + 1e-9).all()
    assert (skill.loc[skill["forecaster"] == "ridge, own trace", ["skill", "skill_from", "skill_to"]] == 0).all(axis=None)
    assert skill.attrs["reference"] == "ridge, own trace" and skill.attrs["n_animals"] == 2 and skill.attrs["data"] == split.test.digest()


def test_steps_add_up_to_the_table(split, found):
    table, skill = evaluate(found, split), skill_by_horizon(found, n=50)
    assert skill.attrs["reference"] == best_naive(found) == table.loc[found.naive, "mse_ratio"].idxmin()
    once = split_blocks(cut(toy_session(1, subject="b", stimuli=("gratings", "scenes"), repeats=4)))
    one = score([], once, n_samples=12)
    steps = skill_by_horizon(one, n=50).groupby("forecaster", sort=False)[["mse", "crps"]].mean()
    np.testing.assert_allclose(steps, evaluate(one, once)[["mse", "crps"]].astype(float), rtol=1e-6)


def test_informative_up_to_where_the_interval_meets_zero(found):
    far = informative_to(skill_by_horizon(found, n=300))
    assert far.loc["ahead", "informative_s"] == pytest.approx(STEPS // 2 / 10) and not far.loc["ahead", "to_end"]
    assert far.loc["copy last", "informative_s"] < 2
    skill = skill_by_horizon(found, "training mean", n=300)
    for name, rows in skill.groupby("forecaster"):
        meets = rows.loc[rows["skill_from"] <= 0, "time_s"]
        want = rows["time_s"].max() if meets.empty else meets.min() - 0.1
        assert informative_to(skill).loc[name, "informative_s"] == pytest.approx(want)


def test_groups_are_those_of_the_windows(split, found):
    table = by_group(found, "training mean", n=100)
    row = StimulusMean().fit(split)
    squares, frames = {}, {}
    for part, ds, truth, mask in parts_of(split):
        session = part.sessions[0]
        train = {p.sessions[0]: p for p in split.train.by_session()}[session].dataset()
        x = train["dff"].values
        whole = train["valid"].values.all(-1)
        snr = [np.sqrt(2) * x[whole[:, i], i].std() / (1.4826 * np.median(np.abs(np.diff(x[whole[:, i], i])))) for i in range(x.shape[1])]
        third = np.argsort(np.argsort(snr)) * 3 // len(snr)
        error = np.nan_to_num((row.predict(part)["forecast"].values - truth) ** 2) * mask
        kind = np.array([str(c).split("/")[0] for c in ds["condition"].values])
        groups = {name: np.broadcast_to(third == i, error.shape[:2]) for i, name in enumerate(("low", "middle", "high"))}
        groups |= {"active": ds["active"].values, "inactive": ~ds["active"].values}
        groups |= {c: np.broadcast_to((kind == c)[:, None], error.shape[:2]) for c in ("drifting_gratings", "gratings", "scenes")}
        for name, mine in groups.items():
            if (mask & mine[..., None]).any():
                squares.setdefault(name, []).append(error[mine].sum() / mask[mine].sum())
                frames[name] = frames.get(name, 0) + int(mask[mine].sum())
    mine = table[table["forecaster"] == "stimulus mean (PSTH)"].set_index("group")
    for name, values in squares.items():
        assert mine.loc[name, "mse"] == pytest.approx(np.mean(values), rel=1e-4), name
        assert mine.loc[name, "frames"] == frames[name]
    assert mine.groupby("grouping")["frames"].sum().nunique() == 1  # each grouping holds every window
    assert mine["r"].between(-1, 1).all() and (mine["crps"] > 0).all()


def test_the_same_blocks_are_drawn_as_for_the_table(split, found):
    """The skill over all windows by groups of one stimulus has the interval of a bootstrap by hand."""
    from qf_toolkit.evaluation.significance import draws

    table = by_group(found, "training mean", n=400, seed=5)
    mine = table[(table["forecaster"] == "ridge, own trace") & (table["group"] == "drifting_gratings")].iloc[0]
    at = (found.units["session"] == "a/one").to_numpy()
    values = []
    for counts in draws(found.units, 400, 5):
        for c in counts[:, at]:
            if c.sum():
                values.append(1 - (c @ found.squared["ridge, own trace"][at]) / (c @ found.squared["training mean"][at]))
    assert (mine["skill_from"], mine["skill_to"]) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), rel=1e-6)


def test_neurons_and_sessions_that_training_does_not_hold():
    left = leave_one_out(cut([toy_session(0, subject="a"), toy_session(1, subject="b")]), subject="b")
    found = score([], left, n_samples=8)
    groups = by_group(found, n=50)
    assert groups.loc[groups["grouping"] == "trace_snr", "skill"].isna().all() and groups.loc[groups["grouping"] == "activity", "skill"].notna().all()
    assert np.isnan(evaluate(found, left).loc["copy last", "sd_ratio"]) and evaluate(found, left).loc["copy last", "poco"] == 0


def test_what_is_not_there_is_refused(split, found):
    with pytest.raises(UnknownKeyError, match="reference: 'ridge' is no row of this pass; known: ahead"):
        skill_by_horizon(found, "ridge")
    with pytest.raises(QfError, match="expected naive rows"):
        skill_by_horizon(score(StimulusMean().fit(split), split, naive=False))


def test_sessions_with_shorter_windows_count_only_where_they_have_steps():
    slow, fast = toy_session(0, subject="a"), toy_session(1, subject="b", stimuli=("static_gratings",))
    found = score([], split_blocks(cut([slow, fast], score_s="paper")))
    skill = skill_by_horizon(found, "training mean", n=50)
    frames = skill[skill["forecaster"] == "copy last"]["frames"].to_numpy()
    assert len(frames) == 20 and frames[4] == 2 * frames[5] > 0 and skill["skill"].notna().all()


def test_poco_is_one_less_the_ratio_to_the_last_frame(split):
    table = evaluate([], split)
    want = []
    for part, _, truth, mask in parts_of(split):
        x = part.dataset()["dff"].values
        last = np.nan_to_num(((x[..., 29:30] - truth) ** 2) * mask).sum()
        mine = np.nan_to_num((StimulusMean().fit(split).predict(part)["forecast"].values - truth) ** 2 * mask).sum()
        want.append(1 - mine / last)
    assert table.loc["stimulus mean (PSTH)", "poco"] == pytest.approx(np.mean(want), rel=1e-4) and table.loc["copy last", "poco"] == 0
