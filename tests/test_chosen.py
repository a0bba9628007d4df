"""Which observations a figure of forecasts shows: the forecastable ones first, chosen by what was measured alone, and drawn from what was asked for."""

import matplotlib as mpl

mpl.use("Agg")

from itertools import combinations

import numpy as np
import pytest
from helpers import toy_session
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.ridge import RidgeOwn
from qf_toolkit.interpret.neurons import repeatable_share
from qf_toolkit.plots.chosen import Shown, choose_observations, wanted_of
from qf_toolkit.plots.forecasts import figure_forecasts
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import Trials, cut

TUNED = 3  # the neuron that repeats


def noise_but_one(traces, trials, rng_seed=5, spikes_in_last=False):
    """White noise, but for one neuron, which responds to 90 degrees alike in every trial; in the last block another has one huge response to 0."""
    rng = np.random.default_rng(rng_seed)
    traces[:] = 100 + rng.normal(0, 3, traces.shape)
    for onset in trials["onset_frame"][trials["orientation"] == 90]:
        traces[TUNED, onset : onset + 15] += 30
    last = trials.index[(trials["block"] == trials["block"].max()) & (trials["orientation"] == 0)][0]
    traces[0, trials["onset_frame"][last] : trials["onset_frame"][last] + 20] += 500


def made(**options):
    return cut(toy_session(0, change=noise_but_one, **options))


# ---------------------------------------------------------------- the share that repeats


def test_the_share_that_repeats_is_that_of_the_signal():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 50)
    signal = rng.normal(0, 2, (40, 30))
    response = signal[group] + rng.normal(0, 3, (2000, 30))
    assert repeatable_share(response, group) == pytest.approx(4 / 13, abs=0.03)
    assert repeatable_share(response[:, 0], group) == pytest.approx(np.var(signal[:, 0]) / (np.var(signal[:, 0]) + 9), abs=0.03)
    noise = rng.normal(0, 3, (2000, 30))
    assert repeatable_share(noise, group) == pytest.approx(0, abs=0.01)  # not the 2 % that 40 means of 50 take by chance
    few = np.mean([repeatable_share(rng.normal(size=(80, 5)), np.repeat(np.arange(40), 2)) for _ in range(50)])
    assert few == pytest.approx(0, abs=0.03)  # by chance the means of two would take a half


def test_a_course_that_all_trials_share_repeats_and_missing_frames_are_left_out():
    rng = np.random.default_rng(1)
    response = np.sin(np.arange(20)) + rng.normal(0, 0.5, (100, 20))
    group = np.array(["only"] * 100)
    found = repeatable_share(response, group)
    assert found == pytest.approx(0.5 / 0.75, abs=0.05)
    holes = response.copy()
    holes[::2, 10:] = np.nan
    # once more, from tables of sums
    kept = np.isfinite(holes)
    within = np.nansum((holes - np.nanmean(holes, 0)) ** 2) / (kept.sum() - 20)
    total = np.nanvar(holes, ddof=1)
    assert repeatable_share(holes, group) == pytest.approx(1 - within / total, rel=1e-12)


@pytest.mark.parametrize("response", [np.zeros((0, 4)), np.ones((6, 4)), np.full((6, 4), np.nan)])
def test_nothing_that_varies_tells_nothing(response):
    assert np.isnan(repeatable_share(response, np.array(["a", "b"] * 3)[: len(response)]))
    assert np.isnan(repeatable_share(np.arange(6.0), np.arange(6)))  # each its own group


# ---------------------------------------------------------------- the choice


def test_the_neuron_that_repeats_comes_first_in_a_trial_of_its_best_condition():
    split = split_blocks(made())
    chosen = choose_observations(split.test, fitting=split.fitting, n=6)
    first = chosen[0]
    assert (first.kind, first.neuron) == ("forecastable", f"mouse/one/{TUNED}")
    table = split.test.table.set_index("trial")
    assert table.loc[first.trial, "orientation"] == 90
    assert first.same == tuple(table.index[table["orientation"] == 90])
    assert [one.kind for one in chosen[3:]] == ["random"] * 3 and all(one.same == () for one in chosen[3:])
    assert len({one.neuron for one in chosen[:3]}) == 3 and len({(o.trial, o.neuron) for o in chosen}) == 6
    assert all(type(one.trial) is int and type(one.neuron) is str for one in chosen)


def test_the_shown_trials_have_no_say_in_which_neuron_or_condition_is_shown():
    """The test block with all responses replaced by others: the same panels, as long as the same observations are whole."""

    def other_test_block(traces, trials):
        noise_but_one(traces, trials)
        for i in trials.index[trials["block"] == trials["block"].max()]:
            onset = trials["onset_frame"][i]
            traces[:, onset : onset + 20] = 100 + 60 * np.random.default_rng(i).random((len(traces), 20))

    splits = [split_blocks(cut(toy_session(0, change=change))) for change in (noise_but_one, other_test_block)]
    one, other = (choose_observations(s.test, fitting=s.fitting, n=8, seed=4) for s in splits)
    assert [o for o in one if o.kind != "most active"] == [o for o in other if o.kind != "most active"]
    assert one[0].kind == "forecastable"


def test_without_repeats_the_most_active_fill_the_first_half():
    split = split_blocks(made())
    chosen = choose_observations(split.test, fitting=split.fitting, n=12)
    kinds = [one.kind for one in chosen]
    assert kinds == sorted(kinds, key=["forecastable", "most active", "random"].index) and kinds.count("random") == 6

    def flat(traces, trials):
        traces[:] = 100 + np.arange(traces.shape[1]) % 2  # nothing but the time repeats, and not the same from trial to trial
        traces += np.random.default_rng(0).normal(0, 1, traces.shape)
        traces[2, trials["onset_frame"][3] : trials["onset_frame"][3] + 20] += 300

    (best, *_) = choose_observations(cut(toy_session(0, change=flat, n_neurons=3)), n=2)
    assert best.kind in ("forecastable", "most active")


def test_conditions_shown_once_are_judged_by_their_stimulus():
    def once(traces, trials):
        noise_but_one(traces, trials)
        for onset in trials["onset_frame"]:
            traces[TUNED, onset : onset + 15] += 30
        trials["image"] = np.arange(len(trials), dtype=float)
        del trials["orientation"]

    trials = cut(toy_session(0, change=once, stimuli=("natural_scenes",)))
    assert trials.table["condition"].nunique() == len(trials)
    first = choose_observations(trials, n=2)[0]
    assert (first.kind, first.neuron) == ("forecastable", f"mouse/one/{TUNED}")
    assert first.same == tuple(trials.table["trial"])  # the mean is of the stimulus, too


def test_one_session_is_read_at_a_time_and_each_once(monkeypatch):
    trials = cut([toy_session(i, session=name, change=noise_but_one) for i, name in enumerate("abc")])
    split, read = split_blocks(trials), []
    whole = Trials.dataset
    monkeypatch.setattr(Trials, "dataset", lambda self, session=None: read.append((len(self), session)) or whole(self, session))
    chosen = choose_observations(split.test, fitting=split.fitting)
    assert [s for _, s in read] == ["mouse/a", "mouse/b", "mouse/c"] * 2
    assert {one.kind for one in chosen} >= {"forecastable", "random"}


def test_of_other_neurons_than_those_fitted_the_trials_themselves_tell():
    fitted, shown = made(session="one"), made(session="two", subject="rat")
    assert choose_observations(shown, fitting=fitted, seed=3) == choose_observations(shown, seed=3)


def test_a_cell_of_several_sessions_is_shown_once():
    cells = [f"c{i}" for i in range(6)]
    sessions = [toy_session(i, session=name, change=noise_but_one, cells=cells, matched=True) for i, name in enumerate("ab")]
    chosen = choose_observations(cut(sessions), n=6)
    assert chosen[0].neuron == f"mouse/c{TUNED}" and len({one.neuron for one in chosen[:3]}) == 3


@given(n=st.integers(2, 40), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_what_is_wanted_holds_every_panel_and_no_more(n, seed):
    chosen = choose_observations(TWO, fitting=None, n=n, seed=seed)
    assert chosen == choose_observations(TWO, n=n, seed=seed) and len(chosen) == min(n, sum(len(p) * len(p.neurons) for p in TWO.by_session()))
    wanted = wanted_of(chosen)
    assert list(wanted) == list(dict.fromkeys(one.session for one in chosen))
    for session, (numbers, neurons) in wanted.items():
        mine = [one for one in chosen if one.session == session]
        assert numbers == sorted({t for one in mine for t in (one.trial, *one.same)})
        assert len(neurons) == len(set(neurons)) and set(neurons) == {one.neuron for one in mine}


TWO = cut([toy_session(0, n_neurons=2, repeats=2), toy_session(1, n_neurons=3, repeats=2, session="two")])


def test_too_few_or_no_observations_are_refused():
    trials = made()
    with pytest.raises(QfError, match="n: expected at least 2"):
        choose_observations(trials, n=1)
    with pytest.raises(QfError, match="trials: expected Trials.*split.test"):
        choose_observations(split_blocks(trials))
    with pytest.raises(QfError, match="trials: expected at least one"):
        choose_observations(trials.subset([]))
    with pytest.raises(QfError, match="chosen: expected an observation"):
        figure_forecasts(trials, {}, chosen=[])


# ---------------------------------------------------------------- the figure


def only(split, chosen, offset=1.0, half=0.25):
    """One forecast a session, of nothing but what is wanted: the truth plus an offset, with an interval."""
    out = {}
    for session, (numbers, neurons) in wanted_of(chosen).items():
        ds = split.test.dataset(session)
        f = (ds["dff"].isel(time=slice(ds.attrs["n_baseline"], None)) + offset).sel(trial=numbers, neuron=neurons)
        out[session] = f.rename("forecast").to_dataset().assign(low=f - half, high=f + half).assign_attrs(level=0.9)
    return out


def lines_of(ax):
    return {line.get_label(): line for line in ax.lines}


def test_what_was_wanted_suffices_to_draw_every_panel():
    split = split_blocks(cut([toy_session(i, session=name, change=noise_but_one, source="simulation") for i, name in enumerate("ab")]))
    chosen = choose_observations(split.test, fitting=split.fitting, n=8, seed=2)
    forecasts = {"QuantFormer": only(split, chosen), "ridge, own trace": only(split, chosen, offset=-1.0)}
    fig = figure_forecasts(split.test, forecasts, chosen=chosen)
    shown = [ax for ax in fig.axes if ax.has_data()]
    for ax, one in zip(shown[:8], chosen, strict=True):
        assert ax.get_title().startswith(f"{one.kind}: {one.neuron}, trial {one.trial}\n")
        truth = split.test.dataset(one.session)["dff"].sel(trial=one.trial, neuron=one.neuron).values
        lines = lines_of(ax)
        np.testing.assert_allclose(lines["measured"].get_ydata(), truth)
        np.testing.assert_allclose(lines["QuantFormer"].get_ydata(), truth[30:] + 1, rtol=1e-5)
        np.testing.assert_allclose(lines["ridge, own trace (naive)"].get_ydata(), truth[30:] - 1, rtol=1e-5)
        band = next(c for c in ax.collections if c.get_label() == "QuantFormer: 90% interval")
        assert to_hex(band.get_facecolor()[0]) == lines["QuantFormer"].get_color()
    means = [one for one in chosen if one.same]
    assert len(shown) == 8 + len(means) == 12
    for ax, one in zip(shown[8:], means, strict=True):
        assert ax.get_title().startswith(f"mean of {len(one.same)} trials: {one.neuron}\n") and not ax.collections
        mean = split.test.dataset(one.session)["dff"].sel(trial=list(one.same), neuron=one.neuron).values.mean(0)
        np.testing.assert_allclose(lines_of(ax)["measured"].get_ydata(), mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(lines_of(ax)["QuantFormer"].get_ydata(), mean[30:] + 1, rtol=1e-4)


def test_a_lone_naive_row_is_grey_and_the_legend_is_complete_beside_everything_else():
    split = split_blocks(made(source="simulation"))
    chosen = choose_observations(split.test, fitting=split.fitting)
    ridge = RidgeOwn().fit(split).predict(split.test)
    fig = figure_forecasts(split.test, {"QuantFormer": only(split, chosen), "ridge, own trace": ridge}, chosen=chosen)
    line = lines_of(fig.axes[0])["ridge, own trace (naive)"]
    model = lines_of(fig.axes[0])["QuantFormer"]
    r, g, b = mpl.colors.to_rgb(line.get_color())
    assert r == g == b and line.get_linestyle() == "--" and line.get_linewidth() < model.get_linewidth()
    (legend,) = fig.legends
    assert [t.get_text() for t in legend.get_texts()] == ["measured", "QuantFormer", "ridge, own trace (naive)", "QuantFormer: 90% interval"]
    fig.canvas.draw()
    renderer = fig.canvas.get_renderer()
    (said,) = [t for t in fig.texts if t.get_text() == "simulated data"]
    boxes = [legend.get_window_extent(), *(t.get_window_extent(renderer) for t in [said, *(ax.title for ax in fig.axes if ax.has_data())])]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(fig.bbox.x0 <= box.x0 and box.x1 <= fig.bbox.x1 and box.y1 <= fig.bbox.y1 for box in boxes)


def test_a_session_that_was_not_forecast_is_named():
    split = split_blocks(made())
    chosen = choose_observations(split.test)
    with pytest.raises(UnknownKeyError, match="QuantFormer: expected a forecast of mouse/one, found none; .*mouse/two"):
        figure_forecasts(split.test, {"QuantFormer": {"mouse/two": only(split, chosen)["mouse/one"]}}, chosen=chosen)


def test_random_panels_alone_can_be_drawn():
    split = split_blocks(made())
    fig = figure_forecasts(split.test, {}, chosen=[Shown("random", "mouse/one", int(split.test.table["trial"].iloc[0]), "mouse/one/1")])
    assert [ax.get_title().split(":")[0] for ax in fig.axes if ax.has_data()] == ["random"]
