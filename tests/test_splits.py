import warnings
from dataclasses import replace

import numpy as np
import pytest
from helpers import toy_session
from hypothesis import given, settings
from hypothesis import strategies as st

from qf_toolkit.errors import QfError, UnknownKeyError
from qf_toolkit.recordings.splits import leave_one_out, split_blocks, split_chronological
from qf_toolkit.recordings.trials import cut
from qf_toolkit.recordings.window import gather

TOY = [toy_session(0), toy_session(1, subject="rat", stimuli=("gratings", "scenes"))]
ONE = TOY[0]


def _check(split, validation_gap_s, test_gap_s=0.0):
    """No shared frame; the least distance between windows of the parts, by brute force."""
    for session in {*split.train.sessions, *split.validation.sessions, *split.test.sessions}:
        rate = split.train.source[session].attrs["rate_hz"]
        train, validation, test = (p.intervals(session) for p in (split.train, split.validation, split.test))
        for a, b, gap in ((train, test, test_gap_s), (validation, test, test_gap_s), (train, validation, validation_gap_s)):
            for start, stop in a:
                for other_start, other_stop in b:
                    assert max(other_start - stop, start - other_stop) >= gap * rate


@settings(max_examples=25, deadline=None)
@given(test=st.integers(-3, 2), validation=st.floats(0.05, 0.5), baseline_s=st.floats(0.5, 4), response_s=st.floats(0.3, 3), stimulus=st.booleans())
def test_block_split_shares_no_frame(test, validation, baseline_s, response_s, stimulus):
    trials = cut(TOY, baseline_s=baseline_s, response_s=response_s, stimulus="gratings" if stimulus else None)
    split = split_blocks(trials, test=test, validation=validation)
    _check(split, baseline_s + response_s)
    blocks = split.test.table["block"].unique()
    assert list(blocks) == [test % 3]  # all of that block and nothing else
    assert len(split.test) == (trials.table["block"] == test % 3).sum()
    assert len(split.train) + len(split.validation) + len(split.test) + split.dropped == len(trials)


@settings(max_examples=25, deadline=None)
@given(test=st.floats(0.2, 0.6), validation=st.floats(0.25, 0.4), gap_s=st.one_of(st.none(), st.floats(0, 8)))
def test_chronological_split_keeps_its_gap(test, validation, gap_s):
    split = split_chronological(cut(ONE), test=test, validation=validation, gap_s=gap_s)
    _check(split, 5.0, 5.0 if gap_s is None else gap_s)
    last = max(split.train.table["onset_frame"].max(), split.validation.table["onset_frame"].max())
    assert last < split.test.table["onset_frame"].min()


def test_leave_one_out():
    by_subject = leave_one_out(cut(TOY), subject="rat")
    assert set(by_subject.test.table["subject"]) == {"rat"} and set(by_subject.fitting.table["subject"]) == {"mouse"}
    by_stimulus = leave_one_out(cut(TOY, response_s=0.5, baseline_s=1), stimulus="scenes")
    assert set(by_stimulus.test.table["stimulus"]) == {"scenes"} and "scenes" not in set(by_stimulus.fitting.table["stimulus"])
    _check(by_stimulus, 1.5)
    with pytest.raises(QfError, match="one of the two"):
        leave_one_out(cut(TOY))
    with pytest.raises(UnknownKeyError, match="rat"):
        leave_one_out(cut(TOY), subject="rap")


def test_fitting_is_train_and_validation():
    split = split_blocks(cut(TOY))
    got = set(zip(split.fitting.table["session"], split.fitting.table["trial"], strict=True))
    parts = [set(zip(p.table["session"], p.table["trial"], strict=True)) for p in (split.train, split.validation)]
    assert got == parts[0] | parts[1] and len(split.fitting) == len(split.train) + len(split.validation)
    assert (split.fitting.table["onset_frame"].dtype, list(split.fitting.table)) == (np.int64, list(split.train.table))


def test_split_errors():
    with pytest.raises(QfError, match="2 blocks"):
        split_blocks(cut(ONE, block=0))
    with pytest.raises(QfError, match="block position"):
        split_blocks(cut(ONE), test=3)
    with pytest.raises(QfError, match="train part"):
        split_chronological(cut(ONE), gap_s=500)


@settings(max_examples=15, deadline=None)
@given(row=st.integers(0, 59), later=st.integers(0, 400), factor=st.floats(-3, 5), f0_s=st.floats(0.3, 3), dff=st.booleans())
def test_frames_from_the_onset_on_do_not_reach_the_baseline(row, later, factor, f0_s, dff):
    session = toy_session(0, signal="dff") if dff else ONE
    onset = int(session["onset_frame"][row])
    changed = session.copy(deep=True)
    name = "dff" if dff else "fluorescence"
    at = min(onset + later, session.sizes["frame"] - 1)
    changed[name].values[:, at:] = changed[name].values[:, at:] * np.float32(factor) + 1
    a, b = (cut(s, f0_s=f0_s).subset(np.array([row])).dataset() for s in (session, changed))
    n = a.attrs["n_baseline"]
    assert np.array_equal(a["dff"].values[..., :n], b["dff"].values[..., :n])
    assert np.array_equal(a["valid"].values[..., :n], b["valid"].values[..., :n])
    if later < 20:
        assert not np.array_equal(a["dff"].values, b["dff"].values)
        # F0 is the same: what is before the change inside the response has not moved
        assert np.array_equal(a["dff"].values[..., : n + later], b["dff"].values[..., : n + later])


@settings(max_examples=30, deadline=None)
@given(
    starts=st.lists(st.integers(0, 80), min_size=1, max_size=5),
    neurons=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    length=st.integers(1, 20),
)
def test_gather_is_slicing(starts, neurons, length):
    traces = np.arange(500.0).reshape(5, 100)
    got = gather(traces, neurons, starts, length)
    assert np.array_equal(got, [[traces[n, s : s + length] for n in neurons] for s in starts])


def test_dataset_by_loop():
    trials = cut(ONE, f0_s=1.0, score_s=1.0)
    ds, f = trials.dataset(), ONE["fluorescence"].values
    for i in (0, 17, 59):
        onset = int(ONE["onset_frame"][i])
        f0 = f[:, onset - 10 : onset].mean(1, keepdims=True)
        want = (f[:, onset - 30 : onset + 20] - f0) / f0
        assert np.allclose(ds["dff"][i], want, atol=1e-5)
        assert np.array_equal(ds["active"][i], want[:, 30:40].mean(1) >= 0.1)
    assert ds["valid"].values.all() and ds["time"].values[30] == 0


def test_dff_only_sessions_follow_the_formula():
    session = toy_session(3, signal="dff")
    ds, x = cut(session).dataset(), session["dff"].values.astype(np.float64)
    for i in (0, 30):
        onset = int(session["onset_frame"][i])
        b = x[:, onset - 20 : onset].mean(1, keepdims=True)
        assert np.allclose(ds["dff"][i], (x[:, onset - 30 : onset + 20] - b) / (1 + b), atol=1e-5)


def test_incomplete_windows_are_left_out_and_counted():
    def change(traces, trials):
        trials.loc[0, "onset_frame"] = 29  # a 3 s baseline needs 30 frames
        trials.loc[59, ["onset_frame", "offset_frame"]] = [traces.shape[1] - 20, traces.shape[1]]  # just whole
        trials.loc[58, ["onset_frame", "offset_frame"]] = [traces.shape[1] - 19, traces.shape[1]]

    session = toy_session(0, change=change)
    with pytest.warns(UserWarning, match="2 of 60 windows"):
        trials = cut(session)
    assert len(trials) == 58 and trials.counts["incomplete"] == 2
    with pytest.raises(QfError, match="strict"):
        cut(session, strict=True)


def test_windows_across_a_gap_in_time_are_left_out():
    session = ONE.copy(deep=True)
    time = session["frame_time"].values.copy()
    onset = int(session["onset_frame"][10])
    time[onset:] += 7.0
    with pytest.warns(UserWarning, match="windows"):
        trials = cut(session.assign_coords(frame_time=("frame", time)))
    # frame onset - 1 and frame onset are 7 s apart: every window that holds both is broken, no other
    whole = [not (o - 30 <= onset - 1 and onset < o + 20) for o in session["onset_frame"].values]
    assert list(trials.table["trial"]) == list(np.flatnonzero(whole)) and not all(whole)


def test_nan_stretch_is_invalid_only_where_it_lies():
    onset = int(ONE["onset_frame"][5])

    def change(traces, trials):
        traces[2, onset + 5 : onset + 8] = np.nan

    ds = cut(toy_session(0, change=change)).dataset()
    assert (~ds["valid"].values[5, 2]).nonzero()[0].tolist() == [35, 36, 37]
    assert np.isnan(ds["dff"].values[5, 2, 35:38]).all() and ds["valid"].values[5, 1].all()
    # the next trial, 30 frames on: the gap lies in its F0 span (frames 5 to 8 of 30, F0 from 10 on) or before it
    assert (~ds["valid"].values[6, 2]).nonzero()[0].tolist() == [5, 6, 7]

    def in_f0(traces, trials):
        traces[2, onset - 3] = np.nan

    ds = cut(toy_session(0, change=in_f0)).dataset()
    assert not ds["valid"].values[5, 2].any() and not ds["active"].values[5, 2] and ds.attrs["unusable_observations"] >= 1


def test_flagged_neurons_are_left_out_and_counted():
    def change(traces, trials):
        traces[0] = 0
        traces[1] = 7
        traces[2, :-100] = np.nan

    session = toy_session(0, change=change)
    with pytest.warns(UserWarning, match="left out: 1 of 6 neurons"):
        trials = cut(session)
    assert trials.neurons == [f"mouse/one/{i}" for i in (3, 4, 5)] and sum(trials.counts["flagged"].values()) == 3
    assert set(trials.counts["flagged"]) == {"silent", "constant", "nan"}
    with pytest.raises(QfError, match="strict"):
        cut(session, strict=True)

    def none_left(traces, trials):
        traces[:] = 0

    with pytest.raises(QfError, match="no observation"):
        cut(toy_session(0, change=none_left))


def test_strict_passes_where_nothing_is_left_out():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(cut(TOY, strict=True)) == 120


def test_zscore_takes_nothing_from_the_test_block():
    start = int(split_blocks(cut(ONE)).test.intervals("mouse/one")[:, 0].min())

    def change(traces, trials):
        traces[:, start:] *= np.float32(5)

    a, b = (split_blocks(cut(s, signal="zscore")) for s in (ONE, toy_session(0, change=change)))
    assert a.train.scaling == b.train.scaling == b.test.scaling
    z = a.fitting.dataset()["zscore"].values
    assert abs(z.mean()) < 0.2 and 0.8 < z.std() < 1.2
    with pytest.raises(QfError, match="training part"):
        cut(ONE, signal="zscore").dataset()


def test_zscores_of_a_matched_cell_are_those_of_each_session():
    def brighter(traces, trials):
        traces *= np.float32(7)

    sessions = [toy_session(0, session="A", matched=True), toy_session(1, session="B", matched=True, change=brighter)]
    split = split_blocks(cut(sessions, signal="zscore"))
    assert sessions[0]["neuron"].equals(sessions[1]["neuron"]) and list(split.test.scaling) == ["mouse/A", "mouse/B"]
    for part in split.fitting.by_session():
        z = part.dataset()["zscore"].values
        assert abs(z.mean()) < 0.2 and 0.8 < z.std() < 1.2
    alone = split_blocks(cut(sessions[0], signal="zscore")).test.dataset()
    np.testing.assert_array_equal(split.test.dataset("mouse/A")["zscore"], alone["zscore"])


def test_zscores_of_a_session_without_training_are_the_mean_of_the_others():
    sessions = [toy_session(i, session=s, matched=True) for i, s in enumerate("ABC")]
    split = split_blocks(cut(sessions[:2], signal="zscore"))
    new = replace(cut(sessions[2], signal="zscore"), scaling=split.train.scaling)
    each = [np.array(split.test.scale_of(s)) for s in ("mouse/A", "mouse/B")]
    np.testing.assert_allclose(new.scale_of("mouse/C"), np.mean(each, 0), rtol=1e-6)
    stranger = replace(cut(toy_session(0), signal="zscore"), scaling=split.train.scaling)
    with pytest.raises(UnknownKeyError, match="mouse/one/0.*no z-score"):
        stranger.dataset()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 59), min_size=1, max_size=80))
def test_trials_are_grouped_by_session_as_filtering_would(chosen):
    trials = cut(TOY).subset(chosen)
    assert trials.sessions == sorted(trials.table["session"].unique())
    for part, session in zip(trials.by_session(), trials.sessions, strict=True):
        rows = trials.table[trials.table["session"] == session]
        assert trials.table_of(session).equals(rows) and part.table.equals(rows.reset_index(drop=True))
        assert trials.positions(session).tolist() == rows.index.tolist()
        assert trials.intervals(session)[:, 0].tolist() == (rows["onset_frame"] - 30).tolist()
    assert trials.positions("no/session").size == 0
