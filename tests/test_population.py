"""Modules that read whole trials: what they are shown in training and asked about later, and what must not reach the other neurons."""

import sys
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from torch import nn

import qf_toolkit as qf
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.network import NetworkForecaster, fit_network
from qf_toolkit.estimators.registry import MODELS
from qf_toolkit.evaluation.table import evaluate, evaluate_classifier
from qf_toolkit.interpret.observation import Observer
from qf_toolkit.models.options import Options
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut

torch.set_num_threads(1)
pytestmark = untaught
FEW = {"epochs": 3, "batch_size": 12, "lr": 1e-2, "progress": False, "most_neurons": 4}
SHOWN = []  # (training, x, valid) of every batch that a Crowd was given


@dataclass(frozen=True)
class CrowdConfig(Options):
    """No options."""


class Crowd(nn.Module):
    """Each neuron's own context and the mean over all whole neurons, each through a linear map."""

    name, Config, population = "crowd", CrowdConfig, True

    def __init__(self, config, sizes):
        super().__init__()
        self.own, self.all = (nn.Linear(sizes.n_context, sizes.n_out) for _ in range(2))

    def forward(self, batch):
        SHOWN.append((self.training, batch.x, batch.valid))
        whole = batch.whole()[..., None]
        mean = (batch.x * whole).sum(1, keepdim=True) / whole.sum(1, keepdim=True).clamp(min=1)
        return self.own(batch.x) + self.all(mean)


@pytest.fixture(autouse=True)
def crowd(monkeypatch):
    home = ModuleType("qf_toolkit.models.baselines.crowd")
    home.Crowd = Crowd
    monkeypatch.setitem(sys.modules, home.__name__, home)
    monkeypatch.setitem(MODELS, "crowd", "models.baselines.crowd:Crowd")
    SHOWN.clear()


def hole(traces, trials):
    """A hole in two neurons' traces: of some trials it takes the baseline, of others the response."""
    at = int(trials["onset_frame"].iloc[20])
    traces[1, at - 12 : at + 6] = np.nan
    traces[2, at + 3 : at + 8] = np.nan


@pytest.fixture(scope="module", params=["dff", "zscore"])
def split(request):
    sessions = [toy_session(0, change=hole), toy_session(1, session="two", n_neurons=3)]
    return split_blocks(cut(sessions, signal=request.param, f0_s=1.0))


@pytest.mark.parametrize("task", ["forecast", "activation"])
def test_a_step_shows_whole_trials_of_some_neurons_and_a_forecast_of_all(task, split):
    with pytest.warns(UserWarning, match="left out"):
        model = fit_network(split, "crowd", task, **FEW)
    assert model.population
    trained, asked = ([x.shape for training, x, _ in SHOWN if training is t] for t in (True, False))
    # 12 observations a step are 3 trials of 4 of the 6 neurons, or 4 trials of the 3 neurons of the other session
    assert {(n, max(b for b, m, _ in trained if m == n)) for _, n, _ in trained} == {(4, 3), (3, 4)}
    assert {n for _, n, _ in asked} == {6, 3}
    SHOWN.clear()
    model.predict(split.test.by_session()[0])
    assert {x.shape[1] for _, x, _ in SHOWN} == {6} and not any(training for training, *_ in SHOWN)


def test_neurons_are_drawn_anew_and_all_with_0(split):
    for most, widths in ((4, {4, 3}), (0, {6, 3}), (99, {6, 3})):
        SHOWN.clear()
        with pytest.warns(UserWarning, match="left out"):
            fit_network(split, "crowd", **{**FEW, "most_neurons": most})
        assert {x.shape[1] for training, x, _ in SHOWN if training} == widths


@pytest.mark.parametrize("task", ["forecast", "activation"])
@pytest.mark.filterwarnings("ignore:left out")
def test_the_loss_counts_each_usable_observation_once(task, split):
    model = fit_network(split, "crowd", task, **FEW)
    bank = model.bank(model.prepare(split.train))
    with torch.no_grad():
        total = count = 0.0
        for at in bank.trial_chunks():
            given = model._given(bank, at)
            n = int(given.usable.sum())
            total, count = total + n * float(model._loss(bank, given)), count + n
    assert count == len(bank) and bank.unusable  # the same observations that a model of single neurons is given
    # the same by hand, from the forecasts and the truth of the dataset
    errors, counts = [], []
    for part in split.train.by_session():
        ds = model.prepare(part).dataset()
        n_b, signal = ds.attrs["n_baseline"], ds[part.window.signal].values
        asked = Observations(np.nan_to_num(signal[..., :n_b]), part.neurons, [str(c) for c in ds["condition"].values], np.isfinite(signal[..., :n_b]))
        whole, out = np.isfinite(signal).all(-1), model.predict_arrays(asked).astype(float)
        if task == "forecast":
            each = np.square(out - signal[..., n_b:]).mean(-1) / float(bank.divisors.square().mean())
        else:
            label = ds["active"].values.astype(float)
            each = -(label * np.log(out) + (1 - label) * np.log(1 - out))
        errors.append(each[whole].sum())
        counts.append(whole.sum())
    assert sum(counts) == count and total / count == pytest.approx(sum(errors) / sum(counts), rel=1e-4)


@pytest.mark.filterwarnings("ignore:left out")
def test_labels_are_those_of_the_observations(split):
    model = fit_network(split, "crowd", "activation", **FEW)
    bank = model.bank(model.prepare(split.train))
    for at in bank.trial_chunks():
        rows = bank.rows_of(at)
        places, batch = bank.observations(at, rows), bank.population(at, rows)
        assert torch.equal(places >= 0, batch.whole())
        for b, n in ((0, 0), (1, 2)):
            if places[b, n] >= 0:
                one = bank.batch(places[b, n][None])
                assert torch.equal(one.x[0, 0], batch.x[b, n]) and one.neuron == batch.neuron[b, n] and one.condition == batch.condition[b]


@pytest.mark.filterwarnings("ignore:left out")
def test_a_neuron_without_a_baseline_changes_no_other_forecast(split):
    model = fit_network(split, "crowd", **FEW)
    part = split.test.by_session()[0]
    ds = model.prepare(part).dataset()
    n, conditions = ds.attrs["n_baseline"], [str(c) for c in ds["condition"].values]
    context = np.nan_to_num(ds[part.window.signal].values[..., :n])
    answers = []
    for value in (0.0, 50.0):
        valid = np.ones(context.shape, bool)
        valid[:, 3, 5] = False
        context[:, 3, 5] = value
        answers.append(model.predict_arrays(Observations(context, part.neurons, conditions, valid)))
    others = [i for i in range(len(part.neurons)) if i != 3]
    np.testing.assert_array_equal(answers[0][:, others], answers[1][:, others])
    # and where all are whole, a neuron's forecast does read the others
    moved = context.copy()
    moved[:, 4] += 5
    whole = [model.predict_arrays(Observations(c, part.neurons, conditions)) for c in (context, moved)]
    assert not np.allclose(whole[0][:, 0], whole[1][:, 0])
    view = Observations(context[..., ::-1], part.neurons, conditions, valid[..., ::-1])  # backwards: its strides are negative
    copied = Observations(view.context.copy(), part.neurons, conditions, valid[..., ::-1].copy())
    np.testing.assert_array_equal(model.predict_arrays(view), model.predict_arrays(copied))


@pytest.mark.parametrize("task", ["forecast", "activation"])
@pytest.mark.filterwarnings("ignore:left out")
def test_saved_interrupted_and_measured_like_any_other(task, split, tmp_path, monkeypatch):
    whole = fit_network(split, "crowd", task, **FEW)
    assert fit_network(split, "crowd", task, **FEW).digest() == whole.digest()
    steps, kind = [], type(whole)
    real = kind._loss

    def loss(self, *given):
        steps.append(None)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as m:
        m.setattr(kind, "_loss", loss)
        with pytest.raises(KeyboardInterrupt):
            fit_network(split, "crowd", task, checkpoint=tmp_path / "kept", checkpoint_s=1e-9, **FEW)
    assert fit_network(split, "crowd", task, checkpoint=tmp_path / "kept", **FEW).digest() == whole.digest()
    whole.save(tmp_path / "model")
    loaded = qf.load(tmp_path / "model", device="cpu")
    assert loaded.population and loaded.digest() == whole.digest() and loaded.predict(split.test).identical(whole.predict(split.test))
    table = (evaluate if task == "forecast" else evaluate_classifier)([loaded], split)
    assert table.index[0] == "crowd" and np.isfinite(table.iloc[0].drop("seed", errors="ignore").to_numpy(float)).any()


@pytest.mark.filterwarnings("ignore:left out")
def test_the_inspector_tells_it_which_neurons_are_measured(split):
    models = [fit_network(split, "crowd", t, **FEW) for t in ("forecast", "activation")]
    part = split.train.by_session()[0]
    observer, n = Observer(part, models), part.dataset().attrs["n_baseline"]
    unmeasured = ~np.isfinite(models[0].prepare(part).dataset()[part.window.signal].values[:, 1, :n]).all(-1)
    at = int(np.flatnonzero(unmeasured)[0])
    whole = {m.task: m.predict(part) for m in models}
    view = observer.look(part.sessions[0], part.neurons[0], int(part.table["trial"].iloc[at]))
    shown = view["forecast"].sel(model="crowd", time=slice(0, None))
    np.testing.assert_allclose(shown, whole["forecast"]["forecast"][at, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(view["probability"][0], whole["activation"]["probability"][at, 0], rtol=1e-4)


def test_models_of_single_neurons_are_no_population(split):
    with pytest.warns(UserWarning, match="left out"):
        model = fit_network(split, "nlinear", epochs=1, progress=False)
    assert isinstance(model, NetworkForecaster) and not model.population
