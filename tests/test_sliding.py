"""Windows that slide over continuous recordings."""

from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from helpers import toy_session
from hypothesis import given, settings
from hypothesis import strategies as st

import qf_toolkit as qf
from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.recordings.conditions import category_of
from qf_toolkit.recordings.session import new_session
from qf_toolkit.recordings.sliding import slide
from qf_toolkit.recordings.trials import cut


def continuous(seed=0, n_frames=600, rate_hz=5.0, jumps=(), session="1", **options):
    """A recording without trials: slow noise, with pauses of a minute before the frames `jumps`."""
    rng = np.random.default_rng(seed)
    x = np.zeros((3, n_frames))
    for t in range(1, n_frames):
        x[:, t] = 0.95 * x[:, t - 1] + rng.normal(0, 0.05, 3)
    time = np.arange(n_frames) / rate_hz
    for frame in jumps:
        time[frame:] += 60
    return new_session(100 * (1 + x), subject="worm", session=session, frame_time=time, rate_hz=rate_hz, **options)


def test_windows_need_no_trials(tmp_path):
    store = qf.Store(tmp_path, create=True)
    store.add(continuous())
    store.add(continuous(1, session="2", jumps=[200]))
    with pytest.raises(QfError, match="store.windows"):
        store.trials()
    windows = store.windows(length_s=20, response_s=5, every_s=10)
    assert windows.sessions == ["worm/1", "worm/2"] and windows.window.baseline_s == 15
    assert windows.intervals("worm/1").tolist() == [[s, s + 100] for s in range(0, 501, 50)]
    assert windows.intervals("worm/2").tolist() == [[s, s + 100] for s in (0, 50, 100, *range(200, 501, 50))]
    assert windows.table_of("worm/2")["block"].tolist() == [0] * 3 + [1] * 7
    assert windows.conditions == ["continuous/all"] and category_of("continuous/all") == "continuous"
    data = windows.dataset("worm/2")
    np.testing.assert_array_equal(data["time"], (np.arange(100) - 75) / 5)
    assert data["valid"].all() and data.attrs["n_baseline"] == 75
    assert store.windows(length_s=20, response_s=5, session="worm/2").sessions == ["worm/2"]


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 12), st.integers(1, 15),
    st.lists(st.integers(0, 360), min_size=1, max_size=20, unique=True),
)  # fmt: skip
def test_no_window_crosses_a_jump(lengths, n_baseline, n_response, step, onsets):
    edges = np.cumsum([0, *lengths])
    n = int(edges[-1])
    if n < 4 or len(lengths) * 2 > n:
        return
    onsets = [o for o in onsets if o < n] or [0]
    trials = pd.DataFrame({"onset_frame": sorted(onsets)})
    ds = continuous(n_frames=n, rate_hz=10.0, jumps=edges[1:-1], trials=trials)
    lengths_s = {"length_s": (n_baseline + n_response) / 10, "response_s": n_response / 10}
    expected = [
        [start, start + n_baseline + n_response] for low, high in pairwise(edges) for start in range(low, high - n_baseline - n_response + 1, step)
    ]
    if expected:
        assert slide(ds, every_s=step / 10, **lengths_s).intervals("worm/1").tolist() == expected
    else:
        with pytest.raises(QfError, match="windows: expected a stretch"):
            slide(ds, every_s=step / 10, **lengths_s)
    whole = [o for o in sorted(onsets) if any(low <= o - n_baseline and o + n_response <= high for low, high in pairwise(edges))]
    if whole:
        with pytest.warns(UserWarning) if len(whole) < len(onsets) else nullcontext():
            found = cut(ds, baseline_s=n_baseline / 10, response_s=n_response / 10)
        assert found.table["onset_frame"].tolist() == whole


def test_naive_rows_on_windows_are_those_of_a_second_computation():
    windows = slide([continuous(), continuous(1, session="2", jumps=[300])], length_s=6, response_s=2, every_s=1, signal="zscore")
    split = qf.split_chronological(windows, gap_s=0)
    parts = (split.train, split.validation, split.test)
    for session in windows.sessions:  # no frame in two parts
        used = [{f for a, b in part.intervals(session) for f in range(a, b)} for part in parts]
        assert not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]
    table = qf.evaluate([], split)
    ratios = {"copy last": [], "training mean": []}
    for session in windows.sessions:
        x = windows.source[session]["fluorescence"].values.astype(np.float64)
        seen = sorted({f for a, b in split.train.intervals(session) for f in range(a, b)})
        x = (x - x[:, seen].mean(1, keepdims=True)) / x[:, seen].std(1, keepdims=True)
        y, context = (np.stack([x[:, a:b] for a, b in split.test.intervals(session) + d]) for d in ([20, 0], [0, -10]))
        learnt = np.concatenate([split.train.intervals(session), split.validation.intervals(session)])
        mean = np.mean([x[:, a + 20 : b] for a, b in learnt], (0, 2))
        mse = lambda forecast, y=y: ((y - forecast) ** 2).mean((0, 2))  # noqa: E731
        base = mse(context.mean(2, keepdims=True))
        ratios["copy last"].append(mse(context[..., -1:]).mean() / base.mean())
        ratios["training mean"].append(mse(mean[:, None]).mean() / base.mean())
    for name, found in ratios.items():
        assert table.loc[name, "mse_ratio"] == pytest.approx(np.mean(found), rel=1e-4)


def test_blocks_are_the_stretches():
    split = qf.split_blocks(slide(continuous(jumps=[200, 400]), length_s=6, response_s=2))
    assert set(split.test.table["block"]) == {2} and set(split.train.table["block"]) == {0, 1}


@pytest.mark.filterwarnings("ignore:.*is not below that of the mean")
def test_models_and_forecasts_take_windows_of_recordings_with_trials():
    ds = toy_session(0)
    windows = slide(ds, length_s=4, response_s=2)
    split = qf.split_chronological(windows)
    model = qf.pretrain(split, patch_frames=10, width=8, layers=1, heads=2, codes=4, epochs=1, progress=False, device="cpu")
    forecaster = qf.fit_forecaster(model, split, epochs=1, progress=False)
    found = forecaster.predict(split.test)
    assert found.sizes["trial"] == len(split.test) and "orientation" not in found.coords
    assert forecaster.name in qf.evaluate([forecaster], split).index


def test_windows_inside_epochs():
    epochs = pd.DataFrame(
        {"stimulus": ["spontaneous", "movie", "spontaneous"], "start_frame": [0, 150, 300], "stop_frame": [150, 300, 600], "block": [0, 0, 1]}
    )
    ds = continuous(epochs=epochs, jumps=[400])
    found = slide(ds, length_s=20, response_s=5, epoch="spontaneous")
    assert found.intervals("worm/1").tolist() == [[0, 100], [25, 125], [50, 150], [300, 400], *([s, s + 100] for s in range(400, 501, 25))]
    assert found.table["block"].unique().tolist() == [0, 1, 2]
    with pytest.raises(UnknownKeyError, match="epoch: 'film' is no epoch here"):
        slide(ds, epoch="film")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"length_s": 2, "response_s": 2}, "response_s: expected less than length_s"),
        ({"every_s": 0}, "every_s: expected seconds above 0"),
        ({"length_s": "5"}, "length_s: expected seconds"),
        ({"length_s": 1000}, "windows: expected a stretch of at least 1000 s"),
        ({"session": "worm/9"}, "'worm/9' is not here; did you mean worm/1"),
        ({"neurons": "worm/1/77"}, "is in none of the chosen sessions"),
        ({"f0_s": 4}, "f0_s: expected at most baseline_s = 3"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(QfError, match=words):
        slide(continuous(), **options)
