"""Rollout viewer: how much a prediction takes from each token, for one observation or a neuron's trials, layer by layer and head by head."""

from typing import Any

import ipywidgets as widgets
import numpy as np
import xarray as xr

from ..errors import QfError
from ..estimators.interface import origin
from ..interpret.attention import readout, rollout_of
from ..interpret.observation import Observer, one_thread
from ..plots.attention import plot_rollout, plot_rollout_map
from ..plots.style import credit, palette, style
from .base import ROW, WIDE, Viewer, fill, step
from .chart import numbers, shades

THIS, CONDITION, STIMULUS = "this trial", "this neuron, trials of the condition", "this neuron, trials of the stimulus"
MOST_TRIALS = 48  # most trials that are averaged, so that an update stays quick
ALL_HEADS = "mean"


class RolloutViewer(Viewer):
    """Attention rollout (paper Fig. A-8) of a classifier or forecaster.

    Bars show the share of each token in the row that the prediction is read from. Below them are the rollout after each layer, and the map of the
    chosen layer and head. The up and down keys go to the next neuron, left and right to the next trial.

    Parameters
    ----------
    model : QuantFormerClassifier or QuantFormerForecaster
    trials : Trials

    Examples
    --------
    >>> RolloutViewer(classifier, split.test)
    RolloutViewer(...)
    """

    title = "rollout viewer"

    def __init__(self, model, trials):
        super().__init__()
        with self._told():
            self._set_up(model, trials)

    def _set_up(self, model, trials):
        if not getattr(model, "has_attention", False):
            name = getattr(model, "name", type(model).__name__)
            raise QfError(
                f"model: expected a QuantFormer classifier or forecaster, found {name!r}, which has no attention maps. Pass what `fit_classifier` returned."
            )
        self.model, self.observer = model, Observer(trials, [model], n_samples=0)
        self.simulated = trials.simulated
        self._looked: tuple[Any, Any] = None, None
        config = model.autoencoder.config
        self.session = widgets.Dropdown(description="session", options=self.observer.sessions, layout=WIDE)
        self.neuron = widgets.Dropdown(description="neuron", layout=WIDE)
        self.trial = widgets.Dropdown(description="trial", layout=WIDE)
        self.over = widgets.Dropdown(description="average over", options=[THIS, CONDITION, STIMULUS], value=CONDITION, layout=WIDE)
        self.layer = widgets.Dropdown(description="map of layer", options=list(range(1, config.layers + 1)), value=config.layers, layout=WIDE)
        self.head = widgets.Dropdown(description="head", options=[ALL_HEADS, *range(1, config.heads + 1)], layout=WIDE)
        self.gradient = widgets.Checkbox(description="gradient-weighted, too", indent=False, layout=WIDE)
        self.session.observe(lambda _: self._changed(), "value")
        for control in (self.neuron, self.trial, self.over, self.layer, self.head, self.gradient):
            control.observe(lambda _: self.update(), "value")
        with self._quiet():
            self._fill()
        self._ready(
            widgets.HBox([self.session, self.neuron, self.trial], layout=ROW),
            widgets.HBox([self.over, self.layer, self.head, self.gradient], layout=ROW),
        )

    def _fill(self):
        part = self.observer.of(self.session.value)
        fill(self.neuron, part.neurons)
        fill(self.trial, [(f"{t}: {c}", t) for t, c in zip(part.table["trial"].tolist(), part.table["condition"], strict=True)])

    def _changed(self):
        with self._quiet():
            self._fill()
        self.update()

    def _keyed(self, key, count):
        if key in ("ArrowUp", "ArrowDown"):
            self.neuron.value = step(self.neuron.options, self.neuron.value, count if key == "ArrowDown" else -count)
        elif key in ("ArrowLeft", "ArrowRight"):
            self.trial.value = step([t for _, t in self.trial.options], self.trial.value, count if key == "ArrowRight" else -count)

    def _picked(self, panel, key):
        if panel == "layers":
            self.layer.value = int(key)

    def view(self):
        """Return the view, means over observations: `rollout` (layer, token, source), `attention` and `head_rollout` (layer, head, token, source)."""
        return super().view()

    def _look(self):
        session, neuron, trial = self.session.value, self.neuron.value, self.trial.value
        ds, table = self.observer.windows(session, neuron), self.observer.of(session).table
        chosen = table["trial"].to_numpy() == trial
        if self.over.value != THIS:
            name = "condition" if self.over.value == CONDITION else "stimulus"
            chosen = (table[name] == table[name].to_numpy()[chosen][0]).to_numpy()
        there = at = np.flatnonzero(chosen)
        if len(at) > MOST_TRIALS:
            at = at[np.linspace(0, len(at) - 1, MOST_TRIALS).round().astype(int)]
        part = self.observer.of(session).of_neurons(neuron).subset(at)
        part = self.model.prepare(part)
        signal = part.window.signal
        x = part.dataset()[signal].values if signal == "zscore" else ds[signal].values[at]
        context = x[..., : ds.attrs["n_baseline"]]
        whole = np.isfinite(context).all((1, 2))
        if not whole.any():
            raise QfError(
                f"trial: expected a baseline without missing values of {neuron}, found none among {len(at)}. Choose another trial or neuron."
            )
        conditions = part.table["condition"].to_numpy()[whole].tolist()
        with one_thread():
            found = rollout_of(self.model, context[whole], [neuron], conditions, gradient=self.gradient.value)
        here = found.drop_vars(["observations", "condition"], errors="ignore").isel(neuron=0, drop=True)
        mean = here.mean("trial") if whole.sum() > 1 else here.isel(trial=0, drop=True)
        return mean.assign_attrs(
            session=session, neuron=neuron, trial=int(trial), condition=str(table["condition"].to_numpy()[table["trial"].to_numpy() == trial][0]),
            over=self.over.value, n_trials=int(whole.sum()), n_left_out=int((~whole).sum()), n_there=len(there),
        )  # fmt: skip

    def _draw(self):
        asked = tuple(control.value for control in (self.session, self.neuron, self.trial, self.over, self.gradient))
        if self._looked[0] != asked:  # other layers and heads need no new computation
            self._looked = asked, self._look()
        self._view = view = self._looked[1]
        sources = [str(s) for s in view["source"].values]
        starts = view["start_s"].values
        names = [s if np.isnan(t) else f"{t:.2g} s" for s, t in zip(sources, starts, strict=True)]
        learned = np.isnan(starts)
        last = readout(view["rollout"].isel(layer=-1)).values
        colors = palette()
        bars = [colors[0] if m else (colors[2] if s.startswith("[MASK") else colors[1]) for s, m in zip(sources, learned, strict=True)]
        n, ticks = len(sources), [{"at": i + 0.5, "text": name} for i, name in enumerate(names)]
        weighted = readout(view["gradient_rollout"]).values if "gradient_rollout" in view else None
        top = 1.16 * max(float(last.max()), float(weighted.max()) if weighted is not None else 0.0)
        marks = [{
            "type": "cells", "x0": [i + 0.1 for i in range(n)], "x1": [i + 0.9 for i in range(n)], "y0": [0] * n, "y1": numbers(last), "color": bars,
            "tip": [f"{s}: {v:.3f}" for s, v in zip(sources, last, strict=True)],
        }, {"type": "text", "x": [i + 0.5 for i in range(n)], "y": numbers(last), "text": [f"{v:.2f}" for v in last]}]  # fmt: skip
        if weighted is not None:
            marks.append({"type": "points", "x": [i + 0.5 for i in range(n)], "y": numbers(weighted), "color": ["ink"] * n, "size": 4,
                          "tip": [f"gradient-weighted, {s}: {v:.3f}" for s, v in zip(sources, weighted, strict=True)]})  # fmt: skip
        row = "[CLS]" if "[CLS]" in sources else "[MASK]"
        share = {"name": "share", "title": f"share of each token in {row}: the rollout of all layers", "height": 150, "marks": marks,
                 "x": {"domain": [0, n], "ticks": ticks}, "y": {"domain": [0, top], "label": "share"}}  # fmt: skip
        by_layer = readout(view["rollout"]).values
        layers = self._heat("layers", f"{row} after each layer (click one for its map)", by_layer, [str(k) for k in view["layer"].values], ticks, "layer",
                            keys=np.repeat(view["layer"].values, n).tolist(), picked=self.layer.value, names=sources)  # fmt: skip
        maps = view["attention"].sel(layer=self.layer.value)
        maps = maps.mean("head") if self.head.value == ALL_HEADS else maps.sel(head=self.head.value)
        which = "mean over heads" if self.head.value == ALL_HEADS else f"head {self.head.value}"
        tokens = [names[sources.index(str(t))] for t in view["token"].values]
        attention = self._heat(
            "map", f"attention in layer {self.layer.value}, {which}: rows take from columns", maps.values, tokens, ticks, "", names=sources
        )
        a = view.attrs
        some = f" of {a['n_there']}" if a["n_there"] > MOST_TRIALS else ""
        trials = f"trial {a['trial']}" if a["over"] == THIS else f"mean of {a['n_trials']}{some} trials ({a['over'].split(', ')[-1]})"
        strongest = sources[int(np.argmax(last))]
        text = f"{a['neuron']}, {trials}, {a['condition']}: {row} takes {last.max():.0%} from {strongest}."
        if a["n_left_out"]:
            text += f" {a['n_left_out']} trials with missing values are left out."
        legend = [
            {"name": "learned tokens", "color": colors[0], "kind": "point"},
            {"name": "patches before the onset (their start)", "color": colors[1], "kind": "point"},
        ]
        if any(s.startswith("[MASK") for s in sources):
            legend.append({"name": "masked places", "color": colors[2], "kind": "point"})
        if weighted is not None:
            legend.append({"name": "gradient-weighted", "color": "ink", "kind": "point"})
        return {
            "about": f"Rollout viewer: {text} Arrow up and down: neuron, left and right: trial.",
            "legend": legend,
            "panels": [share, layers, attention],
        }, text

    @staticmethod
    def _heat(name, title, values, rows, ticks, label, names, keys=None, picked=None):
        n_rows, n = values.shape
        colors, texts = shades(values, 0.0, float(values.max()))
        across, down = np.tile(np.arange(n), n_rows), np.repeat(np.arange(n_rows), n)
        cells = {
            "type": "cells", "x0": across.tolist(), "x1": (across + 1).tolist(), "y0": (n_rows - 1 - down).tolist(), "y1": (n_rows - down).tolist(),
            "color": colors, "textColor": texts, "text": [f"{v:.2f}".lstrip("0") for v in values.ravel()],
            "tip": [f"{rows[r]} from {names[c]}: {v:.3f}" for r, c, v in zip(down, across, values.ravel(), strict=True)],
        }  # fmt: skip
        if keys is not None:
            cells |= {"key": keys, "picked": picked, "outline": 1.2}
        y = [{"at": n_rows - 0.5 - i, "text": r} for i, r in enumerate(rows)]
        return {
            "name": name,
            "title": title,
            "height": 21 * n_rows,
            "marks": [cells],
            "x": {"domain": [0, n], "ticks": ticks},
            "y": {"domain": [0, n_rows], "ticks": y, "label": label},
        }

    def figure(self):
        """Return the view as a matplotlib Figure."""
        from matplotlib.figure import Figure

        view = self.view()
        view = view.assign_attrs(origin(self.observer.of(view.attrs["session"]), self.model))
        with style():
            fig = Figure(figsize=(6.4, 4.4), layout="constrained")
            axes = fig.subplots(2, 1)
            plot_rollout(view, ax=axes[0])
            maps = view["rollout"].isel(layer=-1, drop=True).assign_attrs(view.attrs)
            plot_rollout_map(maps, ax=axes[1])
            a = view.attrs
            fig.suptitle(f"{a['neuron']}, {a['condition']}:\n{a['over']} ({a['n_trials']} trials)", fontsize=7)
            credit(fig, view)
        return fig

    def _name(self):
        a = self.view().attrs
        return f"{a['neuron']}_trial{a['trial']}_{a['over'].split(' ')[-1]}"

    def _table(self, view):
        parts = {"rollout": readout(view["rollout"])}
        if "gradient_rollout" in view:
            parts["gradient_rollout"] = readout(view["gradient_rollout"])
        return xr.Dataset({n: p.drop_attrs() for n, p in parts.items()}).to_dataframe()
