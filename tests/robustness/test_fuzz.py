"""The fuzzer's first cases; all of them take `make fuzz`."""

import os

import pytest

from robustness.fuzz import report, run


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in forked children")
def test_the_first_cases_show_no_fault():
    counts, faults = run(minutes=0.5, seed=0, kinds=["store", "arrays", "suite2p"], cases=24)
    assert not faults, report(counts, faults, 1, 0)
    assert sum(counts.values()) > 3  # as many as a slow machine has time for
