import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from qf_toolkit.evaluation import activation_scores as a


def observations(seed=0, n=300, ties=True):
    rng = np.random.default_rng(seed)
    active = rng.random(n) < 0.2
    p = np.clip(0.2 * active + rng.normal(0.3, 0.15, n), 0, 1)
    return active, np.round(p, 2) if ties else p


def test_classification_against_sklearn():
    rng = np.random.default_rng(6)
    active, predicted = rng.random(300) < 0.2, rng.random(300) < 0.4
    s = a.classification_scores(active, predicted)
    for name in ("balanced_accuracy", "precision", "recall", "f1"):
        assert s[name] == pytest.approx(getattr(sk, f"{name}_score")(active, predicted))
    assert s["active_fraction"] == active.mean()
    assert np.isnan(a.classification_scores(np.zeros(5, bool), predicted[:5])["balanced_accuracy"])


def test_choose_threshold_is_the_best_of_all():
    active, p = observations(7)
    best = max(sk.balanced_accuracy_score(active, p >= t) for t in np.unique(p))
    assert sk.balanced_accuracy_score(active, p >= a.choose_threshold(p, active)) == pytest.approx(best)
    assert a.choose_threshold(p, np.zeros(300, bool)) == 0.5


def test_probability_scores_by_hand():
    found = a.probability_scores([True, False, True, False], [0.9, 0.8, 0.7, 0.1])
    assert found["auroc"] == pytest.approx(3 / 4)  # of the four pairs of an active and a silent one, three are in order
    assert found["average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found["brier"] == pytest.approx((0.1**2 + 0.8**2 + 0.3**2 + 0.1**2) / 4)
    one_class = a.probability_scores(np.zeros(3, bool), np.array([0.1, 0.2, 0.3]))
    assert np.isnan(one_class["auroc"]) and np.isnan(one_class["average_precision"]) and one_class["brier"] > 0


@given(st.integers(0, 10_000), st.booleans())
def test_scores_of_a_draw_are_sklearn_s_of_repeated_observations(seed, ties):
    active, p = observations(seed, 120, ties)
    rng = np.random.default_rng(seed)
    block = np.sort(rng.integers(0, 6, 120))
    drawn = a.Drawn(active, p, 0.4, block, 6)
    counts = np.stack([np.ones(6, int), rng.multinomial(6, np.full(6, 1 / 6))])
    for weights, decided, ranked in zip(counts, drawn.decided(counts), drawn.ranked(counts), strict=True):
        again = np.repeat(np.arange(120), weights[block])
        if not 0 < active[again].sum() < len(again):
            continue
        assert decided == pytest.approx([sk.balanced_accuracy_score(active[again], p[again] >= 0.4), sk.brier_score_loss(active[again], p[again])])
        assert ranked == pytest.approx([sk.roc_auc_score(active[again], p[again]), sk.average_precision_score(active[again], p[again])])
