import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error, mean_squared_error

from qf_toolkit.errors import QfError
from qf_toolkit.evaluation import paper_scores as paper
from qf_toolkit.evaluation import scores as m


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(7, 3, 40)).cumsum(-1) * 0.1
    return truth + 0.3 * rng.normal(size=truth.shape), truth, rng.random(truth.shape) < 0.8


def test_mse_mae_against_sklearn(arrays):
    f, t, mask = arrays
    assert m.mse(f, t, mask) == pytest.approx(mean_squared_error(t[mask], f[mask]))
    assert m.mae(f, t, mask) == pytest.approx(mean_absolute_error(t[mask], f[mask]))
    per = m.mse(f, t, mask, per_neuron=True)
    assert per == pytest.approx([mean_squared_error(t[:, n][mask[:, n]], f[:, n][mask[:, n]]) for n in range(3)])


def test_masked_nan_does_not_count(arrays):
    f, t, mask = arrays
    f2, t2 = np.where(mask, f, np.nan), np.where(mask, t, np.inf)
    for score in (m.mse, m.mae, m.pearson, paper.smape):
        assert score(f2, t2, mask) == pytest.approx(score(f, t, mask))
    assert np.isnan(m.mse(f, t, np.zeros_like(mask)))


def test_pearson_against_scipy(arrays):
    f, t, mask = arrays
    want = np.array([[pearsonr(f[i, n][mask[i, n]], t[i, n][mask[i, n]])[0] for n in range(3)] for i in range(7)])
    assert m.window_r(f, t, mask) == pytest.approx(want)
    assert m.pearson(f, t, mask) == pytest.approx(want.mean())
    assert m.pearson(f, t, mask, per_neuron=True) == pytest.approx(want.mean(0))
    assert paper.corr_abs(f, t) == pytest.approx(np.mean([[abs(pearsonr(f[i, n], t[i, n])[0]) for n in range(3)] for i in range(7)]))


def test_pearson_constant_windows():
    wave = np.sin(np.arange(20.0))
    truth = np.stack([wave, np.full(20, 0.3), wave])[None]
    forecast = np.stack([np.full(20, 0.1, np.float32), wave, -wave])[None]
    assert m.window_r(forecast, truth)[0] == pytest.approx([0.0, np.nan, -1.0], nan_ok=True)
    assert m.pearson(forecast, truth) == pytest.approx(-0.5)  # the silent window is left out, the constant forecast counts as 0
    assert m.constant_windows(truth)[0].tolist() == [False, True, False]
    assert paper.corr_abs(forecast, truth) == pytest.approx(0.5)


def test_crps_against_double_loop(arrays):
    _, t, mask = arrays
    x = np.random.default_rng(1).normal(size=(9, *t.shape))
    want = []
    for y, s in zip(t[mask], x[:, mask].T, strict=True):
        spread = sum(abs(a - b) for a in s for b in s) / (2 * 9 * 8)
        want.append(np.abs(s - y).mean() - spread)
    assert m.crps_samples(x, t, mask) == pytest.approx(np.mean(want))
    assert m.crps_samples(x[:1], t) == pytest.approx(m.mae(x[0], t))


def test_crps_of_a_normal_forecast():
    rng = np.random.default_rng(2)
    truth = np.zeros((1, 1, 4000))
    # CRPS of N(0, 1) at 0 is sqrt(2/pi) - 1/sqrt(pi); fair, so right already at 5 samples
    assert m.crps_samples(rng.normal(size=(5, 1, 1, 4000)), truth) == pytest.approx(np.sqrt(2 / np.pi) - 1 / np.sqrt(np.pi), abs=0.015)


@pytest.mark.parametrize("n", [19, 39, 200])
def test_coverage_of_a_calibrated_forecast(n):
    rng = np.random.default_rng(3)
    samples, truth = rng.normal(size=(n, 10, 10, 80)), rng.normal(size=(10, 10, 80))
    assert m.coverage(samples, truth) == pytest.approx(0.9, abs=0.012)
    assert m.coverage(0.5 * samples, truth) < 0.7


def test_explained_share():
    assert m.explained_share(1.0, 1.0, 0.4) == 0
    assert m.explained_share(0.4, 1.0, 0.4) == 1
    assert m.explained_share(1.3, 1.0, 0.4) == pytest.approx(-0.5)
    assert np.isnan(m.explained_share(1.0, 1.0, 1.0))


def test_paper_normalise_and_constant_forecasts(arrays):
    f, t, _ = arrays
    assert np.abs(np.diff(paper.paper_normalise(t))).sum(-1) == pytest.approx(1)
    assert np.isinf(paper.paper_normalise(np.full(5, 0.2))).all()
    assert np.isinf(paper.paper_normalise(np.zeros(5))).all()
    want = np.mean([(f[i, n] / np.abs(np.diff(f[i, n])).sum() - t[i, n] / np.abs(np.diff(t[i, n])).sum()) ** 2 for i in range(7) for n in range(3)])
    assert paper.paper_mse(f, t) == pytest.approx(want)
    assert paper.paper_mse(3 * t, t) == pytest.approx(0)
    constant = np.full_like(t, 0.1)
    assert paper.paper_mse(constant, t) == np.inf and paper.paper_mae(constant, t) == np.inf
    assert paper.paper_smape(constant, t) == pytest.approx(2)


def test_paper_family_takes_whole_windows_only(arrays):
    f, t, _ = arrays
    mask = np.ones(t.shape, bool)
    mask[0, 0, 3] = False
    keep = np.ones((7, 3), bool)
    keep[0, 0] = False
    for score in (paper.paper_mse, paper.paper_mae, paper.paper_smape, paper.ssim_global, paper.corr_abs):
        assert score(f, t, mask) == pytest.approx(score(f[keep][None], t[keep][None]))
        assert score(f, t, mask) != pytest.approx(score(f, t), rel=1e-9)


def test_smape_by_loop(arrays):
    f, t, _ = arrays
    assert paper.smape(f, t) == pytest.approx(np.mean([abs(a - b) / ((abs(a) + abs(b)) / 2) for a, b in zip(f.ravel(), t.ravel(), strict=True)]))
    assert paper.smape(np.zeros((1, 1, 4)), np.zeros((1, 1, 4))) == 0
    assert paper.smape(-t, t) == pytest.approx(2)


def test_windows_of_different_lengths_count_alike():
    rng = np.random.default_rng(0)
    f, t = rng.normal(size=(2, 6, 3, 20))
    n_score = np.array([20, 5, 5, 20, 5, 12])
    mask = np.broadcast_to(np.arange(20) < n_score[:, None, None], t.shape).copy()
    mask[1, 0, 2] = mask[0, 1, 19] = False
    for score in (paper.paper_mse, paper.paper_mae, paper.paper_smape, paper.ssim_global, paper.corr_abs):
        alone = [score(f[i, j, :k][None, None], t[i, j, :k][None, None]) for i, k in enumerate(n_score) for j in range(3) if mask[i, j, :k].all()]
        assert len(alone) == 16 and score(f, t, mask, n_score) == pytest.approx(np.mean(alone))
        assert score(f, t, None, n_score[[0] * 6]) == score(f, t)


def test_ssim_quirk_and_formula():
    x = np.random.default_rng(4).normal(size=(1, 1, 40))
    assert paper.ssim_global(x, x) == pytest.approx(0.975, abs=1e-3)
    assert paper.ssim_global(x, x, reference_bias=False) == pytest.approx(1)
    y = np.random.default_rng(5).normal(size=(1, 1, 40)) + 0.5
    a, b = x[0, 0], y[0, 0]
    cov = np.cov(a, b)
    want = (2 * a.mean() * b.mean() + 1e-4) * (2 * cov[0, 1] + 9e-4) / ((a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4))
    assert paper.ssim_global(x, y, reference_bias=False) == pytest.approx(want)


def test_the_central_interval_covers_its_level():
    rng = np.random.default_rng(9)
    for n in (19, 64, 100):
        samples, new = rng.normal(size=(n, 20_000)), rng.normal(size=20_000)
        low, high = m.central_interval(samples, 0.9)
        assert ((new >= low) & (new <= high)).mean() == pytest.approx(0.9, abs=0.01)
    with pytest.raises(QfError, match="between 0 and 1"):
        m.central_interval(samples, 1.0)


def test_jump_by_loop():
    rng = np.random.default_rng(10)
    x, used = rng.normal(size=(4, 3, 20)), rng.random((4, 3)) < 0.7
    border, inside = [], []
    for trial, neuron in np.argwhere(used):
        for t in range(1, 20):
            (border if t % 6 == 0 else inside).append(abs(x[trial, neuron, t] - x[trial, neuron, t - 1]))
    assert m.jump(x, 6, used) == pytest.approx(np.mean(border) / np.mean(inside))
    steps = np.repeat(np.arange(3.0), 6)[None, None] + np.tile(np.arange(6) * 0.01, 3)
    assert m.jump(steps, 6) == pytest.approx((1 - 0.05) / 0.01)
    assert np.isnan(m.jump(x, 20)) and np.isnan(m.jump(np.ones((2, 2, 20)), 6)) and np.isnan(m.jump(x, 6, np.zeros((4, 3), bool)))


def test_shapes_are_checked(arrays):
    f, t, _ = arrays
    with pytest.raises(QfError, match="shape"):
        m.mse(f[:3], t)
    with pytest.raises(QfError, match="shape"):
        m.crps_samples(f, t)


def test_the_paper_s_family_written_out_by_hand(arrays):
    """Each score over windows of one neuron in one trial, as the paper's appendix III and Table 2 define it."""
    f, t, _ = arrays
    sums = dict.fromkeys(("mse", "mae", "smape", "corr", "ssim"), 0.0)
    for i in range(7):
        for n in range(3):
            p, q = f[i, n], t[i, n]
            a = p / sum(abs(p[k + 1] - p[k]) for k in range(39))
            b = q / sum(abs(q[k + 1] - q[k]) for k in range(39))
            sums["mse"] += sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / 40
            sums["mae"] += sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 40
            sums["smape"] += sum(2 * abs(x - y) / (abs(x) + abs(y)) for x, y in zip(a, b, strict=True)) / 40
            mp, mq = sum(p) / 40, sum(q) / 40
            biased = sum((x - mp) * (y - mq) for x, y in zip(p, q, strict=True)) / 40
            vp, vq = sum((x - mp) ** 2 for x in p) / 39, sum((y - mq) ** 2 for y in q) / 39
            sums["corr"] += abs(biased * 40 / 39) / np.sqrt(vp * vq)
            c1, c2 = 0.01**2, 0.03**2
            sums["ssim"] += (2 * mp * mq + c1) * (2 * biased + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
    found = {"mse": paper.paper_mse, "mae": paper.paper_mae, "smape": paper.paper_smape, "corr": paper.corr_abs, "ssim": paper.ssim_global}
    for name, score in found.items():
        assert score(f, t) == pytest.approx(sums[name] / 21), name


def test_the_correlation_at_a_step_is_that_over_trials_of_each_neuron():
    rng = np.random.default_rng(0)
    truth, forecast, mask = rng.standard_normal((9, 4, 5)), rng.standard_normal((9, 4, 5)), rng.random((9, 4, 5)) > 0.2
    forecast[:, 3] = 1.0
    by_hand = [[np.corrcoef(forecast[mask[:, n, t], n, t], truth[mask[:, n, t], n, t])[0, 1] for n in range(3)] + [0.0] for t in range(5)]
    assert np.allclose(m.step_r(forecast, truth, mask), np.mean(by_hand, 1))
    assert np.isnan(m.step_r(forecast, np.zeros_like(truth))).all()
