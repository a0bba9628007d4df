"""What tests of the widgets do with one: read what the browser is sent, press keys, pick, and compare."""

import html
import json
import re

import numpy as np
import pytest

from qf_toolkit.errors import QfError

ipywidgets = pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: it comes with the extra notebooks")

DRAWN = {"rtol": 1e-4, "atol": 1e-9}  # five digits are sent


def spec(viewer):
    """What the browser is sent: JSON without NaN, which it can't read."""
    return json.loads(json.dumps(viewer.chart.spec, allow_nan=False))


def panel(viewer, name):
    return next(p for p in spec(viewer)["panels"] if p["name"] == name)


def marks(viewer, name, kind):
    return [m for m in panel(viewer, name)["marks"] if m["type"] == kind]


def lines(viewer, name):
    return {m["name"]: m for m in marks(viewer, name, "line") if "name" in m}


def same(drawn, wanted, **tolerance):
    np.testing.assert_allclose(np.array(drawn, float), np.asarray(wanted, float).ravel(), **(tolerance or DRAWN))


def key(viewer, name, count=1):
    viewer.chart._message(viewer.chart, {"type": "key", "key": name, "count": count})


def pick(viewer, panel, it):
    viewer.chart._message(viewer.chart, {"type": "pick", "panel": panel, "key": it})


def controls(viewer):
    return {n: w.value for n, w in vars(viewer).items() if isinstance(w, ipywidgets.ValueWidget) and n not in ("status", "saved")}


def changed(viewer, act):
    """The controls that an action changes."""
    before = controls(viewer)
    act()
    after = controls(viewer)
    return {n for n in before if before[n] != after[n]}


def fails(viewer, message):
    """Nothing is shown, and the widget says why, to eyes, to screen readers and to code."""
    assert re.search(message, viewer.message), viewer.message
    assert viewer.chart.spec["panels"] == [] and 'role="alert"' in viewer.status.value
    for ask in (viewer.view, viewer.figure, viewer.save):
        with pytest.raises(QfError, match=message):
            ask()
    assert html.escape(viewer.message) in viewer._static() and "<img" not in viewer._static()
    return True
