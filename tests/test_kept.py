"""Windows are cut once for a whole table, and come out as if they were cut each time."""

import numpy as np
import pytest
import xarray as xr
from helpers import toy_session

from qf_toolkit.evaluation.table import evaluate, evaluate_classifier
from qf_toolkit.recordings.kept import Kept
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import Trials, cut

SESSIONS = [toy_session(0), toy_session(1, session="two")]


@pytest.mark.parametrize("signal", ["dff", "zscore"])
def test_kept_windows_are_those_that_would_be_cut(signal):
    split = split_blocks(cut(SESSIONS, signal=signal))
    keeping = split.keeping()
    for part in ("train", "test", "fitting"):
        plain, kept = getattr(split, part), getattr(keeping, part)
        for one, other in zip(plain.by_session(), kept.by_session(), strict=True):
            chosen = one.neurons[:2]
            for _ in range(2):
                assert one.dataset().identical(other.dataset())
                assert one.subset([3, 1]).dataset().identical(other.subset([3, 1]).dataset())
                assert one.of_neurons(chosen).dataset().identical(other.of_neurons(chosen).dataset())
    assert keeping.keeping() is keeping
    if signal == "zscore":  # other scales are other windows
        one, other = split.test.by_session()[0], keeping.test.by_session()[0]
        assert one.scaled_on(split.test).dataset().identical(other.scaled_on(split.test).dataset())


def test_what_a_reader_adds_to_a_dataset_reaches_nobody_else():
    part = split_blocks(cut(SESSIONS)).keeping().test.by_session()[0]
    mine = part.dataset()
    mine["own"] = ("trial", np.zeros(len(part)))
    mine.attrs["own"] = 1
    assert "own" not in part.dataset() and "own" not in part.dataset().attrs


def test_a_table_cuts_each_part_of_a_session_once(monkeypatch):
    split, cuts, real = split_blocks(cut(SESSIONS)), [], Trials._cut
    monkeypatch.setattr(Trials, "_cut", lambda self, *a: cuts.append((self.digest(), *a)) or real(self, *a))
    evaluate([], split)
    assert len(cuts) == len(set(cuts))
    cuts.clear()
    evaluate_classifier([], split)
    assert len(cuts) == len(set(cuts))


def test_no_more_is_kept_than_fits():
    kept, made = Kept(most_mb=1), []

    def ask(name, mb):
        return kept.get(name, lambda: made.append(name) or xr.Dataset({"x": ("n", np.zeros(int(mb * 2**17)))}))

    for name, mb in (("a", 0.4), ("b", 0.4), ("a", 0.4), ("c", 0.4), ("a", 0.4), ("b", 0.4), ("huge", 2), ("huge", 2)):
        assert ask(name, mb).nbytes == int(mb * 2**17) * 8
        assert kept.nbytes <= kept.most
    assert made == ["a", "b", "c", "b", "huge", "huge"]  # b was asked for less recently than a when c came
