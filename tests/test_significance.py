import numpy as np
import pandas as pd
import pytest

from qf_toolkit.errors import QfError
from qf_toolkit.evaluation import significance as s


def units(**animals):
    """{animal: blocks of each of its sessions} as the table that is drawn from."""
    rows = [(animal, f"{animal}/{i}") for animal, sessions in animals.items() for i, n in enumerate(sessions) for _ in range(n)]
    return pd.DataFrame(rows, columns=["animal", "session"])


def test_blocks_are_runs_of_trials():
    for n in (1, 2, 4, 5, 12, 27, 60, 200, 6000):
        block = s.blocks_of(n)
        sizes = np.bincount(block)
        assert len(block) == n and (np.diff(block) >= 0).all() and len(sizes) <= 20 and sizes.max() - sizes.min() <= 1
        assert n < 15 or sizes.min() >= 3
    assert len(np.bincount(s.blocks_of(4))) == 4


def test_a_draw_takes_animals_then_sessions_then_blocks():
    u = units(a=[4, 6], b=[5], c=[3, 3, 3])
    counts = np.concatenate(list(s.draws(u, 4000, seed=1)))
    sizes = u.groupby("session").size()
    of_session = {key: counts[:, (u["session"] == key).to_numpy()].sum(1) / sizes[key] for key in sizes.index}
    assert all(np.array_equal(times, times.round()) for times in of_session.values())  # a session is drawn whole
    animal = {a: sum(v for k, v in of_session.items() if k.startswith(a)) for a in "abc"}
    assert (animal["a"] / 2 + animal["b"] + animal["c"] / 3 == 3).all()  # three animals a draw, each with as many sessions as it has
    for key, times in of_session.items():
        assert times.mean() == pytest.approx(1, abs=0.08), key
    assert counts.mean() == pytest.approx(1, abs=0.02)


def test_macro_means_are_the_mean_of_the_sessions():
    u, rng = units(a=[4], b=[2, 3]), np.random.default_rng(0)
    numerator, denominator = rng.normal(size=(9, 2)), rng.uniform(1, 2, (9, 1))
    session = u["session"].to_numpy()
    wanted = np.mean([numerator[session == k].sum(0) / denominator[session == k].sum() for k in np.unique(session)], 0)
    assert s.macro_means(u, numerator, denominator, np.ones((1, 9), int))[0] == pytest.approx(wanted)
    # a session without a denominator does not count
    denominator[session == "b/0"] = 0
    wanted = np.mean([numerator[session == k].sum(0) / denominator[session == k].sum() for k in ("a/0", "b/1")], 0)
    assert s.macro_means(u, numerator, denominator, np.ones((1, 9), int))[0] == pytest.approx(wanted)
    assert np.isnan(s.macro_means(u, numerator, 0 * denominator, np.ones((1, 9), int))).all()


def test_intervals_of_one_session_are_those_of_the_mean_of_its_blocks():
    u, x = units(a=[400]), np.random.default_rng(3).normal(0.5, 1, (400, 1))
    low, high = s.intervals(u, lambda c: s.macro_means(u, x, np.ones_like(x), c), seed=2)
    half = 1.96 * x.std(ddof=1) / 20
    assert (low[0], high[0]) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.01)
    again = s.intervals(u, lambda c: s.macro_means(u, x, np.ones_like(x), c), seed=2)
    assert again[0] == low and again[1] == high
    with pytest.raises(QfError, match="none"):
        s.intervals(u[:0], lambda c: c)


def test_what_differs_between_animals_is_in_the_interval():
    """Many blocks don't help against few animals: the truth, over all animals there are, is inside about as often as it says."""
    rng, inside, narrow = np.random.default_rng(4), 0, 0
    for _ in range(60):
        u = units(**{f"m{i}": [10, 10] for i in range(8)})
        animal = rng.normal(0, 1, 8)
        x = (np.repeat(animal, 20) + rng.normal(0, 0.3, 160))[:, None]
        low, high = s.intervals(u, lambda c, u=u, x=x: s.macro_means(u, x, np.ones_like(x), c), n=400)
        inside += low[0] <= 0 <= high[0]
        half = 1.96 * x.std() / np.sqrt(160)  # as if all blocks were independent
        narrow += abs(x.mean()) <= half
    assert inside >= 46 and narrow <= 30
