"""The code explorer decodes as the library does, and says what is wrong with a sequence."""

import matplotlib as mpl

mpl.use("Agg")

import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import untaught
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import LATE, part_of, session, study
from viewers import changed, controls, fails, key, lines, marks, pick, same, spec

from qf_toolkit.errors import QfError
from qf_toolkit.interpret.codes import decode_codes
from qf_toolkit.recordings.trials import cut
from qf_toolkit.widgets import CodeExplorer, code_explorer

torch.set_num_threads(1)
pytestmark = [pytest.mark.usefixtures("no_figure_left"), untaught]


@pytest.fixture
def explorer(s):
    return CodeExplorer(s.autoencoder, s.test)


# --- code explorer


def decoded(explorer):
    """(before, after) as drawn."""
    drawn = lines(explorer, "trace")
    return drawn["before"]["y"], drawn["after"]["y"]


def sequences(explorer):
    """(before, after) as drawn in cells."""
    return [[int(c) for c in m["text"]] for m in marks(explorer, "sequence", "cells")]


def test_explorer_starts_from_a_burst_of_the_code_used_most(s, explorer):
    share = s.autoencoder.code_usage(s.test).values
    first = int(explorer.burst.value)
    assert share[first] == share.max()
    assert [v for _, v in explorer.burst.options][1:] == sorted(range(8), key=lambda k: -share[k])
    assert sequences(explorer) == [[first] * 7] * 2 and explorer.message == f"place 5 of 7: code {first}; nothing edited yet."
    for drawn in decoded(explorer):
        same(drawn, decode_codes(s.autoencoder, [first] * 7))
    tips = marks(explorer, "codebook", "cells")[0]["tip"]
    assert any(f"code {first}: level" in t and f"{share[first]:.1%} of the patches of" in t for t in tips)


@pytest.mark.parametrize("how", ["keys", "clicks", "controls", "call", "typed"])
def test_explorer_edits_are_decoded_as_the_library_does(s, explorer, how):
    explorer.start([0, 1, 2, 3, 4, 5, 6])
    wanted = [0, 1, 7, 3, 4, 5, 6]
    {
        "keys": lambda: (key(explorer, "ArrowLeft", 2), key(explorer, "ArrowUp", 5)),
        "clicks": lambda: (pick(explorer, "sequence", 3), pick(explorer, "codebook", 7)),
        "controls": lambda: (setattr(explorer.place, "value", 3), setattr(explorer.code, "value", 7)),
        "call": lambda: explorer.edit(3, 7),
        "typed": lambda: (pick(explorer, "sequence", 3), setattr(explorer.sequence, "value", " 0 1,7;3  4,5 6 ")),
    }[how]()
    assert sequences(explorer) == [[0, 1, 2, 3, 4, 5, 6], wanted]
    found = explorer.view()
    before, after = decode_codes(s.autoencoder, [[0, 1, 2, 3, 4, 5, 6], wanted])
    np.testing.assert_array_equal(found["before"], before)
    np.testing.assert_array_equal(found["after"], after)
    same(decoded(explorer)[0], before)
    same(decoded(explorer)[1], after)
    assert controls(explorer) | {"place": 3, "code": 7, "sequence": "0 1 7 3 4 5 6"} == controls(explorer)
    assert (found.attrs["place"], found.attrs["code"], found.attrs["replaced"]) == (3, 7, 2) and found.attrs["model"] == s.autoencoder.digest()
    (cells, codes) = marks(explorer, "sequence", "cells")[1], marks(explorer, "codebook", "cells")[0]
    assert cells["picked"] == 3 and cells["key"] == list(range(1, 8)) and codes["picked"] == 7
    inside = np.zeros(56, bool)
    inside[16:24] = True
    inside = inside[2:52]  # the window begins two frames into the first patch
    rms = [np.sqrt(np.mean((after - before)[m].astype(float) ** 2)) for m in (inside, ~inside)]
    assert explorer.message == (
        f"place 3 of 7: code 7; edited at 3. The trace changed by {rms[0]:.3g} SD (RMS) there, and by {rms[1]:.3g} at the places whose codes stayed: "
        "that much is context."
    )
    (edges,) = [m["x"] for m in marks(explorer, "trace", "rule") if m["x"] != 0.0]
    same(edges, [-1.6, -0.8], atol=1e-9)
    explorer.reset.click()
    assert sequences(explorer) == [[0, 1, 2, 3, 4, 5, 6]] * 2 and "nothing edited yet" in explorer.message


def test_explorer_keys_stop_at_the_ends(explorer):
    explorer.start([3] * 7)
    for name, count, place, code in (
        ("Home", 1, 1, 3),
        ("ArrowLeft", 4, 1, 3),
        ("PageUp", 1, 1, 7),
        ("End", 1, 7, 3),
        ("ArrowRight", 1, 7, 3),
        ("PageDown", 1, 7, 0),
    ):
        key(explorer, name, count)
        assert (explorer.place.value, explorer.code.value) == (place, code), name
    assert sequences(explorer)[1] == [7, 3, 3, 3, 3, 3, 0]
    before = spec(explorer)
    key(explorer, "Enter")
    assert spec(explorer) == before


def test_explorer_exchanges_two_places(s, explorer):
    explorer.start([0, 1, 2, 3, 4, 5, 6])
    explorer.place.value, explorer.other.value = 2, 7
    explorer.swap.click()
    assert sequences(explorer)[1] == [0, 6, 2, 3, 4, 5, 1]
    same(decoded(explorer)[1], decode_codes(s.autoencoder, [0, 6, 2, 3, 4, 5, 1]))
    explorer.swap.click()
    assert sequences(explorer)[1] == [0, 1, 2, 3, 4, 5, 6]
    for places in ((0, 3), (3, 8), (1.5, 2)):
        with pytest.raises(QfError, match="place: expected 1 to 7"):
            explorer.exchange(*places)
    for place, code in ((0, 3), (8, 3), (3, 8), (3, -1)):
        with pytest.raises(QfError, match="expected"):
            explorer.edit(place, code)
    for wrong in ([0, 1], [[0] * 7] * 2, [0.5] * 7, [8] * 7):
        with pytest.raises(QfError, match="expected"):
            explorer.start(wrong)
    assert sequences(explorer) == [[0, 1, 2, 3, 4, 5, 6]] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2", "expected 7 codes each, one a patch, found 2"),
        ("0 1 2 3 4 5 8", "expected codes from 0 to 7, found 8"),
        ("0 1 2 3 4 5 -1", "expected codes as whole numbers, found '0 1 2 3 4 5 -1'"),
        ("a <b>c", "expected codes as whole numbers, found 'a <b>c'. Type 7 codes with spaces between"),
        ("", "expected codes as whole numbers, found ''"),
        ("0 1 2 3 4 5 6.0", "whole numbers"),
        ("0 1 2 3 4 5 99999999999999999999", "expected"),
    ],
)
def test_explorer_says_what_is_wrong_with_a_typed_sequence(explorer, text, message):
    explorer.sequence.value = text
    assert fails(explorer, message) and "<b>" not in explorer.status.value
    key(explorer, "ArrowUp")  # goes on from the last that was right
    assert explorer._error is None and explorer.view()["edited"].values[4] != explorer.view()["sequence"].values[4]


@settings(max_examples=25)
@given(st.lists(st.integers(0, 7), min_size=7, max_size=7))
def test_any_sequence_can_be_typed(codes):
    explorer = _explorer()
    explorer.sequence.value = " ".join(map(str, codes))
    assert sequences(explorer)[1] == codes
    same(decoded(explorer)[1], decode_codes(study().autoencoder, codes))


def _explorer(made=[]):  # noqa: B006
    if not made:
        made.append(CodeExplorer(study().autoencoder))
    return made[0]


def test_explorer_starts_from_an_observation(s, explorer):
    codes = s.autoencoder.codes(part_of(s.test, "m/one"))["code"]
    explorer.trial.value = 47
    assert changed(explorer, lambda: setattr(explorer.neuron, "value", "m/c4")) == {"neuron", "burst", "sequence", "code"}
    assert sequences(explorer) == [codes.sel(neuron="m/c4", trial=47).values.tolist()] * 2
    explorer.session.value = "m/two"  # c4 is there, too
    there = s.autoencoder.codes(part_of(s.test, "m/two"))["code"]
    assert sequences(explorer)[0] == there.sel(neuron="m/c4", trial=47).values.tolist()
    explorer.burst.value = 6
    assert explorer.neuron.value is None and sequences(explorer) == [[6] * 7] * 2
    explorer.session.value, explorer.neuron.value = "m/one", LATE[0]
    explorer.trial.value = LATE[1]
    assert fails(explorer, r"trial: expected a whole window of m/c2 in trial 44, found values missing\. Choose another\.")
    explorer.trial.value = 40
    assert sequences(explorer)[0] == codes.sel(neuron=LATE[0], trial=40).values.tolist()
    explorer.start([1] * 7)
    assert explorer.neuron.value is None and explorer.burst.value is None  # it is none of these now
    explorer.burst.value = 6
    assert sequences(explorer)[0] == [6] * 7


def test_explorer_counts_codes_in_a_sample(s, monkeypatch):
    monkeypatch.setattr(code_explorer, "MOST_WINDOWS", 30)
    explorer = CodeExplorer(s.autoencoder, s.test)
    assert 0 < int(explorer.book["count"].sum()) <= 30 * 7 and explorer.trials is not None


def test_explorer_without_trials_and_with_none_whole(s):
    def holes(traces, trials):
        traces[:, ::20] = np.nan

    for trials in (None, cut([session(change=holes)])):
        explorer = CodeExplorer(s.autoencoder, trials)
        assert "usage" not in explorer.book and sequences(explorer) == [[0] * 7] * 2
        shown = [w for row in explorer.children for w in getattr(row, "children", ())]
        assert (explorer.neuron in shown) == (trials is not None) and explorer.session not in shown
        assert marks(explorer, "codebook", "cells")[0]["tip"][0].endswith("SD")


def test_explorer_of_a_codebook_that_has_one_code_in_it(s, monkeypatch):
    vectors = s.autoencoder.module.quantizer.vectors.detach().clone()
    monkeypatch.setattr(type(s.autoencoder.module.quantizer), "vectors", property(lambda self: vectors[:1].expand_as(vectors)))
    explorer = CodeExplorer(s.autoencoder, s.test)
    key(explorer, "ArrowUp")
    before, after = decoded(explorer)
    assert before == after and "changed by 0 SD" in explorer.message and len(set(marks(explorer, "codebook", "cells")[0]["color"])) == 1


def test_explorer_saves_what_is_drawn(s, explorer, tmp_path):
    explorer.start([0, 1, 2, 3, 4, 5, 6])
    explorer.edit(3, 7)
    explorer.save(tmp_path / "codes")
    table = pd.read_csv(tmp_path / "codes.csv", index_col=0)
    same(decoded(explorer)[1], table["after"])
    assert table["code, after"].tolist() == [0] * 6 + [1] * 8 + [7] * 8 + [3] * 8 + [4] * 8 + [5] * 8 + [6] * 4
    assert json.loads((tmp_path / "codes.json").read_text())["sources"][0]["model"] == s.autoencoder.digest()
