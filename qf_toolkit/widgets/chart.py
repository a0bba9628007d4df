"""The drawing surface of all widgets. Python describes the panels, the browser (chart.js) draws them and sends keys and clicks back."""

import base64
import io
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from matplotlib import colormaps
from PIL import Image

HERE = Path(__file__).parent


class Chart(anywidget.AnyWidget):
    """Panels of lines, bands, cells and points.

    Attributes
    ----------
    spec : dict
        Description of the panels; the head of chart.js documents its form.
    cursor : float or None
        Position of the pointer, in units of the time axis. `ipywidgets.jslink` links it to the cursor of another chart.
    used_keys : list of str
        Keys that the chart takes, by the browser's names. The page keeps all others.
    uid : str
        Identifies the static picture that the live chart hides.
    """

    _esm = HERE / "chart.js"
    _css = HERE / "chart.css"
    spec = traitlets.Dict().tag(sync=True)
    cursor = traitlets.Float(None, allow_none=True).tag(sync=True)
    used_keys = traitlets.List(traitlets.Unicode()).tag(sync=True)
    uid = traitlets.Unicode("").tag(sync=True)

    def __init__(self, on_key=None, on_pick=None, **traits):
        super().__init__(**traits)
        self._on_key, self._on_pick = on_key, on_pick
        self.on_msg(self._message)

    def _message(self, _, content, buffers=None):
        try:
            if content.get("type") == "key" and self._on_key:
                self._on_key(str(content["key"]), int(content.get("count", 1)))
            elif content.get("type") == "pick" and self._on_pick:
                self._on_pick(str(content["panel"]), content["key"])
        finally:
            self.send({"type": "done"})  # the browser may send the next key


def numbers(values, digits=5):
    """Round an array for the browser: a flat list of floats with `digits` significant digits, None for values that are not finite."""
    values = np.asarray(values, float).ravel()
    finite = np.isfinite(values)
    known = np.where(finite, values, 0.0)
    power = 10.0 ** np.clip(digits - 1 - np.floor(np.log10(np.abs(known), out=np.zeros_like(known), where=known != 0)), -300, 300)
    short = (np.round(known * power) / power).tolist()
    return short if finite.all() else [v if there else None for v, there in zip(short, finite.tolist(), strict=True)]


def line(x, y, color="ink", name=None, **look):
    """A mark for a line. The readout under the cursor calls it `name`."""
    return {"type": "line", "x": numbers(x), "y": numbers(y), "color": color, **({"name": name} if name else {}), **look}


def band(x, low, high, color, **look):
    """A mark for a band between `low` and `high`."""
    return {"type": "band", "x": numbers(x), "low": numbers(low), "high": numbers(high), "color": color, **look}


def rule(x, color="#888888", **look):
    """A mark for a vertical rule at `x`."""
    return {"type": "rule", "x": x, "color": color, **look}


def span(start, stop, y, color="ink", opacity=0.07):
    """A mark that shades the time axis from `start` to `stop`, over the range `y` (low, high)."""
    return {"type": "cells", "x0": [start], "x1": [stop], "y0": [y[0]], "y1": [y[1]], "color": [color], "opacity": opacity}


def image(values, x, y, low, high, cmap="viridis"):
    """A mark for a picture of an array (row, column), with row 0 on top, over the ranges `x` and `y`. NaN is grey."""
    values, scale = np.asarray(values, float), colormaps[cmap]
    shares = np.clip((np.nan_to_num(values) - low) / ((high - low) or 1.0), 0, 1)
    places = np.minimum((256 * shares).astype(int), 255)
    places = np.where(np.isfinite(values), places - (places > 127), 255)  # a palette has 256 places, so the middle colour is replaced by grey
    picture = Image.fromarray(places.astype(np.uint8))
    picture.putpalette([*scale(np.delete(np.arange(256), 128), bytes=True)[:, :3].ravel().tolist(), 153, 153, 153])
    out = io.BytesIO()
    picture.save(out, format="png", compress_level=2)  # the file is a little larger, but much sooner made
    href = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    return {"type": "image", "x0": x[0], "x1": x[1], "y0": y[0], "y1": y[1], "href": href}


def shades(values, low=None, high=None, cmap="viridis"):
    """Colours of numbers, and for each of them a colour of text that is readable on it.

    Parameters
    ----------
    values : float array, shape (n,)
    low, high : float, optional
        Ends of the scale. If None, the smallest and the largest value.
    cmap : str
        Name of a colour map.

    Returns
    -------
    (list of str, list of str)
        Colours of the cells and of the texts.
    """
    values = np.asarray(values, float).ravel()
    low, high = (np.nanmin(values) if low is None else low), (np.nanmax(values) if high is None else high)
    shares = np.clip((values - low) / (high - low) if high > low else np.zeros_like(values), 0, 1)
    rgb = colormaps[cmap](np.nan_to_num(shares))[:, :3]
    bright = rgb @ [0.299, 0.587, 0.114]
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.round(255 * rgb).astype(int).tolist()], ["#000000" if b > 0.5 else "#ffffff" for b in bright]


def around(*arrays, room=0.06, least=1e-6):
    """A range (low, high) that holds all finite values of the arrays, with a margin of a share `room` of it."""
    found = np.concatenate([np.asarray(a, float).ravel() for a in arrays]) if arrays else np.zeros(0)
    found = found[np.isfinite(found)]
    low, high = (found.min(), found.max()) if len(found) else (0.0, 1.0)
    pad = max(room * (high - low), least)
    return float(low - pad), float(high + pad)
