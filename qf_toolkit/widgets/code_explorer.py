"""Code explorer: edit a sequence of codes by hand, and see how the decoded trace changes."""

import re

import ipywidgets as widgets
import numpy as np
import pandas as pd
import xarray as xr

from ..errors import QfError
from ..estimators.interface import origin
from ..interpret.codes import burst, codebook, decode_codes, swap
from ..interpret.observation import one_thread
from ..plots.codes import plot_swap
from ..plots.style import style
from ..recordings.trials import check_trials
from .base import ALL_KEYS, ROW, WIDE, Viewer, fill
from .chart import around, line, rule, shades, span

UNIT = "signal / neuron's SD"
MOST_WINDOWS = 2048  # about the number of windows in which the use of the codes is counted


class CodeExplorer(Viewer):
    """Edit codes and see the decoded trace change. The trace of the starting sequence is grey, that of the edited sequence is coloured.

    Start from a burst of one code or, with trials, from the codes of a real observation. Choose a place (click a cell of the sequence, or press left
    and right), then a code for it (click the codebook, or press up and down), or type the whole sequence. The text shows by how much the patch at
    the place changed, and by how much the others did: codes are decoded in context.

    Parameters
    ----------
    autoencoder : Autoencoder
    trials : Trials, optional
        Trials whose observations can be the start.

    Examples
    --------
    >>> CodeExplorer(autoencoder, split.test)
    CodeExplorer(...)
    """

    title = "code explorer"
    used_keys = ALL_KEYS

    def __init__(self, autoencoder, trials=None):
        super().__init__()
        with self._told():
            self._set_up(autoencoder, trials)

    def _set_up(self, autoencoder, trials):
        if getattr(autoencoder, "task", None) != "codes":
            raise QfError(
                f"autoencoder: expected an Autoencoder, found {type(autoencoder).__name__}. Pass what `pretrain` returned, or model.autoencoder."
            )
        if trials is not None:
            check_trials(trials)
        self.model = autoencoder
        self.simulated = bool(autoencoder.simulated) or (trials is not None and trials.simulated)
        self.trials = None if trials is None else autoencoder.prepare(trials)
        self.book = self._codebook()
        c = autoencoder.config
        self._origin = {**burst(autoencoder, 0).attrs, **({} if trials is None else origin(trials, autoencoder)), "simulated": int(self.simulated)}
        self._original = self._sequence = np.zeros(c.patches, int)
        codes = list(range(c.codes))
        if "usage" in self.book:
            codes.sort(key=lambda k: -float(self.book["usage"].values[k]))
        self.burst = widgets.Dropdown(description="burst of", options=[("", None), *((f"code {k}", k) for k in codes)], value=codes[0], layout=WIDE)
        self.session = widgets.Dropdown(description="session", options=[] if self.trials is None else self.trials.sessions, layout=WIDE)
        self.neuron = widgets.Dropdown(description="or neuron", layout=WIDE)
        self.trial = widgets.Dropdown(description="in trial", layout=WIDE)
        self.place = widgets.BoundedIntText(description="place", value=c.baseline_patches + 1, min=1, max=c.patches, layout=WIDE)
        self.code = widgets.BoundedIntText(description="code there", value=0, min=0, max=c.codes - 1, layout=WIDE)
        self.sequence = widgets.Text(description="sequence", continuous_update=False, layout=widgets.Layout(width="auto", flex="3 1 420px"))
        self.other = widgets.BoundedIntText(description="and place", value=1, min=1, max=c.patches, layout=WIDE)
        self.swap = widgets.Button(
            description="Swap their codes", tooltip="exchanges the codes of the two places", layout=widgets.Layout(width="auto")
        )
        self.swap.on_click(lambda _: self.exchange(self.place.value, self.other.value))
        self.reset = widgets.Button(description="Undo all edits", layout=widgets.Layout(width="auto"))
        self.burst.observe(lambda _: self._from_burst(), "value")
        self.session.observe(lambda _: self._to_session(), "value")
        for control in (self.neuron, self.trial):
            control.observe(lambda _: self._from_observation(), "value")
        self.place.observe(lambda _: self._moved(), "value")
        self.code.observe(lambda _: self._put(self.code.value), "value")
        self.sequence.observe(lambda _: self._typed(), "value")
        self.reset.on_click(lambda _: self._take(self._original))
        with self._quiet():
            self._fill_session()
            self._from_burst()
        rows = [
            widgets.HBox(
                [self.burst, *([self.session] if len(self.session.options) > 1 else []), *([self.neuron, self.trial] if trials else [])], layout=ROW
            )
        ]
        self._ready(
            *rows, widgets.HBox([self.place, self.code, self.other, self.swap], layout=ROW), widgets.HBox([self.sequence, self.reset], layout=ROW)
        )

    def _codebook(self):
        """The codebook. With trials, the use of the codes is counted in a sample of the windows, since counting all windows would take minutes."""
        if self.trials is None:
            return codebook(self.model)
        windows = sum(len(part) * len(part.neurons) for part in self.trials.by_session())
        every = int(np.ceil(np.sqrt(windows / MOST_WINDOWS)))
        some = self.trials.of_neurons(self.trials.neurons[::every])
        try:
            return codebook(self.model, some.subset(np.arange(0, len(some), every)))
        except QfError:  # no window of the sample is whole
            return codebook(self.model)

    # ---------------------------------------------------------------- the sequence

    def _fill_session(self):
        if self.trials is None:
            return
        with self._quiet():
            part = self.trials.subset((self.trials.table["session"] == self.session.value).to_numpy())
            fill(self.neuron, [("", None), *((n, n) for n in part.neurons)])
            fill(self.trial, [(f"{t}: {c}", t) for t, c in zip(part.table["trial"].tolist(), part.table["condition"], strict=True)])

    def _to_session(self):
        self._fill_session()
        self._from_observation()  # a matched neuron stays chosen

    def _from_burst(self):
        if self.burst.value is None:
            return
        with self._quiet():
            self.neuron.value = None
        self._begin(burst(self.model, self.burst.value).values)

    def _from_observation(self):
        if self._busy or self.neuron.value is None or self.trials is None:
            return
        with self._told():
            table = self.trials.table
            here = (table["session"] == self.session.value) & (table["trial"] == self.trial.value)
            part = self.trials.subset(here.to_numpy()).of_neurons(self.neuron.value)
            with one_thread():
                codes = self.model.codes_arrays(part.dataset()[part.window.signal].values, part.neurons)[0][0, 0]
            if codes[0] < 0:
                raise QfError(
                    f"trial: expected a whole window of {self.neuron.value} in trial {self.trial.value}, found values missing. Choose another."
                )
            with self._quiet():
                self.burst.value = None
            self._begin(codes)

    def start(self, sequence):
        """Start from another sequence. Later edits are compared with it.

        Parameters
        ----------
        sequence : array_like of int, shape (patch,)
            Codes.

        Raises
        ------
        QfError
            If `sequence` is not one sequence of this model's codes.
        """
        if decode_codes(self.model, sequence).ndim > 1:  # decode_codes raises QfError for all other faults
            raise QfError(f"sequence: expected one, of {len(self._sequence)} codes, found {len(sequence)}. Pick one.")
        with self._quiet():
            self.burst.value = self.neuron.value = None
        self._begin(sequence)

    def _begin(self, sequence):
        self._original = np.asarray(sequence, int)
        self._take(self._original)

    def edit(self, place, code):
        """Put `code` at the patch number `place` (from 1 on). Raises QfError if there is no such place or code."""
        edited = swap(self.model, self._sequence, place, code)["edited"].values
        with self._quiet():
            self.place.value = int(place)
        self._take(edited)

    def exchange(self, place, other):
        """Swap the codes of two places (from 1 on). Raises QfError if there is no such place."""
        sequence = self._sequence.copy()
        for it in (place, other):
            if it not in range(1, len(sequence) + 1):
                raise QfError(f"place: expected 1 to {len(sequence)}, found {it}. Choose one of these.")
        sequence[[place - 1, other - 1]] = sequence[[other - 1, place - 1]]
        self._take(sequence)

    def _take(self, sequence):
        self._sequence = np.asarray(sequence, int).copy()
        with self._quiet():
            self.sequence.value = " ".join(map(str, self._sequence))
            self.code.value = int(self._sequence[self.place.value - 1])
        self.update()

    def _moved(self):
        if not self._busy:
            self._take(self._sequence)

    def _put(self, code):
        if not self._busy:
            sequence = self._sequence.copy()
            sequence[self.place.value - 1] = code
            self._take(sequence)

    def _typed(self):
        if self._busy:
            return
        with self._told():
            parts = re.split(r"[\s,;]+", self.sequence.value.strip())
            if not all(re.fullmatch(r"\d+", p) for p in parts):
                raise QfError(
                    f"sequence: expected codes as whole numbers, found {self.sequence.value.strip()!r}. Type {len(self._sequence)} codes with spaces between."
                )
            sequence = np.array([int(p) for p in parts])
            decode_codes(self.model, sequence)
            self._take(sequence)

    def _keyed(self, key, count):
        step = {"ArrowLeft": -count, "Home": -(10**6), "ArrowRight": count, "End": 10**6}.get(key)
        if step is not None:
            self.place.value = int(np.clip(self.place.value + step, 1, self.place.max))
        by = {"ArrowUp": count, "PageUp": 10 * count, "ArrowDown": -count, "PageDown": -10 * count}.get(key)
        if by is not None:
            self._put(int(np.clip(self._sequence[self.place.value - 1] + by, 0, self.code.max)))

    def _picked(self, panel, key):
        if panel == "sequence":
            self.place.value = int(key)
        elif panel == "codebook":
            self._put(int(key))

    # ---------------------------------------------------------------- drawing

    def view(self):
        """Return the view: `before`, `after` (time) in signal / divisor, `sequence`, `edited` (patch) int, as `interpret.codes.swap` returns them."""
        return super().view()

    def _decoded(self):
        c = self.model.config
        with one_thread():
            before, after = decode_codes(self.model, np.stack([self._original, self._sequence]))
        place = int(self.place.value)
        return xr.Dataset(
            {"before": ("time", before), "after": ("time", after), "sequence": ("patch", self._original), "edited": ("patch", self._sequence)},
            {
                "time": (np.arange(len(before)) - c.n_baseline) / c.rate_hz,
                "patch": np.arange(1, c.patches + 1),
                "start_s": ("patch", np.asarray(c.patch_starts)),
            },
            {**self._origin, "place": place, "code": int(self._sequence[place - 1]), "replaced": int(self._original[place - 1])},
        )

    def _draw(self):
        view, c = self._decoded(), self.model.config
        self._view = view
        time, starts = view["time"].values, view["start_s"].values
        length, end = c.patch_frames / c.rate_hz, float(time[-1] + 1 / c.rate_hz)
        place = view.attrs["place"]
        edges = [float(starts[place - 1]), float(starts[place - 1] + length)]
        y = around(view["before"].values, view["after"].values, room=0.1)
        changed = self._sequence != self._original
        rule_0 = rule(0.0)
        levels = self.book["level"].values
        colors, texts = shades(levels)
        trace = {
            "name": "trace", "title": "decoded: before (grey) and after the edits", "height": 200, "scrub": True,
            "marks": [span(*edges, y, color="#d55e00", opacity=0.08), rule_0, rule(edges, color="#d55e00", dash="5 4"),
                      line(time, view["before"].values, "#888888", "before", width=2), line(time, view["after"].values, "#0072b2", "after", width=2)],
            "x": {"domain": [float(time[0]), end]}, "y": {"domain": list(y), "label": UNIT},
        }  # fmt: skip

        def strip(codes, low, high, keys=None):
            cells = {
                "type": "cells", "x0": np.maximum(starts, time[0]).tolist(), "x1": np.minimum(starts + length, end).tolist(), "y0": [low] * len(codes), "y1": [high] * len(codes),
                "color": [colors[k] for k in codes], "textColor": [texts[k] for k in codes], "text": [str(k) for k in codes], "edge": "#ffffff",
                "tip": [f"place {i + 1}: code {k}, level {levels[k]:.2g} SD" for i, k in enumerate(codes)],
            }  # fmt: skip
            return {**cells, "key": list(range(1, len(codes) + 1)), "picked": place} if keys else cells

        sequence = {
            "name": "sequence", "title": "codes: click a place (or left, right)", "height": 58, "scrub": True,
            "marks": [strip(self._original.tolist(), 1.04, 1.96), strip(self._sequence.tolist(), 0.04, 0.96, keys=True), rule_0],
            "x": {"domain": [float(time[0]), end], "label": "time from onset (s)"},
            "y": {"domain": [0, 2], "ticks": [{"at": 1.5, "text": "before"}, {"at": 0.5, "text": "after"}]},
        }  # fmt: skip
        rank = np.argsort(levels, kind="stable")
        used = [""] * c.codes
        if "usage" in self.book:
            windows = int(self.book["count"].sum()) // c.patches
            used = [f", {u:.1%} of the patches of {windows} windows" for u in self.book["usage"].values]
        book = {
            "name": "codebook", "title": "codebook by level: click the code to put there (or up, down)", "height": 30,
            "marks": [{
                "type": "cells", "x0": list(range(c.codes)), "x1": list(range(1, c.codes + 1)), "y0": [0.02] * c.codes, "y1": [0.98] * c.codes,
                "color": [colors[k] for k in rank], "textColor": [texts[k] for k in rank], "text": [str(k) for k in rank], "edge": "#ffffff",
                "tip": [f"code {k}: level {levels[k]:.2g} SD{used[k]}" for k in rank],
                "key": [int(k) for k in rank], "picked": view.attrs["code"],
            }],
            "x": {"domain": [0, c.codes]}, "y": {"domain": [0, 1], "ticks": []},
        }  # fmt: skip
        about = f"Code explorer, place {place}, code {view.attrs['code']}. Arrow left and right: place, up and down: code."
        legend = [
            {"name": "before", "color": "#888888"},
            {"name": "after", "color": "#0072b2"},
            {"name": "the place", "color": "#d55e00", "dash": "5 4"},
        ]
        return {"about": about, "legend": legend, "panels": [trace, sequence, book]}, self._text(view, changed)

    def _text(self, view, changed):
        place, c = view.attrs["place"], self.model.config
        text = f"place {place} of {c.patches}: code {view.attrs['code']}"
        if not changed.any():
            return f"{text}; nothing edited yet."
        there = np.zeros(c.patches * c.patch_frames, bool).reshape(c.patches, -1)
        there[changed] = True
        pad = c.baseline_patches * c.patch_frames - c.n_baseline
        there = there.ravel()[pad : pad + c.n_baseline + c.n_response]
        difference = view["after"].values - view["before"].values
        inside, outside = (float(np.sqrt(np.mean(np.square(difference[m])))) if m.any() else np.nan for m in (there, ~there))
        at = ", ".join(str(i + 1) for i in np.flatnonzero(changed))
        other = "" if np.isnan(outside) else f", and by {outside:.3g} at the places whose codes stayed: that much is context"
        return f"{text}; edited at {at}. The trace changed by {inside:.3g} SD (RMS) there{other}."

    # ---------------------------------------------------------------- keeping

    def figure(self):
        """Return the view as a matplotlib Figure."""
        from matplotlib.figure import Figure

        view = self.view()
        with style():
            fig = Figure(figsize=(6.4, 2.4), layout="constrained")
            plot_swap(view, ax=fig.subplots())
        return fig

    def _name(self):
        return "codes_" + "-".join(map(str, self._sequence))

    def _table(self, view):
        c = self.model.config
        patch = np.floor((np.arange(view.sizes["time"]) + c.baseline_patches * c.patch_frames - c.n_baseline) / c.patch_frames).astype(int)
        columns = {n: view[n].values for n in ("before", "after")} | {
            f"code, {n}": view[s].values[patch] for n, s in (("before", "sequence"), ("after", "edited"))
        }
        return pd.DataFrame(columns, index=pd.Index(view["time"].values, name="time_s"))
