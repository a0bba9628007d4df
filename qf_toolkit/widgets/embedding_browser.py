"""Embedding browser: the t-SNE of a model's neuron tokens. A click on a neuron shows its trials."""

import ipywidgets as widgets
import numpy as np
import pandas as pd
import xarray as xr

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..estimators.interface import Observations, origin
from ..interpret.embedding import tsne
from ..interpret.neurons import nearest_neighbours, neuron_statistics, neuron_tokens
from ..interpret.observation import Observer, one_thread
from ..plots.neurons import plot_tokens
from ..plots.style import TRUTH, credit, palette, style
from ..recordings.window import SIGNAL_LABELS
from .base import ROW, WIDE, Viewer
from .chart import around, band, image, line, rule, shades
from .trace_inspector import STATISTICS

TRACES = [{"name": "measured", "color": "ink"}, {"name": "forecast", "color": "#0072b2"}]
LEARNT, WHOLE = "what training added", "whole"
K = 5  # nearest neighbours that are marked
DRAWS = 32  # about the number of draws over all trials, for a model that decodes by draws
MOST_TRIALS = 24  # most trials whose forecasts are averaged, so that an update stays quick


class EmbeddingBrowser(Viewer):
    """The plane of neuron tokens (paper Fig. A-10) beside the trials of the chosen neuron.

    A token is the sum of its random start and the change that training added. If the start is known, the map shows the change. The paper maps the
    whole token, which after a short training is mostly its start.

    Click a point, or press an arrow key to go to the nearest point in that direction. On the right are all trials of the neuron, ordered by
    condition, and the mean over the trials of its preferred condition, beside the model's forecast of them.

    Parameters
    ----------
    model : QuantFormerForecaster or QuantFormerClassifier
    trials : Trials
    perplexity : float or "auto"
        Perplexity of the t-SNE.
    seed : int
        Seed of the t-SNE.
    statistics : xarray.Dataset, optional
        Statistics that can colour the points, as from `neuron_statistics`. If None, those of `trials`.

    Examples
    --------
    >>> EmbeddingBrowser(forecaster, split.train)
    EmbeddingBrowser(...)
    """

    title = "embedding browser"

    def __init__(self, model, trials, *, perplexity="auto", seed=0, statistics=None):
        super().__init__()
        with self._told():
            self._set_up(model, trials, perplexity, seed, statistics)

    def _set_up(self, model, trials, perplexity, seed, statistics):
        whole = neuron_tokens(model)  # raises QfError if the model does not fit
        learnt = bool(model.module.neurons.start.isfinite().all())  # the start is NaN in saved models that do not hold it
        self._tokens = {**({LEARNT: neuron_tokens(model, moved=True)} if learnt else {}), WHOLE: whole}
        if learnt and not self._tokens[LEARNT].values.any(1).all():  # a neuron without training data has a change of 0, which has no angle
            del self._tokens[LEARNT]
        self.model, self.observer = model, Observer(trials, [model], n_samples=0)
        self.simulated = trials.simulated
        self._neuron, self._shown, self._trials = None, {}, self.observer.trials
        self.color = widgets.Dropdown(description="colour by", options=[*STATISTICS, "preferred condition"], layout=WIDE)
        self.perplexity = widgets.Text(
            description="perplexity", value=str(perplexity), continuous_update=False, layout=WIDE, tooltip="auto, or a number"
        )
        self.neuron = widgets.Combobox(description="neuron", options=[], placeholder="click a point, or type", continuous_update=False, layout=WIDE)
        self.part = widgets.Dropdown(description="tokens", options=list(self._tokens), layout=WIDE)
        self.seed, self.embedding = seed, None
        known = [n for n in whole["neuron"].values if n in set(self._trials.neurons)]
        if not known:
            raise QfError("trials: expected a neuron that the model knows, found none. Choose trials of the recording it was trained on.")
        self.unknown = [n for n in self._trials.neurons if n not in set(known)]
        self._tokens = {name: tokens.sel(neuron=known) for name, tokens in self._tokens.items()}
        self.statistics = neuron_statistics(self._trials.of_neurons(known)) if statistics is None else _checked(statistics)
        self.neuron.options = known
        self._homes = {}
        for session in self._trials.sessions:
            for name in self._trials.neurons_of(session):
                self._homes.setdefault(name, []).append(session)
        self.color.observe(lambda _: self.update(), "value")
        self.neuron.observe(lambda change: self._chosen(change["new"]), "value")
        for control in (self.perplexity, self.part):
            control.observe(lambda _: self._embed(), "value")
        self._neuron = known[int(np.nanargmax(np.nan_to_num(self._values("preferred_response", known), nan=-np.inf)))]
        with self._quiet():
            self.neuron.value = self._neuron
        self._embed(quietly=True)
        self._ready(widgets.HBox([self.color, self.part, self.perplexity, self.neuron], layout=ROW))

    @property
    def tokens(self):
        """The tokens that the map shows, an xarray.DataArray (neuron, width), float32."""
        return self._tokens[self.part.value]

    # ---------------------------------------------------------------- choosing

    def _embed(self, quietly=False):
        self.embedding, text = None, self.perplexity.value.strip()
        with self._told():
            try:
                wanted = "auto" if text in ("", "auto") else float(text)
            except ValueError:
                raise QfError(f"perplexity: expected auto or a number, found {text!r}. Type one.") from None
            found, keys = tsne(self.tokens, perplexity=wanted, seed=self.seed), self.tokens["neuron"].values
            self._near = dict(zip(keys, nearest_neighbours(self.tokens, k=min(K, len(keys) - 1))["neighbour"].values.tolist(), strict=True))
            self.embedding = found
        self._failed = self._error
        if not quietly:
            self.update()

    def _chosen(self, name):
        if not self._busy and name.strip():
            with self._told():
                self.choose(name.strip())

    def choose(self, neuron):
        """Show the trials of a neuron, given by its key. Raises UnknownKeyError if it is not in the embedding."""
        if neuron not in self.tokens["neuron"].values:
            raise UnknownKeyError(f"neuron: {neuron!r} is not in the embedding; {did_you_mean(neuron, self.tokens['neuron'].values)}")
        self._neuron = neuron
        with self._quiet():
            self.neuron.value = neuron
        self.update()

    def _picked(self, panel, key):
        if panel == "plane":
            self.choose(key)

    def _keyed(self, key, count):
        way = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, 1), "ArrowDown": (0, -1)}.get(key)
        if way is None or self.embedding is None:
            return
        xy, names = self.embedding.values, self.tokens["neuron"].values.tolist()
        at = names.index(self._neuron)
        for _ in range(min(count, len(names))):
            along, aside = (xy - xy[at]) @ np.array(way), np.abs((xy - xy[at]) @ np.array(way[::-1]))
            cost = np.where(along > 1e-9, along + 2 * aside, np.inf)
            if not np.isfinite(cost).any():
                break
            at = int(cost.argmin())
        self.choose(names[at])

    def _values(self, name, neurons=None):
        values = self.statistics[name].reindex(neuron=self.tokens["neuron"].values if neurons is None else neurons).values
        return np.array([v if isinstance(v, str) else "" for v in values], object) if name == "preferred_condition" else values

    # ---------------------------------------------------------------- drawing

    def view(self):
        """Return the view: `x`, `y`, `value` (neuron) of the plane; `mean`, `sd`, `forecast` (time) of the chosen neuron's preferred condition."""
        return super().view()

    def _of_neuron(self, neuron):
        """A neuron's trials, ordered by condition, as a picture, and the mean over those of its preferred condition. The results are cached."""
        if neuron not in self._shown:
            preferred, homes = self._values("preferred_condition", [neuron])[0], self._homes[neuron]
            # the preferred condition of a matched neuron may be shown in only one of its sessions
            session = next((s for s in homes if preferred in set(self.observer.of(s).table["condition"])), homes[0])
            ds = self.observer.windows(session, neuron)
            signal = self._trials.window.signal
            x, condition = ds[signal].values[:, 0], ds["condition"].values.astype(str)
            order = np.argsort(condition, kind="stable")
            same = (condition == preferred) & np.isfinite(x).all(1)
            if not same.any():
                preferred, same = "", np.isfinite(x).all(1)
            nothing = np.full(x.shape[1], np.nan)
            mean, sd = (x[same].mean(0), x[same].std(0)) if same.any() else (nothing, nothing)
            forecast, note = self._forecast(session, neuron, x, condition, np.flatnonzero(same)[:MOST_TRIALS])
            low, high = np.nanquantile(x, [0.02, 0.98]) if np.isfinite(x).any() else (0.0, 1.0)
            time = ds["time"].values
            extent = (float(time[0]), float(time[-1] + np.median(np.diff(time))))
            picture = image(x[order], extent, (0, len(x)), low, high)
            names, first = np.unique(condition[order], return_index=True)
            edges = [*first.tolist(), len(x)]
            self._shown[neuron] = {
                "mean": mean, "sd": sd, "forecast": forecast, "preferred": preferred, "n": int(same.sum()), "note": note, "picture": picture, "time": time, "extent": extent,
                "rows": [(str(n), len(x) - a, len(x) - b) for n, a, b in zip(names, edges[:-1], edges[1:], strict=True)], "session": session, "range": (low, high),
            }  # fmt: skip
            if len(self._shown) > 64:
                del self._shown[next(iter(self._shown))]
        return self._shown[neuron]

    def _forecast(self, session, neuron, x, condition, rows):
        """The mean forecast over the windows `x[rows]`, (time,), NaN before the onset, and a note with the reason if there is none."""
        out, n = np.full(x.shape[1], np.nan), self.observer.windows(session, neuron).attrs["n_baseline"]
        if self.model.task != "forecast" or not len(rows):
            return out, ""
        try:
            part = self.model.prepare(self.observer.of(session).of_neurons(neuron).subset(rows))
            context = (part.dataset()["zscore"].values if part.window.signal == "zscore" else x[rows, None])[..., :n]
            asked = Observations(np.nan_to_num(context), [neuron], condition[rows].tolist(), session=session)
            with one_thread():
                # many draws for each trial would take seconds; the mean of fewer draws of each has the same expectation
                few = max(1, DRAWS // len(rows))
                drawn = getattr(self.model, "decode", None) == "sample"
                found = self.model.sample_arrays(asked, n_samples=few).mean(0) if drawn else self.model.predict_arrays(asked)
            out[n:] = found[:, 0].mean(0)
        except QfError as error:
            return out, f" No forecast: {error}"
        return out, ""

    def _draw(self):
        if self.embedding is None:
            raise QfError(self._failed)
        names, xy, neuron = self.tokens["neuron"].values.tolist(), self.embedding.values, self._neuron
        by = self.color.value
        values = self._values("preferred_condition" if by == "preferred condition" else STATISTICS[by])
        colors, legend, texts = self._colors(values, by)
        near = set(self._near[neuron])
        mark = {"type": "points", "key": names, "picked": neuron, "x": xy[:, 0].tolist(), "y": xy[:, 1].tolist(), "color": colors,
                "tip": [f"{n}: {t}" for n, t in zip(names, texts, strict=True)], "size": 5}  # fmt: skip
        at = names.index(neuron)
        lines = [line([xy[at, 0], xy[names.index(n), 0]], [xy[at, 1], xy[names.index(n), 1]], "#888888", width=1) for n in near]
        domain = [around(xy[:, i], room=0.08) for i in (0, 1)]
        plane = {"name": "plane", "title": f"t-SNE of neuron tokens, by {by}", "height": 380, "left": 30, "marks": [*lines, mark],
                 "x": {"domain": list(domain[0]), "label": "t-SNE 1 (lines: the nearest in token space)", "ticks": []},
                 "y": {"domain": list(domain[1]), "label": "t-SNE 2", "ticks": []}}  # fmt: skip
        f = self._of_neuron(neuron)
        ticks = [{"at": (a + b) / 2, "text": _tick(n)} for n, a, b in f["rows"]] if len(f["rows"]) <= 20 else []
        label = SIGNAL_LABELS.get(self._trials.window.signal, "")
        heat = {"name": "trials", "title": f"{neuron}: all trials by condition, {label} {f['range'][0]:.2g} to {f['range'][1]:.2g}", "height": 210, "left": 96, "scrub": True,
                "marks": [f["picture"], rule(0.0, color="#ffffff", width=1.5)], "x": {"domain": list(f["extent"])},
                "y": {"domain": [0, f["rows"][0][1]], "ticks": ticks}}  # fmt: skip
        time, mean, sd = f["time"], f["mean"], f["sd"]
        about = f"mean of {f['n']} trials of {_tick(f['preferred']) if f['preferred'] else 'all conditions'}, with SD"
        trace = {"name": "mean", "title": about, "height": 120, "left": 96, "scrub": True,
                 "marks": [band(time, mean - sd, mean + sd, "ink", opacity=0.12), rule(0.0), line(time, mean, "ink", "measured", width=1.8),
                           line(time, f["forecast"], "#0072b2", "forecast", width=2.2)],
                 "x": {"domain": list(f["extent"]), "label": "time from onset (s)"},
                 "y": {"domain": list(around(mean - sd, mean + sd, f["forecast"])), "label": label}}  # fmt: skip
        self._view = xr.Dataset(
            {"x": ("neuron", xy[:, 0]), "y": ("neuron", xy[:, 1]), "value": ("neuron", values), "mean": ("time", mean), "sd": ("time", sd), "forecast": ("time", f["forecast"])},
            {"neuron": np.array(names, object), "time": time}, {**self.embedding.attrs, "chosen": neuron, "session": f["session"], "by": by, "condition": f["preferred"]},
        )  # fmt: skip
        text = f"{neuron}: {texts[at]} ({by}); nearest in token space: {', '.join(_cell(n) for n in self._near[neuron])}. Perplexity {self.embedding.attrs['perplexity']:.3g}."
        if self.unknown:
            text += f" Not shown, since the model has no token of them: {', '.join(map(_cell, self.unknown[:5]))}{' and others' if len(self.unknown) > 5 else ''}."
        text += f["note"]
        return {
            "about": f"Embedding browser: {text} Arrow keys: the nearest point in that direction.", "legend": [*legend, *TRACES], "columns": [{"share": 0.44, "panels": [0]}, {"share": 0.56, "panels": [1, 2]}],
            "panels": [plane, heat, trace],
        }, text  # fmt: skip

    def _colors(self, values, by):
        """Colours of the points, entries of the legend, and each value as text."""
        if by == "preferred condition":
            labels = [str(v) for v in values]
            known = sorted(set(labels) - {""})
            shade = dict(
                zip(known, shades(np.arange(len(known)) / max(len(known), 1), 0.0, 1.0, "twilight" if len(known) > 7 else "viridis")[0], strict=True)
            )
            if len(known) <= 7:
                shade = dict(zip(known, palette(), strict=False))
            legend = [{"name": _tick(k), "color": shade[k], "kind": "point"} for k in known] if len(known) <= 24 else []
            return [shade.get(v, "#999999") for v in labels], legend, [v or "none" for v in labels]
        numbers = np.asarray(values, float)
        low, high = (np.nanmin(numbers), np.nanmax(numbers)) if np.isfinite(numbers).any() else (0.0, 1.0)
        colors = shades(numbers, low, high)[0]
        scale = [{"name": f"{by} {v:.3g}", "color": shades([v], low, high)[0][0], "kind": "point"} for v in (low, (low + high) / 2, high)]
        return (
            [c if np.isfinite(v) else "#999999" for c, v in zip(colors, numbers, strict=True)],
            scale,
            [f"{v:.3g}" if np.isfinite(v) else "none" for v in numbers],
        )

    # ---------------------------------------------------------------- keeping

    def figure(self):
        """Return the view as a matplotlib Figure."""
        from matplotlib.figure import Figure

        view, f = self.view(), self._of_neuron(self._neuron)
        with style():
            fig = Figure(figsize=(7.0, 3.4), layout="constrained")
            axes = fig.subplots(1, 2)
            plot_tokens(self.embedding, view["value"], ax=axes[0])
            x, y = (float(view[n].sel(neuron=self._neuron)) for n in ("x", "y"))
            axes[0].plot(x, y, "o", ms=10, mfc="none", mec=TRUTH, mew=1.5)
            axes[0].set_title(f"neuron tokens, by {view.attrs['by']}", fontsize=7, loc="left")
            axes[1].axvline(0, color="0.5", lw=0.8)
            axes[1].fill_between(f["time"], f["mean"] - f["sd"], f["mean"] + f["sd"], color="0.85", lw=0)
            axes[1].plot(f["time"], f["mean"], color=TRUTH, label="measured")
            if np.isfinite(f["forecast"]).any():
                axes[1].plot(f["time"], f["forecast"], label="forecast")
            axes[1].set_xlabel("time from onset (s)")
            axes[1].set_ylabel(SIGNAL_LABELS.get(self._trials.window.signal, ""))
            axes[1].set_title(f"{self._neuron}: mean of {f['n']} trials of\n{f['preferred'] or 'all conditions'}", fontsize=7, loc="left")
            axes[1].legend()
            credit(fig, view, origin(self._trials, self.model))
        return fig

    def _name(self):
        return self.view().attrs["chosen"]

    def _table(self, view):
        return pd.DataFrame({n: view[n].values for n in ("x", "y", "value")}, index=pd.Index(view["neuron"].values, name="neuron"))


def _checked(statistics):
    """The statistics that colour the points. Raises QfError if one is missing."""
    missing = [name for name in (*STATISTICS.values(), "preferred_condition") if name not in statistics]
    if missing:
        raise QfError(f"statistics: expected {missing[0]!r} among them, found none. Pass neuron_statistics(trials), or leave it out.")
    return statistics


def _tick(condition):
    text = condition.split("/", 1)[-1]
    return text.replace("orientation=", "").replace(",temporal_frequency=", "° at ").replace("spatial_frequency=", "sf ") + (
        " Hz" if "temporal_frequency" in text else ""
    )


def _cell(neuron):
    return neuron.rsplit("/", 1)[-1]
