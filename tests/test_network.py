"""Networks as forecasters and classifiers: every model of the registry from fit to table, picture and inspector."""

import json
from dataclasses import fields

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import toy_session, untaught
from torch import nn

import qf_toolkit as qf
from qf_toolkit.errors import DamagedFileError, LeakageError, QfError, UnknownKeyError
from qf_toolkit.estimators.interface import Observations
from qf_toolkit.estimators.network import NetworkConfig, NetworkForecaster, fit_network
from qf_toolkit.estimators.registry import MODELS, find
from qf_toolkit.evaluation.compare import compare
from qf_toolkit.evaluation.table import evaluate, evaluate_classifier
from qf_toolkit.interpret.neurons import neuron_tokens
from qf_toolkit.interpret.observation import Observer
from qf_toolkit.models.batch import Batch, Sizes
from qf_toolkit.models.conditioned import Conditioned
from qf_toolkit.models.options import Options
from qf_toolkit.plots.forecasts import figure_forecasts
from qf_toolkit.recordings.options import Selection, SplitOptions, WindowOptions
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.recordings.window import Window
from qf_toolkit.training.options import LoopConfig, RunConfig

torch.set_num_threads(1)
pytestmark = untaught
TASKS = ("forecast", "activation")
FEW = {"epochs": 3, "batch_size": 64, "lr": 3e-3, "progress": False}
SMALL = {model: {"width": 8, "layers": 1} for model in ("informer", "autoformer", "crossformer", "brainlm")}  # options of models that would take long
SESSIONS = [toy_session(0, matched=True), toy_session(1, session="two", matched=True)]
each_model = pytest.mark.parametrize("model", sorted(MODELS))
each_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(scope="module")
def split():
    return split_blocks(cut(SESSIONS, signal="zscore", f0_s=1.0))


@pytest.fixture(scope="module")
def fitted(split):
    return {(m, t): fit_network(split, m, t, **FEW, **SMALL.get(m, {})) for m in MODELS for t in TASKS}


def batch(b=4, n=3, t=20, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, t, generator=g)
    return Batch(x, torch.ones_like(x, dtype=torch.bool), torch.arange(n).expand(b, n), torch.arange(b) % 2, torch.zeros(b, dtype=torch.long))


# ---------------------------------------------------------------- modules


@each_model
@pytest.mark.parametrize("n_out", [1, 7])
def test_a_module_gives_a_number_for_each_frame_and_observation(model, n_out):
    kind = find(MODELS, model)
    module = kind(kind.Config(), Sizes(20, n_out, n_neurons=3, label=n_out == 1)).eval()
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():  # a map that begins at zero hides what is before it
            nn.init.normal_(parameter, std=0.1)
    given = batch()
    out = module(given)
    assert out.shape == (4, 3, n_out) and torch.isfinite(out).all() and isinstance(module, nn.Module)
    if not getattr(kind, "population", False):  # a model of single traces answers each the same, whatever stands beside it
        alone = module(Batch(*(v[1:2, 2:3] for v in given[:3]), *(v[1:2] for v in given[3:])))
        torch.testing.assert_close(alone[0, 0], out[1, 2], rtol=1e-5, atol=1e-6)
        return
    # a model of the population answers each trial, and each neuron in any order, the same, but not each neuron without the others
    order = torch.tensor([2, 0, 1])
    moved = module(given._replace(x=given.x[1:2, order], valid=given.valid[1:2], neuron=given.neuron[1:2, order], condition=given.condition[1:2]))
    torch.testing.assert_close(moved[0], out[1, order], rtol=1e-4, atol=1e-5)
    other = torch.cat([given.x[:, :2], given.x[:, 2:].flip(-1)], 1)
    assert not torch.allclose(module(given._replace(x=other))[:, 0], out[:, 0], atol=1e-6)


@pytest.mark.parametrize("model", [m for m in sorted(MODELS) if getattr(find(MODELS, m), "population", False)])
def test_a_neuron_with_a_gap_reaches_no_other_neuron(model):
    kind = find(MODELS, model)
    module = kind(kind.Config(), Sizes(20, 7, n_neurons=3)).eval()
    given = batch()
    given.valid[1, 2, 5] = False
    outs = [module(given._replace(x=torch.where(given.valid, given.x, v))) for v in (0.0, 1e3)]
    assert torch.equal(outs[0][:, :2], outs[1][:, :2])
    given.valid[:] = False
    assert torch.isfinite(module(given)).all()  # where no neuron is whole, the answer is a number all the same


@each_model
def test_options_of_a_module_are_checked(model):
    config = find(MODELS, model).Config
    for f in fields(config):
        with pytest.raises(QfError, match=f"^{f.name}: expected"):
            config(**{f.name: "nonsense"})


def test_nlinear_starts_as_the_mean_of_the_context_and_is_linear_about_the_last_frame():
    kind = find(MODELS, "nlinear")
    module = kind(kind.Config(), Sizes(20, 5))
    given = batch()
    torch.testing.assert_close(module(given), given.x.mean(-1, keepdim=True).expand(4, 3, 5))
    nn.init.normal_(module.map.weight)
    higher = module(given._replace(x=given.x + 3.0))  # a level passes through
    torch.testing.assert_close(higher, module(given) + 3.0)
    plain = kind(kind.Config(subtract_last=False), Sizes(20, 5))
    torch.testing.assert_close(plain(given), given.x.mean(-1, keepdim=True).expand(4, 3, 5))


def test_the_lstm_is_that_of_its_equations():
    """Against the equations of Hochreiter and Schmidhuber, gate by gate."""
    kind = find(MODELS, "lstm")
    module = kind(kind.Config(width=5), Sizes(6, 3)).eval()
    x = torch.randn(2, 1, 6)
    w, u, b, c = (getattr(module.reader, f"{n}_l0") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = cell = torch.zeros(2, 5)
    for t in range(6):
        i, f, g, o = (x[:, 0, t : t + 1] @ w.T + b + h @ u.T + c).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        h = o.sigmoid() * cell.tanh()
    found = module(batch()._replace(x=x))
    torch.testing.assert_close(found[:, 0], h @ module.map.weight.T + module.map.bias)


def test_tokens_change_nothing_before_training_and_tell_a_tuning_afterwards():
    torch.manual_seed(0)
    kind = find(MODELS, "nlinear")
    inner = kind(kind.Config(), Sizes(20, 5))
    module = Conditioned(inner, 20, 5, 3, 2, 8)
    given = batch()
    torch.testing.assert_close(module(given), inner(given))
    target = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.5, 2.0]])  # a number for each pair of neuron and condition: no sum of two terms
    wanted = target[given.neuron, given.condition[:, None]][..., None].expand(4, 3, 5)
    optimiser = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(300):
        optimiser.zero_grad()
        loss = (module(given._replace(x=torch.zeros_like(given.x))) - wanted).square().mean()
        loss.backward()
        optimiser.step()
    assert loss < 1e-4


# ---------------------------------------------------------------- fitting


@each_model
@each_task
def test_training_lowers_the_validation_score_and_is_repeatable(model, task, split):
    options = {**FEW, "epochs": 8, **SMALL.get(model, {})}
    first, again = (fit_network(split, model, task, **options) for _ in range(2))
    assert min(h["score"] for h in first.history) < first.history[0]["score"]
    assert first.digest() == again.digest() and first.seed == 0
    assert set(first.reference) == {"epoch", "epochs", "score", "stimulus_mean", "mean"}


def test_an_interrupted_fit_ends_at_the_same_weights(split, tmp_path, monkeypatch):
    whole, steps, real = fit_network(split, "nlinear", **FEW), [], NetworkForecaster._loss

    def loss(self, *given):
        steps.append(None)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as m:
        m.setattr(NetworkForecaster, "_loss", loss)
        with pytest.raises(KeyboardInterrupt):
            fit_network(split, "nlinear", checkpoint=tmp_path, **FEW)
    assert fit_network(split, "nlinear", checkpoint=tmp_path, **FEW).digest() == whole.digest()


def test_frames_after_the_onset_change_no_forecast(split, fitted):
    for model in fitted.values():
        part = split.test.by_session()[0]
        asked_about = part.dataset()[part.window.signal].values
        n = part.dataset().attrs["n_baseline"]
        changed = asked_about.copy()
        changed[..., n:] += 100
        asked = [Observations(np.nan_to_num(x[..., :n]), part.neurons, [str(c) for c in part.table["condition"]]) for x in (asked_about, changed)]
        np.testing.assert_array_equal(*(model.predict_arrays(a) for a in asked))


@each_task
def test_without_tokens_a_network_takes_neurons_it_never_saw(task, split):
    other = split_blocks(cut(toy_session(5, subject="rat"), signal="zscore", f0_s=1.0))
    told, plain = (fit_network(split, "nlinear", task, token_width=w, **FEW) for w in (16, 0))
    with pytest.raises(UnknownKeyError, match="neuron"):
        told.predict(other.test)
    assert told.has_tokens and not plain.has_tokens
    asked = Observations(np.zeros((1, 1, 30)), ["rat/0"], ["unheard/of=1"])
    assert np.isfinite(plain.predict_arrays(asked)).all()


def test_conditions_that_were_never_shown(split):
    trials = cut(SESSIONS, signal="zscore", f0_s=1.0)
    less = split_blocks(trials.subset((trials.table["orientation"] != 90).to_numpy()))
    strict, wide = (fit_network(less, "lstm", stim_token=s, **FEW) for s in ("condition", "features"))
    with pytest.raises(UnknownKeyError, match="condition"):
        strict.predict(split.test)
    wide.check_unseen(split.test)
    assert np.isfinite(wide.predict(split.test)["forecast"]).all()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model": "arima"}, f"model: expected one of {', '.join(MODELS)}, found 'arima'"),
        ({"task": "codes"}, "task: expected one of forecast, activation, found 'codes'"),
        ({"widht": 3}, "widht: no option of fit_network; did you mean width"),
        ({"width": 0}, "width: expected a whole number from 1 to 4096"),
        ({"token_width": -1}, "token_width: expected a whole number from 0 to 4096"),
        ({"epochs": 0}, "epochs: expected"),
        ({"device": "tpu"}, "device: expected auto, cpu"),
    ],
)
def test_bad_calls_are_refused_in_a_line(change, words, split):
    with pytest.raises(QfError, match=words) as told:
        fit_network(split, **{"model": "lstm", **FEW, **change})
    assert "\n" not in str(told.value)


def test_what_is_no_split_is_refused(split):
    with pytest.raises(QfError, match="split: expected a Split"):
        fit_network(split.train, "lstm")


def test_other_windows_are_refused(split, fitted):
    with pytest.raises(QfError, match=r"baseline_s: expected 3\.0, the model's, found 2\.0"):
        fitted["lstm", "forecast"].predict(cut(SESSIONS, baseline_s=2.0, f0_s=1.0, signal="zscore"))
    with pytest.raises(QfError, match="active_gain: expected 0.1, with which the classifier was trained"):
        fitted["lstm", "activation"].predict(cut(SESSIONS, active_gain=0.2, f0_s=1.0, signal="zscore"))


# ---------------------------------------------------------------- saved, scored, drawn


def test_saved_models_answer_as_before(split, fitted, tmp_path):
    for (name, task), model in fitted.items():
        folder = tmp_path / f"{name}_{task}"
        model.save(folder)
        loaded = qf.load(folder, device="cpu")
        assert loaded.digest() == model.digest() and loaded.predict(split.test).identical(model.predict(split.test))
        for attribute in ("name", "task", "seen", "seed", "simulated", "reference", "history", "options", "config"):
            assert getattr(loaded, attribute) == getattr(model, attribute), attribute
        with pytest.raises(LeakageError):
            loaded.check_unseen(split.train)


def test_altered_files_are_refused_in_a_line(fitted, tmp_path):
    fitted["lstm", "forecast"].save(tmp_path)
    file = tmp_path / "config.json"
    note = json.loads(file.read_text())
    assert Window(**note["window"]) == fitted["lstm", "forecast"].window
    for change in (
        {"model": "gru"}, {"options": {**note["options"], "width": 10**9}}, {"options": {**note["options"], "width": 4096}},
        {"options": {"depth": 3}}, {"options": 3}, {"neurons": note["neurons"][1:]}, {"scale": {}}, {"rate_hz": 12.0}, {"config": {"token_width": "many"}},
    ):  # fmt: skip
        file.write_text(json.dumps({**note, **change}))
        with pytest.raises((DamagedFileError, QfError)) as told:
            qf.load(tmp_path, device="cpu")
        assert "\n" not in str(told.value) and str(tmp_path) in str(told.value)


def test_rows_of_the_tables(split, fitted):
    forecasters = [fitted[m, "forecast"] for m in MODELS]
    table = evaluate(forecasters, split)
    assert [f.name for f in forecasters] == list(table.index[: len(MODELS)]) and np.isfinite(table.loc[forecasters[0].name, "mse"])
    assert set(compare(forecasters, split).index.get_level_values("forecaster")) == {f.name for f in forecasters}
    classifiers = [fitted[m, "activation"] for m in MODELS]
    assert [c.name for c in classifiers] == list(evaluate_classifier(classifiers, split).index[: len(MODELS)])
    with pytest.raises(QfError, match="expected a forecaster, found a classifier"):
        evaluate(classifiers, split)


def test_pictures_and_the_inspector_know_them_without_being_told(split, fitted):
    models = [fitted[m, t] for m in MODELS for t in TASKS]
    part = split.test.by_session()[0]
    observer = Observer(part, models, n_samples=4)
    view = observer.look(part.sessions[0], part.neurons[0], int(part.table["trial"].iloc[0]))
    assert view.attrs["notes"] == [] and np.isfinite(view["forecast"].sel(time=slice(0, None))).all()
    assert list(view["classifier"].values) == [find(MODELS, m).name for m in MODELS] and ((view["probability"] > 0) & (view["probability"] < 1)).all()
    whole = fitted["lstm", "forecast"].predict(part)["forecast"].sel(neuron=part.neurons[0]).isel(trial=0)
    np.testing.assert_allclose(view["forecast"].sel(model="LSTM", time=slice(0, None)), whole, rtol=1e-4, atol=1e-5)
    fig = figure_forecasts(part, {m.name: m.predict(part) for m in models if m.task == "forecast"})
    assert fig.axes
    plt.close(fig)
    tokens = neuron_tokens(fitted["lstm", "forecast"])
    assert tokens.shape == (6, 16) and not np.array_equal(tokens, neuron_tokens(fitted["lstm", "forecast"], moved=True))


# ---------------------------------------------------------------- what the registry holds


@each_model
def test_a_model_of_the_registry_has_what_is_asked_of_it(model):
    """A class with a name for tables and options of its own, whose names no other option of a fit has."""
    kind = find(MODELS, model)
    assert isinstance(kind.name, str) and issubclass(kind.Config, Options), "give the class a `name` and its dataclass of options as `Config`"
    assert all("range" in f.metadata for f in fields(kind.Config)), "make every field with `option(...)`"
    taken = {f.name for other in (NetworkConfig, LoopConfig, RunConfig, Selection, WindowOptions, SplitOptions) for f in fields(other)}
    assert not taken & {f.name for f in fields(kind.Config)}, "name the option otherwise: `qf fit` has another one of that name"


def test_a_module_that_gives_another_shape_is_named():
    class Flat(nn.Module):
        name = "flat"

        def forward(self, given):
            return given.x.flatten(0, 1)[:, :5]

    for width in (0, 8):
        with pytest.raises(QfError, match=r"flat: expected an output of shape \(B, N, n_out\) = \(4, 3, 5\), found \(12, 5\)"):
            Conditioned(Flat(), 20, 5, 3, 2, width)(batch())
