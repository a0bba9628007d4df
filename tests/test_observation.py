"""Single observations: everything looked up for one neuron in one trial is what the library says of it elsewhere, and it is drawn as it is."""

import matplotlib as mpl

mpl.use("Agg")


import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from small_study import HIDDEN, LATE, fitted, hide, part_of, session

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.estimators.ceiling import SimulatorCeiling
from qf_toolkit.estimators.frequency import FrequencyClassifier
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.naive import CopyLast, StimulusMean
from qf_toolkit.interpret.observation import KEPT, Observer, one_thread
from qf_toolkit.plots.observation import code_rows, figure_observation, model_looks, plot_codes, plot_observation, plot_psth, title_of
from qf_toolkit.plots.style import palette, provenance
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught


@pytest.fixture(scope="module")
def observer(s):
    return Observer(s.test, [s.forecaster, *s.naive, s.classifier], n_samples=20, seed=3)


# --- what is looked up


@pytest.mark.parametrize(("name", "neuron", "nth"), [("m/one", "m/c0", 0), ("m/one", "m/c4", 7), ("m/two", "m/c4", 3), ("m/two", "m/c7", 19)])
def test_all_is_what_the_library_says_of_the_session(s, observer, name, neuron, nth):
    part = part_of(s.test, name)
    trial = part.table["trial"].tolist()[nth]
    view = observer.look(name, neuron, trial)
    ds = part.dataset().sel(neuron=neuron, trial=trial)
    n = ds.attrs["n_baseline"]
    np.testing.assert_array_equal(view["measured"], ds["dff"])
    np.testing.assert_array_equal(view["time"], ds["time"])
    assert bool(view["active"]) == bool(ds["active"])
    assert list(view["model"].values) == ["QuantFormer", *(m.name for m in s.naive)]
    for model in (s.forecaster, *s.naive):
        found, wanted = view["forecast"].sel(model=model.name).values, model.predict(part)["forecast"].sel(neuron=neuron, trial=trial)
        np.testing.assert_allclose(found[n:], wanted, atol=2e-6, err_msg=model.name)
        assert np.isnan(found[:n]).all()
    alone = part.subset([nth]).of_neurons(neuron)
    drawn = s.forecaster.sample(alone, n_samples=20, seed=3)["samples"].values[:, 0, 0]
    for side, q in (("low", 0.05), ("high", 0.95)):
        np.testing.assert_allclose(view[side].sel(model="QuantFormer").values[n:], np.quantile(drawn, q, axis=0, method="weibull"), atol=1e-5)
        assert np.isnan(view[side].sel(model=[m.name for m in s.naive])).all()
    codes = s.autoencoder.codes(part).sel(neuron=neuron, trial=trial)
    np.testing.assert_array_equal(view["code"], codes["code"])
    np.testing.assert_allclose(view["reconstruction"], codes["reconstruction"], atol=2e-6)
    np.testing.assert_array_equal(view["start_s"], s.autoencoder.config.patch_starts)
    forecast = s.forecaster.codes_arrays(Observations(ds["dff"].values[None, None, :n], [neuron], [str(ds["condition"].values)]))[0, 0]
    np.testing.assert_array_equal(view["forecast_code"].sel(model="QuantFormer"), forecast)
    assert (view["forecast_code"].sel(model=[m.name for m in s.naive]) == -1).all()
    wanted = s.classifier.predict(part)["probability"].sel(neuron=neuron, trial=trial)
    assert float(view["probability"].sel(classifier="QuantFormer")) == pytest.approx(float(wanted), abs=1e-5)
    a = view.attrs
    assert (a["session"], a["neuron"], a["trial"], a["condition"]) == (name, neuron, trial, str(ds["condition"].values))
    assert (a["n_baseline"], a["n_score"], a["signal"], a["notes"], a["seen"]) == (n, 20, "dff", [], [])
    assert a["patch_s"] == pytest.approx(0.8) and a["data"] == part.digest()


def test_the_psth_is_the_mean_of_the_whole_windows_of_the_condition(s, observer):
    part = part_of(s.test, "m/one")
    ds = part.dataset()
    at = {t: i for i, t in enumerate(ds["trial"].values.tolist())}
    assert np.isnan(ds["dff"].sel(neuron=HIDDEN[0], trial=HIDDEN[1])).all()
    for neuron, trial in (HIDDEN, LATE, ("m/c0", LATE[1])):
        view, rows = observer.look("m/one", neuron, trial), []
        for i in at.values():
            x = ds["dff"].sel(neuron=neuron).values[i]
            if part.table["condition"][i] == part.table["condition"][at[trial]] and np.isfinite(x).all():
                rows.append(x.astype(float))
        assert view.attrs["n_same"] == len(rows) and (len(rows) == 5) == (neuron == "m/c0")
        np.testing.assert_allclose(view["psth"], np.mean(rows, 0), atol=1e-6)
        np.testing.assert_allclose(view["psth_sd"], np.std(rows, 0), atol=1e-6)


def test_where_the_baseline_is_missing_nothing_is_forecast(observer):
    view = observer.look("m/one", *HIDDEN)
    assert "baseline has missing values" in view.attrs["notes"][0]
    for name in ("forecast", "low", "high", "probability", "reconstruction"):
        assert np.isnan(view[name]).all(), name
    assert (view["code"] == -1).all() and (view["forecast_code"] == -1).all()
    assert np.isfinite(view["psth"]).all()


def test_where_only_the_response_is_missing_it_is_forecast_all_the_same(s, observer):
    view = observer.look("m/one", *LATE)
    assert np.isnan(view["measured"].values).sum() == 3 and not view.attrs["notes"]
    assert np.isfinite(view["forecast"].sel(model="QuantFormer").values[30:]).all() and (view["code"] == -1).all()


def test_models_are_asked_by_name(s, observer):
    trial = s.test.table["trial"][0]
    view = observer.look("m/one", "m/c0", trial, models=["ridge, own trace", "QuantFormer"])
    whole = observer.look("m/one", "m/c0", trial)
    assert list(view["model"].values) == ["QuantFormer", "ridge, own trace"]  # the Observer's order
    np.testing.assert_array_equal(view["forecast"], whole["forecast"].sel(model=view["model"].values))
    assert model_looks(view) == [model_looks(whole)[i] for i in (0, 5)]  # a model keeps its colour
    assert observer.look("m/one", "m/c0", trial, models=[])["forecast"].shape == (0, 50)


def test_what_a_model_does_not_know_is_a_note_and_the_others_are_drawn(s):
    new = cut([session("three", 2, range(4, 10), n_conditions=6)])
    observer = Observer(new, [s.forecaster, *s.naive, s.classifier])
    shown = {c: t for t, c in zip(new.table["trial"], new.table["condition"], strict=True)}

    def there(view):
        return {name for name in view["model"].values if np.isfinite(view["forecast"].sel(model=name).values[30:]).all()}

    unknown_neuron = observer.look("m/three", "m/c9", shown["drifting_gratings/orientation=0"])
    assert there(unknown_neuron) == {"copy last", "mean of the context"}
    notes = unknown_neuron.attrs["notes"]
    assert [n.split(":")[0] for n in notes] == ["QuantFormer", *(m.name for m in s.naive[2:]), "QuantFormer (classifier)"]
    assert all("'m/c9'" in n or "expected all neurons" in n or "unknown to the model" in n for n in notes)
    unknown_condition = observer.look("m/three", "m/c5", shown["drifting_gratings/orientation=225"])
    assert there(unknown_condition) == {m.name for m in s.naive if not m.population}
    assert any(n.startswith("QuantFormer: ") and "orientation=225" in n for n in unknown_condition.attrs["notes"])
    known = observer.look("m/three", "m/c5", shown["drifting_gratings/orientation=0"])
    assert there(known) == {"QuantFormer", *(m.name for m in s.naive if not m.population)}  # the population is another one


def test_another_window_is_a_note(s):
    observer = Observer(cut([session()], baseline_s=4.0), [s.forecaster, s.naive[0], s.classifier])
    view = observer.look("m/one", "m/c0", 3)
    assert np.isnan(view["forecast"]).all() and np.isnan(view["probability"]).all()
    assert [n.split(":")[0] for n in view.attrs["notes"]] == ["QuantFormer", "copy last", "QuantFormer (classifier)", "codes"]
    assert "code" not in view and np.isfinite(view["measured"]).all()


def test_a_model_not_fitted_yet_says_so(s):
    assert Observer(s.test, [CopyLast()]).look("m/one", "m/c0", 45).attrs["notes"] == ["copy last: not fitted yet. Call fit(split) first."]


def test_trials_seen_in_training_are_named(s):
    models = [s.forecaster, s.naive[4], s.classifier]
    train, test = Observer(s.split.train, models), Observer(s.test, models)
    # forecaster and classifier have one name, which is said once
    assert train.look("m/one", "m/c0", int(s.split.train.table["trial"][0])).attrs["seen"] == ["QuantFormer", "ridge, own trace"]
    assert test.look("m/one", "m/c0", int(s.test.table["trial"][0])).attrs["seen"] == []


def test_each_model_has_its_hash(s, observer):
    view = observer.look("m/two", "m/c3", int(s.test.table["trial"].iloc[-1]))
    wanted = {"QuantFormer": s.forecaster.digest(), "QuantFormer (classifier)": s.classifier.digest(), **{m.name: m.digest() for m in s.naive}}
    assert view.attrs["models"].items() >= {name: value for name, value in wanted.items() if value}.items()
    assert s.forecaster.digest() != s.classifier.digest()


def test_codes_of_another_codebook_are_not_shown_as_if_they_were_of_this(s):
    other = fitted(s.split, seed=5, codes=16)[1]
    other.name = "other"
    for first, second in ((s.forecaster, other), (other, s.forecaster)):
        view = Observer(s.test, [first, second]).look("m/one", "m/c0", 45)
        np.testing.assert_array_equal(view["code"], first.autoencoder.codes(part_of(s.test, "m/one"))["code"].sel(trial=45, neuron="m/c0"))
        assert (view["forecast_code"].sel(model=first.name) >= 0).all() and (view["forecast_code"].sel(model=second.name) == -1).all()
        assert np.isfinite(view["forecast"].values[:, 30:]).all()


def test_an_autoencoder_may_be_named(s):
    view = Observer(s.test, autoencoder=s.autoencoder).look("m/one", "m/c0", 45)
    assert (view["code"] >= 0).all() and view["forecast_code"].shape == (0, s.autoencoder.config.patches)
    bare = Observer(s.test, [s.naive[3]]).look("m/one", "m/c0", 45)
    assert "code" not in bare and "probability" not in bare


@pytest.mark.parametrize("scaled", [True, False])
def test_z_scores_are_those_of_the_model(scaled):
    recording = session(change=hide)
    split = split_blocks(cut([recording], signal="zscore"))
    autoencoder, forecaster, classifier = fitted(split)
    rows = [StimulusMean().fit(split), CopyLast().fit(split_blocks(cut([recording], signal="zscore"), test=0))]  # the second with other z-scores
    trials = split.test if scaled else cut([recording], signal="zscore")
    observer = Observer(trials, [forecaster, *rows, classifier])
    trial = int(split.test.table["trial"][4])
    view = observer.look("m/one", "m/c3", trial)
    here = {"neuron": "m/c3", "trial": trial}
    np.testing.assert_allclose(view["measured"], split.test.dataset()["zscore"].sel(here), atol=1e-6)
    for model in (forecaster, *rows):
        np.testing.assert_allclose(
            view["forecast"].sel(model=model.name).values[30:], model.predict(split.test)["forecast"].sel(here), atol=2e-5, err_msg=model.name
        )
    np.testing.assert_array_equal(view["code"], autoencoder.codes(split.test)["code"].sel(here))
    assert float(view["probability"][0]) == pytest.approx(float(classifier.predict(split.test)["probability"].sel(here)), abs=1e-5)
    assert view.attrs["signal"] == "zscore"


def test_z_scores_without_a_training_part_say_what_is_missing():
    with pytest.raises(QfError, match="training part"):
        Observer(cut([session()], signal="zscore")).look("m/one", "m/c0", 3)


@pytest.mark.parametrize("baseline_s", [2.0, 3.0])
def test_recordings_at_1_hz(baseline_s):
    split = split_blocks(cut(toy_session(rate_hz=1.0, spacing_s=6.0), baseline_s=baseline_s, response_s=2.0))
    autoencoder, forecaster, classifier = fitted(split, patch_frames=2)
    view = Observer(split.test, [forecaster, classifier]).look("mouse/one", "mouse/one/2", int(split.test.table["trial"][0]))
    assert view.sizes["time"] == baseline_s + 2 and np.isfinite(view["forecast"].values[0, -2:]).all()
    assert view.sizes["patch"] == autoencoder.config.patches and (view["code"] >= 0).all()
    figure_observation(view).draw_without_rendering()


def test_windows_of_a_few_neurons_are_kept():
    trials = cut(toy_session(n_neurons=KEPT + 4))
    observer = Observer(trials)
    first = observer.windows("mouse/one", "mouse/one/0")
    assert observer.windows("mouse/one", "mouse/one/0") is first
    for name in trials.neurons[1:KEPT]:
        observer.windows("mouse/one", name)
    assert observer.windows("mouse/one", "mouse/one/0") is first  # the one used last goes last
    for name in trials.neurons[KEPT:]:
        observer.windows("mouse/one", name)
    assert observer.windows("mouse/one", "mouse/one/0") is first and len(observer._kept) == KEPT
    assert ("mouse/one", "mouse/one/1") not in observer._kept


def test_threads_are_given_back():
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError), one_thread():
            assert torch.get_num_threads() == 1
            raise RuntimeError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: Observer(s.split), r"trials: expected Trials, found Split\. Pass one of its parts, split\.test"),
        (lambda s: Observer("store"), "trials: expected Trials, found str"),
        (lambda s: Observer(s.test.subset(np.zeros(len(s.test), bool))), "expected at least one, found none"),
        (lambda s: Observer(s.test, [s.forecaster, s.forecaster]), "names that differ"),
        (lambda s: Observer(s.test, [s.classifier, s.classifier]), "names that differ"),
        (lambda s: Observer(s.test, [s.autoencoder]), r"'QuantFormer auto-encoder' \(Autoencoder\), which can't forecast a single observation"),
        (lambda s: Observer(s.test, [FrequencyClassifier()]), "'frequency of activation'"),
        (lambda s: Observer(s.test, [SimulatorCeiling()]), "SimulatorCeiling"),
        (lambda s: Observer(s.test, ["QuantFormer"]), "'QuantFormer' .str."),
        (lambda s: Observer(s.test, autoencoder=s.forecaster), r"autoencoder: expected an Autoencoder.*model\.autoencoder"),
    ],
)
def test_what_can_not_be_looked_at_is_refused(s, make, message):
    with pytest.raises(QfError, match=message):
        make(s)


def test_one_model_need_not_be_a_list(s):
    assert list(Observer(s.test, s.forecaster).forecasters) == ["QuantFormer"] and Observer(s.test, None).forecasters == {}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("m/on", "m/c0", 45), "session: 'm/on'.*did you mean m/one"),
        (("m/one", "m/c7", 45), "neuron: 'm/c7'"),  # of the other session
        (("m/one", "m/c0", 0), "trial: 0 is not among those of m/one"),  # of the training part
    ],
)
def test_unknown_keys_are_named(observer, key, message):
    with pytest.raises(UnknownKeyError, match=message):
        observer.look(*key)


# --- how it is drawn


def test_lines_and_intervals_are_the_numbers(s, observer):
    view = observer.look("m/two", "m/c7", 45)
    ax = plot_observation(view, ax=plt.subplots()[1])
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_array_equal(lines["measured"].get_ydata(), view["measured"])
    for name in view["model"].values:
        np.testing.assert_array_equal(lines[name].get_ydata(), view["forecast"].sel(model=name))
        np.testing.assert_array_equal(lines[name].get_xdata(), view["time"])
    (band,) = ax.collections  # the one model with a distribution
    corners = band.get_paths()[0].vertices
    mine = view.sel(model="QuantFormer")
    ends = np.concatenate([mine["low"].values[30:], mine["high"].values[30:]])
    assert abs(ends[:, None] - corners[:, 1]).min(1).max() < 1e-5
    assert ax.get_ylabel() == "dF/F" and ax.get_xlabel() == "time from onset (s)" and ax.get_xlim() == pytest.approx((-3.0, 2.0))
    some = plot_observation(view, models=["ridge, own trace"], ax=plt.subplots()[1])
    assert [line.get_label() for line in some.lines if not line.get_label().startswith("_")] == ["measured", "ridge, own trace"]
    assert some.lines[-1].get_color() == lines["ridge, own trace"].get_color()


def test_a_colour_belongs_to_a_model(observer):
    view = observer.look("m/one", "m/c0", 45)
    looks = model_looks(view)
    n = len(palette())
    assert [color for _, color, _ in looks] == [palette()[i % n] for i in range(len(looks))] and all(
        (dash is None) == (i < n) for i, (*_, dash) in enumerate(looks)
    )
    assert model_looks(view, ["ridge, own trace", "copy last"]) == [looks[1], looks[5]]
    many = view.isel(model=[0] * 9).assign_coords(model=[f"m{i}" for i in range(9)]).drop_attrs()
    found = model_looks(many)
    assert len({look[1:] for look in found}) == 9 and found[7][2] is not None


def test_strips_hold_the_codes_of_the_window_and_of_the_forecasts_made_of_codes(observer):
    view = observer.look("m/one", "m/c0", 45)
    rows = code_rows(view)
    assert [name for name, _ in rows] == ["measured", "QuantFormer"]
    ax = plot_codes(view, ax=plt.subplots()[1])
    wanted = [str(c) for _, codes in rows for c in codes]
    assert [t.get_text() for t in ax.texts] == wanted and len(ax.patches) == len(wanted)
    np.testing.assert_allclose([p.get_x() for p in ax.patches[:7]], view["start_s"])
    assert all(p.get_width() == pytest.approx(0.8) for p in ax.patches)
    with pytest.raises(QfError, match="view: expected codes"):
        plot_codes(view.drop_vars("code"))


def test_the_mean_of_the_condition_stands_behind_the_trial(observer):
    view = observer.look("m/one", "m/c0", 45)
    ax = plot_psth(view, ax=plt.subplots()[1])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), view["psth"])
    np.testing.assert_array_equal(ax.lines[2].get_ydata(), view["measured"])
    assert f"mean of {view.attrs['n_same']} trials" in ax.get_title(loc="left")


@pytest.mark.parametrize("key", [("m/one", "m/c0", 45), ("m/one", *HIDDEN), ("m/one", *LATE)])
def test_a_figure_is_not_known_to_pyplot_and_says_where_it_comes_from(s, observer, key):
    view = observer.look(*key)
    fig = figure_observation(view)
    fig.draw_without_rendering()
    assert plt.get_fignums() == [] and len(fig.axes) == 3
    assert fig.axes[0].get_title(loc="left") == title_of(view, "\n")
    (source,) = provenance(fig)["sources"]
    assert source["data"] == view.attrs["data"] and source["models"] == view.attrs["models"]
    bare = figure_observation(Observer(s.test).look("m/one", "m/c0", 45))
    assert len(bare.axes) == 2
