"""What the splits refuse, in a line each, and what z-scores are made of."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import toy_session

from qf_toolkit.errors import QfError
from qf_toolkit.evaluation.table import evaluate
from qf_toolkit.recordings.splits import leave_one_out, split_blocks, split_chronological
from qf_toolkit.recordings.trials import cut

ONE = toy_session(0)
NO_SHARES = [np.nan, np.inf, -np.inf, 0, 1, -0.1, "x", None, True, [0.2]]


def line(call, *args, **options):
    """The one line with which a call is refused."""
    with pytest.raises(QfError) as caught:
        call(*args, **options)
    text = str(caught.value)
    assert "\n" not in text and type(caught.value.__cause__) is type(None)
    return text


@pytest.mark.parametrize("test", [0.5, -1.5, np.nan, np.inf, "last", None, True, [1], 10**400])
def test_a_block_is_a_whole_number(test):
    text = line(split_blocks, cut(ONE), test=test)
    assert text.startswith("test: expected a ") and "found" in text
    assert "whole number (position of a block)" in text or test == 10**400


@pytest.mark.parametrize("share", NO_SHARES)
@pytest.mark.parametrize("split", [split_blocks, split_chronological, lambda t, **o: leave_one_out(t, subject="mouse", **o)])
def test_a_validation_share_lies_between_0_and_1(split, share):
    assert line(split, cut(ONE), validation=share) == f"validation: expected a share between 0 and 1, found {share!r}. Pass 0.15, say."


@pytest.mark.parametrize("share", NO_SHARES)
def test_a_test_share_lies_between_0_and_1(share):
    assert line(split_chronological, cut(ONE), test=share).startswith(f"test: expected a share between 0 and 1, found {share!r}.")


@pytest.mark.parametrize("gap", [np.nan, -1, "x", [1], True])
def test_a_gap_is_seconds(gap):
    assert line(split_chronological, cut(ONE), gap_s=gap).startswith(f"gap_s: expected seconds from 0 to 86400 or None, found {gap!r}.")


@pytest.mark.parametrize("gap", [np.inf, 1e308, np.float64(1e308), 10**30])
@pytest.mark.filterwarnings("error")
def test_a_gap_has_an_end(gap):
    assert line(split_chronological, cut(ONE), gap_s=gap).startswith("gap_s: expected seconds from 0 to 86400")
    assert "no trial is left in the train part" in line(split_chronological, cut(ONE), gap_s=86400)


def test_splits_are_of_trials():
    split = split_blocks(cut(ONE))
    for call in (split_blocks, split_chronological, lambda t: leave_one_out(t, subject="mouse")):
        for wrong in (split, None, 3, ONE, "store"):
            assert line(call, wrong).startswith(f"trials: expected Trials, found {type(wrong).__name__}.")
        assert line(call, split.test.subset(np.zeros(len(split.test), bool))).startswith("trials: expected at least one, found none")


def test_leaving_out_names_one_thing_that_is_there():
    two = cut([ONE, toy_session(1, subject="rat")])
    for options in ({}, {"subject": "rat", "stimulus": "drifting_gratings"}):
        assert "exactly one of the two" in line(leave_one_out, two, **options)
    for wrong in (3, np.nan, ["rat"], {"rat"}, "rap", True):
        for name in ("subject", "stimulus"):
            text = line(leave_one_out, two, **{name: wrong})
            assert text.startswith(f"{name}: {wrong!r} has no trial here")


def test_a_number_of_numpy_is_a_number():
    trials = cut(ONE)
    assert len(split_blocks(trials, test=np.int64(1), validation=np.float32(0.2)).test) == 20
    assert len(split_chronological(trials, test=np.float64(0.5), gap_s=np.int32(6)).test) == 30


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("signal", ["fluorescence", "dff"])
def test_zscores_are_of_the_frames_in_training_windows(signal, matched):
    sessions = [toy_session(i, session=s, matched=matched, signal=signal) for i, s in enumerate("AB")]
    split = split_blocks(cut(sessions, signal="zscore"))
    for session, ds in zip(("mouse/A", "mouse/B"), sessions, strict=True):
        frames = sorted({f for start, stop in split.train.intervals(session) for f in range(start, stop)})
        x = ds[signal].values[:, frames].astype(np.float64)
        for part in (split.train, split.validation, split.test, split.fitting):
            mean, sd = part.scale_of(session)
            np.testing.assert_allclose(mean, x.mean(1), rtol=1e-5)
            np.testing.assert_allclose(sd, x.std(1), rtol=1e-5)


def test_zscores_take_nothing_from_validation():
    split = split_blocks(cut(ONE, signal="zscore"))
    trained = {f for start, stop in split.train.intervals("mouse/one") for f in range(start, stop)}
    other = ONE.copy(deep=True)
    for start, stop in split.validation.intervals("mouse/one"):
        frames = [f for f in range(start, stop) if f not in trained]
        assert len(frames) == stop - start
        other["fluorescence"].values[:, frames] *= np.float32(5)
    again = split_blocks(cut(other, signal="zscore"))
    assert again.train.scaling == split.train.scaling == split.validation.scaling == split.test.scaling
    assert not np.array_equal(again.validation.dataset()["zscore"], split.validation.dataset()["zscore"])


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_neuron_without_a_training_frame_has_no_zscore_and_says_so_by_nan():
    plain = split_blocks(cut(ONE, signal="zscore"))
    first, stop = int(plain.train.intervals("mouse/one").min()), int(plain.test.intervals("mouse/one").min())
    other = ONE.copy(deep=True)
    other["fluorescence"].values[2, first:stop] = np.nan
    split = split_blocks(cut(other, signal="zscore"))
    valid = split.test.dataset()["valid"].values
    assert not valid[:, 2].any() and valid[:, [0, 1, 3, 4, 5]].all()
    assert np.isfinite(evaluate([], split)["mse"].to_numpy(dtype=float)).all()


def test_a_session_too_short_for_validation_is_learnt_from():
    sessions = [toy_session(0), toy_session(1, subject="rat", repeats=1, n_conditions=2)]
    split = split_blocks(cut(sessions, signal="zscore"))
    parts = {name: set(getattr(split, name).sessions) for name in ("train", "validation", "test")}
    assert parts == {"train": {"mouse/one", "rat/one"}, "validation": {"mouse/one"}, "test": {"mouse/one", "rat/one"}}
    alone = split_blocks(cut(sessions[0], signal="zscore"))
    ours = split.validation.table.drop(columns=["orientation"], errors="ignore")
    assert ours.equals(alone.validation.table[ours.columns])
    assert np.isfinite(evaluate([], replace(split, rule="short"))["mse"].to_numpy(dtype=float)).all()
