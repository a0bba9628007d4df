"""Studies, the notebooks that share them, and the page of their figures."""

import warnings

import matplotlib as mpl
import numpy as np
import pytest
from helpers import toy_session, untaught
from small_store import store_of

import qf_toolkit as qf
from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.study.study import SIZES, Study

pytestmark = untaught

mpl.use("Agg")


@pytest.fixture(scope="module")
def toy_store(tmp_path_factory):
    """One stimulus at 10 Hz."""
    return store_of(tmp_path_factory.mktemp("toy") / "store", toy_session(3, repeats=8))


TINY = {
    "simulate": {"n_neurons": 3, "repeats": 15, "directions": 2, "temporal_frequencies": 1, "images": 2, "orientations": 1, "phases": 1,
                 "image_repeats": 60, "noise_frames": 240},
    "patch_s": 0.5,
    "autoencoder": {"width": 16, "layers": 1, "heads": 2, "codes": 8, "steps": 10, "batch_size": 64, "replace_below": 0.0},
    "forecaster": {"steps": 10},
    "classifier": {"steps": 10},
}  # fmt: skip


def small(folder, store, **options):
    plan = {name: TINY[name] for name in ("autoencoder", "forecaster", "classifier")}
    return Study(folder, store=store, progress=False, **{"plan": plan, **options})


@pytest.fixture(scope="module")
def toy_study(toy_store, tmp_path_factory):
    return small(tmp_path_factory.mktemp("toy") / "study", toy_store)


# ---------------------------------------------------------------- study


def test_models_are_made_once_and_loaded_with_the_same_weights(toy_study, toy_store):
    stimulus = toy_study.stimuli[0]
    forecaster, classifier = toy_study.forecaster(stimulus), toy_study.classifier(stimulus)
    weights = toy_study.path("forecaster", stimulus) / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = small(toy_study.folder, toy_store.path)
    assert again.forecaster(stimulus).digest() == forecaster.digest() and weights.stat().st_mtime_ns == written
    assert again.classifier(stimulus).digest() == classifier.digest()
    assert again.autoencoder().digest() == forecaster.autoencoder.digest() == toy_study.autoencoder().digest()
    assert not (weights.parent / "checkpoint").exists()
    assert "trained: autoencoder, classifier/drifting_gratings, forecaster/drifting_gratings" in repr(again)


def test_settings_are_those_of_the_calls(toy_study):
    """The study's model is the one that the shown calls give, bit for bit."""
    settings, split = toy_study.settings("autoencoder"), toy_study.split()
    assert settings["patch_frames"] == 5 and settings["batch_size"] == 64  # half a second at 10 Hz
    by_hand = qf.pretrain(split, **settings)
    assert by_hand.digest() == toy_study.autoencoder().digest()
    n = len(split.train) * len(split.train.neurons)
    assert settings["epochs"] == max(1, round(10 * 64 / n))


def test_split_is_by_blocks_and_tests_the_last(toy_study):
    trials, split = toy_study.trials(), toy_study.split()
    same = qf.split_blocks(trials)
    for name in ("train", "validation", "test"):
        ours, theirs = (getattr(s, name).table[["session", "onset_frame"]].to_numpy().tolist() for s in (split, same))
        assert ours == theirs
    assert set(split.test.table["block"]) == {2} and trials.window.f0_s == 1.0 and trials.window.score_s == "paper"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"seed": 1}, "made with seed 0, found 1"), ({"fast": False}, "made with fast True, found False"), ({"plan": {}}, "plan")],
)
def test_other_settings_are_refused(toy_study, toy_store, options, said):
    before = sorted(p.name for p in toy_study.folder.rglob("*"))
    with pytest.raises(QfError, match=said):
        small(toy_study.folder, toy_store, **options)
    assert sorted(p.name for p in toy_study.folder.rglob("*")) == before


def test_other_recordings_are_refused(toy_study, toy_store, tmp_path):
    other = store_of(tmp_path / "other", toy_session(4, repeats=8))
    with pytest.raises(QfError, match="made with recordings .*store, found .*other"):
        small(toy_study.folder, other)
    with pytest.raises(QfError, match="found a simulated mouse"):
        small(toy_study.folder, None)
    grown = store_of(tmp_path / "grown", toy_session(3, repeats=8), toy_session(5, session="two"))
    with pytest.raises(QfError, match="recordings"):
        small(toy_study.folder, grown)


def test_a_folder_of_something_else_is_left_alone(toy_store, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(QfError, match="something else"):
        small(tmp_path, toy_store)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_mark_is_told(toy_store, tmp_path):
    small(tmp_path / "study", toy_store)
    (tmp_path / "study" / "study.json").write_text("{")
    with pytest.raises(QfError, match=r"study\.json: can't be read"):
        small(tmp_path / "study", toy_store)


def test_models_of_another_autoencoder_are_refused(toy_study, toy_store, tmp_path):
    study = small(tmp_path / "study", toy_store)
    foreign = qf.pretrain(study.split(), **{**study.settings("autoencoder"), "lr": 5e-3})
    qf.fit_forecaster(foreign, study.split(), epochs=1, progress=False).save(study.path("forecaster", study.stimuli[0]))
    with pytest.raises(QfError, match="another auto-encoder"):
        study.forecaster(study.stimuli[0])
    other = qf.pretrain(study.split(), **{**study.settings("autoencoder"), "width": 8})
    other.save(study.path("autoencoder"))
    with pytest.raises(QfError, match="has width 8, expected 16"):
        small(study.folder, toy_store).autoencoder()


def test_interrupted_training_goes_on(toy_study, toy_store, tmp_path, monkeypatch):
    from qf_toolkit.training import loop

    plan = {"autoencoder": {"width": 16, "layers": 1, "heads": 2, "codes": 8, "batch_size": 64, "replace_below": 0.0, "epochs": 4}}
    whole = small(tmp_path / "whole", toy_store, plan=plan).autoencoder()
    save, calls = loop.save_checkpoint, []

    def stop_after_two(*args):
        save(*args)
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", stop_after_two)
    study = small(tmp_path / "stopped", toy_store, plan=plan)
    with pytest.raises(KeyboardInterrupt):
        study.autoencoder()
    assert study.autoencoder().digest() == whole.digest()
    assert len(calls) == 4  # two epochs before, two after


def test_unknown_stimulus_stage_and_plan_are_named(toy_study, toy_store, tmp_path):
    with pytest.raises(UnknownKeyError, match="drifting_gratings"):
        toy_study.forecaster("drifting_grating")
    with pytest.raises(QfError, match="stage: expected one of autoencoder"):
        toy_study.settings("decoder")
    for plan in ({"forcaster": {}}, {"forecaster": 5}, {"patch_s": {}}):
        with pytest.raises(QfError, match="plan: expected"):
            small(tmp_path / "study", toy_store, plan=plan)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("stimulus", [".", "..", "x" * 300, "鼠" * 100])
def test_a_stimulus_that_leads_out_of_the_folder_is_refused(toy_study, stimulus):
    with pytest.raises(QfError, match="stimulus: expected a name"):
        toy_study.path("forecaster", stimulus)
    inside = toy_study.path("forecaster", "../../up").resolve()
    assert inside.parent == toy_study.folder.resolve() / "forecaster"


def test_a_demo_makes_room_by_what_it_made_alone(tmp_path):
    from qf_toolkit.study.demo import _prepare

    out = tmp_path / "demo"
    _prepare(out, {"qf_toolkit": "0", "plan": {"epochs": 1}, "seed": 0})
    mine = [out / "mine.csv", out / "store.txt", out / "table_mine.csv"]
    made = [out / "table.csv", out / "table.json", out / "natural_scenes_activation.csv", out / "store" / "sim1__A.nc"]
    for path in mine + made:
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    _prepare(out, {"qf_toolkit": "0", "plan": {"epochs": 2}, "seed": 0})
    assert [p.exists() for p in mine] == [True] * 3 and not any(p.exists() for p in made)
    for other in ("{}", "[]", "no json", '{"qf_toolkit": 1}'):  # another program's
        (out / "demo.json").write_text(other)
        with pytest.raises(QfError, match="something else"):
            _prepare(out, {"qf_toolkit": "0", "plan": {}, "seed": 0})
    assert all(p.exists() for p in mine)


@pytest.mark.parametrize(
    ("session", "patch_frames"),
    [
        (toy_session(1, rate_hz=2.9, repeats=6, stimuli=("dots", "bars")), 3),  # other stimuli, few frames
        (toy_session(1, signal="dff", repeats=6), 5),
        (toy_session(1, n_blocks=1, repeats=15), 5),
        (toy_session(1, rate_hz=30.0, repeats=6), 15),
    ],
    ids=["slow", "dff", "one block", "30 Hz"],
)
def test_other_recordings_can_be_learnt(session, patch_frames, tmp_path):
    study = small(tmp_path / "study", store_of(tmp_path / "store", session))
    assert study.settings("autoencoder")["patch_frames"] == patch_frames
    stimulus = study.stimuli[-1]
    split, forecaster = study.split(stimulus), study.forecaster(stimulus)
    assert set(split.test.table["stimulus"]) == {stimulus}
    forecast = forecaster.predict(split.test)["forecast"]
    assert forecast.shape[:2] == (len(split.test), 6) and np.isfinite(forecast.values).all()
    study.autoencoder().check_unseen(study.split().test)
    forecaster.check_unseen(study.split().test)
    if session.attrs["rate_hz"] == 10 and len(set(session["block"].values)) == 1:
        ends = study.split().train.intervals("mouse/one")[:, 1].max(), study.split().validation.intervals("mouse/one")[:, 1].max()
        assert study.split().test.intervals("mouse/one")[:, 0].min() - max(ends) >= 50  # a window apart
        assert "last third" in study.split().rule


def test_no_model_is_tested_on_what_another_learnt_from(tmp_path):
    """Stimuli with different numbers of blocks in one session: the last block of each is nobody's to learn from."""

    def fewer(traces, trials):
        trials.loc[(trials["stimulus"] == "bars") & (trials["block"] == 2), "stimulus"] = "dots"

    session = toy_session(2, repeats=8, stimuli=("dots", "bars"), change=fewer)
    study = small(tmp_path / "study", store_of(tmp_path / "store", session))
    assert set(study.split("bars").test.table["block"]) == {1} and set(study.split("dots").test.table["block"]) == {2}
    for stimulus in study.stimuli:
        study.autoencoder().check_unseen(study.split(stimulus).test)


def test_conditions_that_training_lacks_stay_out(tmp_path):
    """A condition that is shown in the last block alone has no token; one that is rare is left out where others repeat enough."""

    def late(traces, trials):
        trials["orientation"] = trials["orientation"].astype(float)
        trials.loc[trials.index[-1], "orientation"] = 77.0

    study = small(tmp_path / "study", store_of(tmp_path / "store", toy_session(2, repeats=6, change=late)))
    assert not any("77" in c for c in study.trials().conditions)

    def once_a_block(traces, trials):
        trials["orientation"] = np.arange(len(trials)) // 2 * 1.0  # each condition twice, in one block

    study = small(tmp_path / "once", store_of(tmp_path / "more", toy_session(2, repeats=6, change=once_a_block)))
    with pytest.raises(QfError, match="no condition of the training part"):
        study.split()


def test_simulated_study_has_the_stimuli_of_the_paper(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = Study(tmp_path / "study", plan=TINY, progress=False)
        assert "not recorded yet" in repr(study) and not (study.folder / "store").exists()  # nothing is made before it is asked for
        assert study.stimuli == ["drifting_gratings", "static_gratings", "natural_scenes", "locally_sparse_noise"]
        assert study.store.keys() == ["sim1/A", "sim1/B", "sim1/C"]
        (study.store.path / "sim1__C.nc").unlink()  # as if stopped before the last session
        before = (study.store.path / "sim1__A.nc").stat().st_mtime_ns
        again = Study(study.folder, plan=TINY, progress=False)
        assert again.store.keys() == ["sim1/A", "sim1/B", "sim1/C"] and (study.store.path / "sim1__A.nc").stat().st_mtime_ns == before
        noise = again.split("locally_sparse_noise")
        assert not set(noise.test.conditions) & set(noise.train.conditions)  # each frame is shown once
        assert again.forecaster("locally_sparse_noise").stimuli == ["locally_sparse_noise"]
        codes = again.autoencoder().code_usage(noise.test)
    assert codes.sizes["code"] == 8


def test_full_size_is_the_papers(toy_store, tmp_path):
    config = qf.QuantFormerConfig()
    assert (config.layers, config.width, config.heads, config.codes, config.patch_frames) == (6, 128, 8, 32, 16)
    full = SIZES["full"]
    with pytest.warns(UserWarning, match="without a GPU"):
        small(tmp_path / "study", toy_store, fast=False, device="cpu").autoencoder()
    assert all(full[stage] == {} for stage in ("autoencoder", "forecaster", "classifier")) and round(full["patch_s"] * 30) == 16
