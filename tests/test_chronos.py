"""Chronos as a forecaster: quantiles become a distribution, what is missing is told in a line, and the real classes run with small random weights."""

import json

import numpy as np
import pytest
import torch
from helpers import needs, toy_session
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate, stats

import qf_toolkit as qf
from qf_toolkit.errors import QfError
from qf_toolkit.estimators.chronos import ChronosForecaster, digest_of_weights, mean_of_quantiles, quantiles_at
from qf_toolkit.evaluation.table import evaluate
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
LEVELS = np.arange(1, 10) / 10
real = needs("chronos", "chronos")


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut(toy_session(0, n_neurons=3, repeats=3), signal="zscore", f0_s=1.0))


# ---------------------------------------------------------------- quantiles


@st.composite
def distributions(draw):
    """Levels, and sorted quantiles of several observations."""
    levels = np.array(sorted(draw(st.sets(st.integers(1, 99), min_size=2, max_size=12)))) / 100
    q = draw(hnp.arrays(np.float64, (3, len(levels)), elements=st.floats(-100, 100)))
    return levels, np.sort(q, -1)


@given(distributions(), st.lists(st.floats(0, 1), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_the_quantile_function_rises_and_passes_through_the_quantiles(given_, u):
    levels, q = given_
    u = np.sort(np.array(u))[:, None].repeat(3, 1)
    found = quantiles_at(levels, q, u)
    assert found.shape == u.shape and (np.diff(found, axis=0) >= -1e-9).all()
    np.testing.assert_allclose(quantiles_at(levels, q, levels[:, None].repeat(3, 1)).T, q, atol=1e-9)
    inside = (u > levels[0]) & (u < levels[-1])
    for row in range(3):
        np.testing.assert_allclose(found[inside[:, row], row], np.interp(u[inside[:, row], row], levels, q[row]), atol=1e-9)
    # beyond the outermost the last slope goes on
    ends = quantiles_at(levels, q, np.array([[0.0] * 3, [1.0] * 3]))
    np.testing.assert_allclose(ends[0], q[:, 0] - (q[:, 1] - q[:, 0]) / (levels[1] - levels[0]) * levels[0], atol=1e-6)
    np.testing.assert_allclose(ends[1], q[:, -1] + (q[:, -1] - q[:, -2]) / (levels[-1] - levels[-2]) * (1 - levels[-1]), atol=1e-6)


@given(distributions(), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_the_order_of_quantiles_that_cross_means_nothing(given_, seed):
    levels, q = given_
    crossed = np.random.default_rng(seed).permuted(q, axis=-1)
    u = np.linspace(0, 1, 7)[:, None].repeat(3, 1)
    np.testing.assert_array_equal(quantiles_at(levels, crossed, u), quantiles_at(levels, q, u))
    np.testing.assert_array_equal(mean_of_quantiles(levels, crossed), mean_of_quantiles(levels, q))


@given(distributions())
@settings(max_examples=30, deadline=None)
def test_the_mean_is_the_integral_of_the_quantile_function(given_):
    levels, q = given_
    wanted = [
        integrate.quad(lambda u, row=row: quantiles_at(levels, q[row], np.array([u]))[0], 0, 1, points=levels.tolist(), limit=200)[0]
        for row in range(3)
    ]
    np.testing.assert_allclose(mean_of_quantiles(levels, q), wanted, atol=1e-5)


def test_samples_have_the_quantiles_they_were_drawn_from():
    """Of a normal distribution nine quantiles tell all but the tails: the samples' quantiles and CRPS are its own to a hundredth."""
    q = stats.norm.ppf(LEVELS) * 2 + 5
    x = quantiles_at(LEVELS, q, np.random.default_rng(0).random(20_000))
    np.testing.assert_allclose(np.quantile(x, LEVELS), q, atol=0.05)
    y = 6.0
    crps = np.abs(x - y).mean() - np.abs(x[:, None] - x[None, :2000]).mean() / 2
    z = (y - 5) / 2
    exact = 2 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert crps == pytest.approx(exact, abs=0.02)
    assert mean_of_quantiles(LEVELS, q) == pytest.approx(5.0)


# ---------------------------------------------------------------- what is missing is told in a line


def weights(folder, kind="Chronos2Pipeline", text=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"chronos_pipeline_class": kind}) if text is None else text)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def told(row, split):
    with pytest.raises(QfError) as error:
        row.fit(split)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_without_weights_is_told_in_a_line(tmp_path, split):
    assert "found no folder" in (line := told(ChronosForecaster(tmp_path / "none"), split)) and "hf download" in line
    assert "found no folder amazon/chronos-2" in told(ChronosForecaster("amazon/chronos-2"), split)  # a name is not looked up anywhere
    (tmp_path / "empty").mkdir()
    assert "found no config.json in" in told(ChronosForecaster(tmp_path / "empty"), split)
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert "found no file .safetensors in" in told(ChronosForecaster(tmp_path / "empty"), split)
    assert "that can't be read" in told(ChronosForecaster(weights(tmp_path / "a", text="{")), split)
    assert "found those of 'another model'" in told(ChronosForecaster(weights(tmp_path / "b", text="[]")), split)
    assert "found those of 'ChronosPipeline'" in told(ChronosForecaster(weights(tmp_path / "c", "ChronosPipeline")), split)


def test_a_model_that_has_no_training_is_told_in_a_line(tmp_path, split):
    row = ChronosForecaster(weights(tmp_path / "bolt", "ChronosBoltPipeline"), fine_tune=True)
    assert "fine_tune: expected the weights of Chronos-2, found Chronos-Bolt" in told(row, split)


def test_a_missing_package_is_told_in_a_line(tmp_path, split, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "chronos", None)
    line = told(ChronosForecaster(weights(tmp_path)), split)
    assert "expected the package chronos-forecasting" in line and "pip install 'qf_toolkit[chronos]'" in line


@pytest.mark.parametrize(
    "change", [{"fine_tune": "yes"}, {"steps": 0}, {"lr": -1.0}, {"batch_size": 0.5}, {"seed": -1}, {"device": "tpu"}, {"progress": 2}]
)
def test_bad_options_are_refused(change):
    with pytest.raises(QfError, match=f"^{next(iter(change))}: expected"):
        ChronosForecaster("folder", **change)


def test_nothing_is_asked_before_it_is_fitted():
    row = ChronosForecaster("folder")
    assert (row.name, row.digest(), row.probabilistic, row.population) == ("Chronos, zero-shot (folder)", "", True, False)
    with pytest.raises(QfError, match="not fitted yet"):
        row.note()


def test_the_digest_is_of_all_files_that_decide(tmp_path):
    folder = weights(tmp_path)
    first = digest_of_weights(folder)
    (folder / "README.md").write_text("words")
    assert digest_of_weights(folder) == first
    (folder / "model.safetensors").write_bytes(b"1")
    assert digest_of_weights(folder) != first


# ---------------------------------------------------------------- the real classes, with small random weights


@pytest.fixture(scope="module", params=["ChronosBoltPipeline", "Chronos2Pipeline"])
def small(request, tmp_path_factory):
    """A folder with random weights of the real classes in the usual layout."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "chronos_pipeline_class": request.param}
    shared = {"context_length": 64, "input_patch_size": 8, "input_patch_stride": 8, "quantiles": LEVELS.round(1).tolist(), "use_reg_token": True}
    if request.param == "Chronos2Pipeline":
        from chronos.chronos2.config import Chronos2CoreConfig
        from chronos.chronos2.model import Chronos2Model

        config = Chronos2CoreConfig(**sizes, chronos_config={**shared, "output_patch_size": 8, "max_output_patches": 4})
        model = Chronos2Model(config)
    else:
        from chronos.chronos_bolt import ChronosBoltModelForForecasting
        from transformers import T5Config

        config = T5Config(**sizes, num_decoder_layers=1, decoder_start_token_id=0, chronos_config={**shared, "prediction_length": 32})
        model = ChronosBoltModelForForecasting(config)
    model.save_pretrained(folder)
    return folder


@real
@pytest.mark.filterwarnings("default")
def test_it_forecasts_alike_when_asked_again_alone_and_saved(small, split, tmp_path):
    row = ChronosForecaster(small, device="cpu").fit(split)
    whole = row.predict(split.test)["forecast"]
    assert whole.dims == ("trial", "neuron", "time") and np.isfinite(whole).all() and float(whole.std()) > 0
    assert row.predict(split.test)["forecast"].identical(whole)
    alone = row.predict(split.test.subset(np.arange(len(split.test)) == 2))["forecast"]
    np.testing.assert_allclose(alone.values[0], whole.values[2], rtol=1e-4, atol=1e-5)
    samples = row.sample(split.test, n_samples=200)["samples"]
    assert samples.identical(row.sample(split.test, n_samples=200)["samples"])
    assert float(np.abs(samples.mean("sample") - whole).max()) < 0.5 * float(samples.std("sample").max())
    row.save(tmp_path)
    loaded = qf.load(tmp_path, device="cpu")
    assert loaded.digest() == row.digest() and loaded.predict(split.test)["forecast"].identical(whole) and loaded.name == row.name
    note = json.loads((tmp_path / "config.json").read_text())
    assert note["folder"] == str(small) and note["weights_digest"] == digest_of_weights(small)


@real
@pytest.mark.filterwarnings("default")
def test_it_stands_in_the_table_with_its_spread(small, split):
    table = evaluate([ChronosForecaster(small, device="cpu").fit(split)], split, n_samples=20)
    assert np.isfinite(table.iloc[0][["mse", "crps", "coverage_90"]].astype(float)).all()


@real
@pytest.mark.filterwarnings("default")
def test_other_weights_are_refused(small, split, tmp_path):
    import shutil

    folder = tmp_path / "weights"
    shutil.copytree(small, folder)
    ChronosForecaster(folder, device="cpu").fit(split).save(tmp_path / "model")
    loaded = qf.load(tmp_path / "model", device="cpu")
    with open(folder / "model.safetensors", "r+b") as f:
        f.seek(-1, 2)
        last = f.read(1)[0]
        f.seek(-1, 2)
        f.write(bytes([last ^ 1]))
    with pytest.raises(QfError, match="weights: expected those in .* that this model was made from"):
        loaded.predict(split.test)
    shutil.rmtree(folder)
    with pytest.raises(QfError, match="found no folder"):
        qf.load(tmp_path / "model", device="cpu").predict(split.test)
    (weights(folder) / "model.safetensors").write_bytes(b"nothing")
    assert "can't be read by chronos-forecasting" in told(ChronosForecaster(folder, device="cpu"), split)


@real
@pytest.mark.filterwarnings("default")
def test_tuning_changes_the_forecast_and_nothing_else(small, split, tmp_path):
    if "Bolt" in small.name:
        pytest.skip("Chronos-Bolt has no training")
    before = digest_of_weights(small), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    short = {"fine_tune": True, "lr": 3e-3, "batch_size": 32, "device": "cpu"}
    made = [ChronosForecaster(small, steps=steps, **short).fit(split) for steps in (300, 5, 5)]
    assert digest_of_weights(small) == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002
    assert made[1].digest() == made[2].digest() and made[0].name == f"Chronos, fine-tuned ({small.name})"
    plain = ChronosForecaster(small, device="cpu").fit(split)
    truth = split.train.by_session()[0]
    errors = [float(((row.predict(truth)["forecast"] - responses(truth)) ** 2).mean()) for row in (made[0], plain)]
    assert errors[0] < 0.7 * errors[1] and made[0].digest() != plain.digest()
    made[0].save(tmp_path)
    assert qf.load(tmp_path, device="cpu").predict(split.test)["forecast"].identical(made[0].predict(split.test)["forecast"])


def responses(part):
    ds = part.dataset()
    return ds[part.window.signal].isel(time=slice(ds.attrs["n_baseline"], None)).values
