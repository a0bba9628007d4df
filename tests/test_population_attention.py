"""Who looks at whom, against a second computation, and against networks whose connections are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from helpers import toy_session
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from qf_toolkit.errors import QfError
from qf_toolkit.estimators.interface import observations_of
from qf_toolkit.interpret.population_attention import against_connections, connections_of, looked_at, neuron_attention
from qf_toolkit.recordings.trials import cut

N = 20


def joined(seed=0):
    rng = np.random.default_rng(seed)
    names = [f"mouse/one/{i}" for i in range(N)]
    return xr.DataArray(rng.standard_normal((N, N)), {"to": names, "from": names}, ("to", "from"))


class Looking:
    """A model whose attention follows connections as much as it is told."""

    name, has_neuron_attention, seed = "looking", True, 4

    def __init__(self, truth, follows=1.0):
        self.truth, self.follows, self.asked = truth, follows, []

    def prepare(self, trials):
        return trials

    def digest(self):
        return "looks"

    def neuron_attention_arrays(self, asked):
        self.asked.append(asked)
        rng = np.random.default_rng(1)
        scores = self.follows * np.abs(self.truth.sel(to=asked.neurons, **{"from": asked.neurons}).values)
        scores = scores + 0.3 * rng.standard_normal((2, 3, *scores.shape))
        scores = np.exp(scores)
        return (scores / scores.sum(-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def trials():
    return cut(toy_session(n_neurons=N))


def test_attention_is_that_of_the_model_with_the_neurons_named(trials):
    model = Looking(joined())
    found = neuron_attention(model, trials)
    assert found["attention"].dims == ("layer", "head", "neuron", "neuron_seen") and found["attention"].dtype == np.float32
    assert list(found["layer"].values) == [1, 2] and list(found["head"].values) == [1, 2, 3]
    assert list(found["neuron"].values) == list(found["neuron_seen"].values) == trials.neurons
    np.testing.assert_allclose(found["attention"].sum("neuron_seen"), 1, rtol=1e-5)
    asked, _ = observations_of(trials.dataset(), "dff")
    np.testing.assert_array_equal(model.asked[0].context, asked.context)
    np.testing.assert_array_equal(found["attention"], model.neuron_attention_arrays(asked))
    assert found.attrs["model"] == "looks" and found.attrs["seed"] == 4 and found.attrs["session"] == "mouse/one" and found.attrs["n_trials"] == 60
    mean = found["attention"].values.astype(float).mean((0, 1))
    wanted = [np.delete(mean[:, j], j).mean() * N for j in range(N)]
    np.testing.assert_allclose(looked_at(found), wanted)


def test_scores_are_those_of_a_second_computation(trials):
    truth = joined()
    attention = neuron_attention(Looking(truth), trials)
    found = against_connections(attention, truth, n_shuffles=19)
    mean, size, off = attention["attention"].values.astype(float).mean((0, 1)), np.abs(truth.values), ~np.eye(N, dtype=bool)
    one = found["score"].sel(map="mean")
    assert one.sel(measure="r").item() == pytest.approx(spearmanr(mean[off], size[off]).statistic)
    assert one.sel(measure="auroc").item() == pytest.approx(roc_auc_score(size[off] > np.quantile(size[off], 0.9), mean[off]))
    assert one.sel(measure="r_out").item() == pytest.approx(spearmanr((mean * off).sum(0), (size * off).sum(0)).statistic)
    assert one.sel(measure="r_in").item() == pytest.approx(spearmanr((mean * off).sum(1), (size * off).sum(1)).statistic)
    head = found["score"].sel(map="layer 2, head 3", measure="r").item()
    assert head == pytest.approx(spearmanr(attention["attention"].values[1, 2][off], size[off]).statistic)
    assert found["layer"].values.tolist() == [0, 1, 1, 1, 2, 2, 2] and found["head"].values.tolist() == [0, 1, 2, 3, 1, 2, 3]


def test_connections_are_found_and_chance_is_chance(trials):
    truth = joined()
    follows = against_connections(neuron_attention(Looking(truth), trials), truth, n_shuffles=99).sel(map="mean")
    not_at_all = against_connections(neuron_attention(Looking(truth, 0.0), trials), truth, n_shuffles=99).sel(map="mean")
    assert follows["score"].sel(measure="auroc") > 0.95 and (follows["p"].sel(measure=["r", "auroc"]) == 0.01).all()
    assert abs(not_at_all["score"].sel(measure="r")) < 0.15 and not_at_all["p"].sel(measure="r") > 0.01
    for one in (follows, not_at_all):
        assert abs(one["chance"].sel(measure="r")) < 0.05 and one["chance"].sel(measure="auroc").item() == pytest.approx(0.5, abs=0.05)
        assert (one["chance"] < one["chance_high"]).all()


def test_another_order_of_the_neurons_changes_no_score(trials):
    truth = joined()
    attention = neuron_attention(Looking(truth), trials)
    order = np.random.default_rng(0).permutation(N)
    again = against_connections(attention.isel(neuron=order, neuron_seen=order), truth[::-1, ::-1], n_shuffles=1)
    np.testing.assert_allclose(again["score"], against_connections(attention, truth, n_shuffles=1)["score"], rtol=1e-9)
    np.testing.assert_allclose(connections_of(attention, truth[::-1]), np.abs(truth))


def test_the_truth_of_a_simulated_network_is_taken_as_it_is(trials):
    truth = joined()
    plain = xr.Dataset({"connections": (("to", "from"), truth.values)}, {"neuron": truth["to"].values})
    attention = neuron_attention(Looking(truth), trials)
    part = attention.isel(neuron=slice(3, 9), neuron_seen=slice(3, 9))
    np.testing.assert_allclose(connections_of(part, plain), np.abs(truth.values[3:9, 3:9]))
    sparse = truth.where(np.abs(truth) > 1.9, 0.0)  # about 5 % are connected: all of those are the strong ones
    strong = roc_auc_score(
        (sparse.values != 0)[~np.eye(N, dtype=bool)], attention["attention"].values.astype(float).mean((0, 1))[~np.eye(N, dtype=bool)]
    )
    found = against_connections(attention, sparse, n_shuffles=1)["score"].sel(map="mean", measure="auroc")
    assert found.item() == pytest.approx(strong)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: neuron_attention(SimpleNamespace(name="ridge"), t), "expected one with attention across neurons, found 'ridge'"),
        (lambda t: neuron_attention(Looking(joined()), cut([toy_session(), toy_session(session="two")])), "those of one session.*found 2"),
        (lambda t: neuron_attention(Looking(joined()), t.subset(np.zeros(0, int))), "trials"),
        (lambda t: against_connections(neuron_attention(Looking(joined()), t), xr.Dataset()), "truth: expected connections"),
        (
            lambda t: against_connections(neuron_attention(Looking(joined()), t), joined()[:5, :5]),
            "expected the connections of mouse/one/5, found none among 5",
        ),
        (lambda t: against_connections(neuron_attention(Looking(joined()), t), joined(), strongest=1.0), "strongest"),
        (lambda t: against_connections(neuron_attention(Looking(joined()), t), joined(), n_shuffles=0), "n_shuffles"),
    ],
)
def test_what_cannot_be_compared_is_told(trials, ask, message):
    with pytest.raises(QfError, match=message):
        ask(trials)
