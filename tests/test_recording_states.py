"""States of the animal before a forecast, and scores of the groups of trials that they make."""

import numpy as np
import pandas as pd
import pytest
from helpers import toy_session

from qf_toolkit.evaluation.horizon import by_group
from qf_toolkit.evaluation.scored import score
from qf_toolkit.recordings.behaviour import Behaviour
from qf_toolkit.recordings.splits import split_blocks
from qf_toolkit.recordings.trials import cut
from qf_toolkit.study.recording_states import states_before


def session(**behaviour):
    made = toy_session(0)
    n = made.sizes["frame"]
    return toy_session(0, behaviour={name: of(made, n) for name, of in behaviour.items()})


def every_second(made, n, low=0.0, high=5.0, after=0.0):
    """A trace that is high in the second before every other onset, and `after` from each onset on."""
    out = np.full(n, low, np.float32)
    for i, onset in enumerate(made["onset_frame"].values):
        out[onset - 10 : onset] = high if i % 2 else low
        out[onset : onset + 10] += after
    return out


def windows(ds):
    return cut(ds, baseline_s=1, response_s=1)


@pytest.mark.parametrize("units", ["cm/s", ""])
def test_running_is_told_from_rest_by_what_came_before_the_onset(units):
    trials = windows(session(running_speed=lambda made, n: Behaviour(every_second(made, n, after=50.0), units=units)))
    states = states_before(trials)["running_speed"]
    assert states.tolist() == ["running" if i % 2 else "still" for i in trials.table["trial"]]


def test_a_pupil_is_halved_by_its_median_and_a_missing_one_has_no_state():
    def pupil(made, n):
        out = every_second(made, n, 1.0, 2.0)
        out[: made["onset_frame"].values[0]] = np.nan
        return out

    states = states_before(windows(session(pupil=pupil)))["pupil"]
    assert states[0] == "" and set(states[1:]) == {"low", "high"} and (states[1::2] == "high").all()


def test_events_are_with_or_without_and_what_hardly_varies_is_left_out():
    def licks(made, n):
        return None, made["frame_time"].values[made["onset_frame"].values[::3] - 5]

    found = states_before(windows(session(licks=licks, still=lambda made, n: np.zeros(n))))
    assert found["licks"].tolist() == ["without" if i % 3 else "with" for i in range(60)] and set(found) == {"licks"}


def test_groups_that_a_caller_names_are_scored_apart():
    split = split_blocks(windows(toy_session(0)))
    scored = score([], split, labels=lambda part: {"parity": np.where(np.arange(len(part)) % 2, "odd", "")})
    found = by_group(scored, "training mean", n=20).set_index(["forecaster", "grouping", "group"])
    part = split.test
    row = scored.rows["ridge, own trace"]
    truth = part.dataset()["dff"].values[..., 10:][1::2]
    error = ((row.predict(part)["forecast"].values[1::2] - truth) ** 2).mean()
    assert found.loc[("ridge, own trace", "parity", "odd"), "mse"] == pytest.approx(error, rel=1e-5)
    assert [g for _, grouping, g in found.index if grouping == "parity"].count("odd") == len(scored.rows)
    assert isinstance(scored.by_group.keys, pd.DataFrame) and "" not in set(scored.by_group.keys["group"])
