"""Trace inspector: one neuron in one trial, with forecasts, codes and the mean over the condition's trials. Arrow keys go to the next one."""

import ipywidgets as widgets
import numpy as np
import pandas as pd

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..interpret.codes import codebook
from ..interpret.neurons import neuron_statistics
from ..interpret.observation import LEVEL, Observer
from ..plots.observation import code_rows, figure_observation, model_looks, title_of
from ..recordings.window import SIGNAL_LABELS
from .base import ALL_KEYS, ROW, WIDE, Viewer, fill, step
from .chart import around, band, line, rule, shades, span

EVERY = "all"
STORED = "as stored"
LEFT = 92  # width for the names of the models, pixels


class TraceInspector(Viewer):
    """Look through the observations of some trials.

    Choose session, stimulus, neuron (type a part of its name, or sort by a statistic) and trial. In the picture, up and down go to the next neuron,
    left and right to the next trial, Home and End to the first and last trial. The pointer, or shift with an arrow, moves a line through all panels
    and shows the values there.

    Parameters
    ----------
    trials : Trials
        Usually the test part of a split. Forecasts of trials that a model was trained on look better than they are; the text then warns of it.
    models : sequence of Forecaster and QuantFormerClassifier
        Models whose forecasts are drawn; naive rows may be among them.
    autoencoder : Autoencoder, optional
        Its codes are shown. If None, the auto-encoder of the first model that has one.
    n_samples : int
        Number of draws for the intervals; 0 for none.
    seed : int
        Seed of the draws.

    Examples
    --------
    >>> TraceInspector(split.test, [forecaster, classifier])
    TraceInspector(...)
    """

    title = "trace inspector"
    used_keys = ALL_KEYS

    def __init__(self, trials, models=(), *, autoencoder=None, n_samples=64, seed=0):
        super().__init__()
        with self._told():
            self._set_up(trials, models, autoencoder, n_samples, seed)

    def _set_up(self, trials, models, autoencoder, n_samples, seed):
        self.observer = Observer(trials, models, autoencoder=autoencoder, n_samples=n_samples, seed=seed)
        self.simulated = trials.simulated
        self._statistics, self._ranges = {}, {}
        self.levels = codebook(self.observer.autoencoder)["level"].values if self.observer.autoencoder is not None else None
        names = list(self.observer.forecasters)
        self.session = widgets.Dropdown(description="session", options=self.observer.sessions, layout=WIDE)
        self.stimulus = widgets.Dropdown(description="stimulus", options=[EVERY], layout=WIDE)
        self.condition = widgets.Dropdown(description="condition", options=[EVERY], layout=WIDE)
        self.search = widgets.Text(description="find neuron", placeholder="part of its name", continuous_update=True, layout=WIDE)
        self.sort = widgets.Dropdown(description="sort by", options=[STORED, *STATISTICS], layout=WIDE)
        self.neuron = widgets.Dropdown(description="neuron", layout=WIDE)
        self.trial = widgets.Dropdown(description="trial", layout=WIDE)
        self.models = widgets.SelectMultiple(
            description="forecasts", options=names, value=names[:3], rows=min(4, max(2, len(names))), layout=WIDE,
            tooltip="hold shift or ctrl to choose several",
        )  # fmt: skip
        self.session.observe(lambda _: self._change(self._fill_session), "value")
        for control in (self.stimulus, self.condition):
            control.observe(lambda change: self._change(self._fill_trials if change["owner"] is self.condition else self._fill_conditions), "value")
        for control in (self.search, self.sort):
            control.observe(lambda _: self._change(self._fill_neurons), "value")
        for control in (self.neuron, self.trial, self.models):
            control.observe(lambda _: self.update(), "value")
        with self._quiet():
            self._fill_session()
        self._ready(
            widgets.HBox([self.session, self.stimulus, self.condition], layout=ROW),
            widgets.HBox([self.search, self.sort, self.neuron, self.trial], layout=ROW),
            widgets.HBox([self.models] if names else [], layout=ROW),
        )

    # ---------------------------------------------------------------- choosing

    def show(self, *, session=None, neuron=None, trial=None):
        """Go to an observation.

        Parameters
        ----------
        session, neuron : str, optional
            Keys. If None, the choice stays, if the session has it.
        trial : int, optional
            Number of the trial in its session. If None, as for `neuron`.

        Raises
        ------
        UnknownKeyError
            If the session, neuron or trial is not there.
        """
        session = self.session.value if session is None else session
        part = self.observer.of(session)
        if neuron is not None:
            part.of_neurons(neuron)
        if trial is not None and trial not in part.table["trial"].tolist():
            raise UnknownKeyError(f"trial: {trial} is not among those of {session}; {did_you_mean(trial, part.table['trial'])}")
        with self._quiet():
            self.session.value = session
            self._fill_session()
            if neuron is not None:
                self.search.value = ""
                self._fill_neurons()
                self.neuron.value = neuron
            if trial is not None:
                self.stimulus.value = self.condition.value = EVERY
                self._fill_conditions()
                self.trial.value = trial
        self.update()

    def _change(self, fill):
        if self._busy:
            return
        with self._quiet(), self._told():
            fill()
        self.update()

    def _part(self):
        return self.observer.of(self.session.value)

    def _fill_session(self):
        table = self._part().table
        fill(self.stimulus, [EVERY, *sorted(table["stimulus"].unique())])
        self._fill_conditions()
        self._fill_neurons()

    def _fill_conditions(self):
        table = self._part().table
        chosen = table if self.stimulus.value == EVERY else table[table["stimulus"] == self.stimulus.value]
        fill(self.condition, [EVERY, *sorted(chosen["condition"].unique())])
        self._fill_trials()

    def _fill_trials(self):
        table = self._part().table
        for name, control in (("stimulus", self.stimulus), ("condition", self.condition)):
            if control.value != EVERY:
                table = table[table[name] == control.value]
        fill(self.trial, [(f"{t}: {c}", t) for t, c in zip(table["trial"].tolist(), table["condition"], strict=True)])

    def _fill_neurons(self):
        names = np.array(self._part().neurons)
        shown = np.array([self.search.value.strip().lower() in n.lower() for n in names], bool)
        labels = names
        if self.sort.value != STORED:
            values = self._statistic(STATISTICS[self.sort.value])
            order = np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable")
            labels = np.array([f"{n}  ({v:.3g})" for n, v in zip(names, values, strict=True)])
            names, labels, shown = names[order], labels[order], shown[order]
        fill(self.neuron, list(zip(labels[shown].tolist(), names[shown].tolist(), strict=True)))

    def _statistic(self, name):
        """A statistic of every neuron of the session. The result is cached."""
        key = self.session.value
        if key not in self._statistics:
            self._statistics[key] = neuron_statistics(self._part())
        return self._statistics[key][name].sel(neuron=self._part().neurons).values.astype(float)

    def _keyed(self, key, count):
        control, by = {
            "ArrowDown": (self.neuron, count), "ArrowUp": (self.neuron, -count), "PageDown": (self.neuron, 10 * count), "PageUp": (self.neuron, -10 * count),
            "ArrowRight": (self.trial, count), "ArrowLeft": (self.trial, -count), "End": (self.trial, 10**9), "Home": (self.trial, -(10**9)),
        }.get(key, (None, 0))  # fmt: skip
        if control is not None and control.options:
            control.value = step([value for _, value in control.options], control.value, by)

    # ---------------------------------------------------------------- drawing

    def view(self):
        """Return the view, an xarray.Dataset from `Observer.look`."""
        return super().view()

    def _draw(self):
        if self.neuron.value is None:
            raise QfError(
                f"neuron: expected a name that holds {self.search.value.strip()!r}, found none in {self.session.value}. Empty the box, or type less."
            )
        if self.trial.value is None:
            raise QfError("trial: expected at least one of this choice, found none. Choose another stimulus or condition.")
        view = self.observer.look(self.session.value, self.neuron.value, self.trial.value, models=list(self.models.value))
        self._view = view
        time, y, parts = view["time"].values, self._range(view), [view[n].values for n in ("forecast", "low", "high")]
        looks = [(*look, *rows) for look, *rows in zip(model_looks(view), *parts, strict=True)]  # name, colour, dashes, three traces of each
        return {
            "about": f"Trace inspector: {title_of(view)}. Arrow up and down: neuron, left and right: trial, with shift: read off values.",
            "legend": self._legend(looks),
            "panels": [self._traces(view, looks, y, time), *self._strips(view, time), self._psth(view, time)],
        }, self._text(view)

    def _range(self, view):
        """Range of the y axis. It is the same for all trials of a neuron, to compare them, and is extended if a trial exceeds it."""
        session, neuron, signal = view.attrs["session"], view.attrs["neuron"], view.attrs["signal"]
        if (session, neuron) not in self._ranges:
            x = self.observer.windows(session, neuron)[signal].values
            self._ranges[session, neuron] = np.nanquantile(x, [0.001, 0.999]) if np.isfinite(x).any() else np.array([0.0, 1.0])
        return around(self._ranges[session, neuron], view["measured"].values, *(view[n].values for n in ("forecast", "low", "high")))

    def _traces(self, view, looks, y, time):
        end = float(time[-1] + np.median(np.diff(time)))
        scored = view.attrs["n_score"] * (end - time[-1])
        marks = [span(time[0], 0.0, y, opacity=0.05)]
        marks += [span(0.0, scored, y, opacity=0.1)] if view.attrs["n_baseline"] + view.attrs["n_score"] < len(time) else []
        marks += [band(time, low, high, color) for _, color, _, _, low, high in looks if np.isfinite(low).any()]
        marks.append(rule(0.0))
        marks.append(line(time, view["measured"].values, width=1.4, name="measured"))
        marks += [line(time, forecast, color, name, width=2.2, dash=_css(dash)) for name, color, dash, forecast, *_ in looks]
        return {
            "name": "trace", "title": title_of(view), "height": 210, "left": LEFT, "scrub": True, "marks": marks,
            "x": {"domain": [float(time[0]), end], **({"label": None} if "code" in view else {"label": "time from onset (s)"})},
            "y": {"domain": list(y), "label": SIGNAL_LABELS.get(view.attrs["signal"], "")},
        }  # fmt: skip

    def _strips(self, view, time):
        if "code" not in view or self.levels is None:
            return []
        rows = code_rows(view)
        marks = []
        low, high = float(self.levels.min()), float(self.levels.max())
        for i, (name, codes) in enumerate(rows):
            there = codes >= 0
            starts, codes = view["start_s"].values[there], codes[there]
            if not len(codes):
                continue
            colors, texts = shades(self.levels[codes], low, high)
            top = len(rows) - i
            marks.append({
                "type": "cells", "x0": starts.tolist(), "x1": (starts + view.attrs["patch_s"]).tolist(), "y0": [top - 0.92] * len(codes),
                "y1": [top - 0.08] * len(codes), "color": colors, "textColor": texts, "text": [str(c) for c in codes], "edge": "#ffffff",
                "tip": [f"{name}: code {c}, level {self.levels[c]:.2g} SD" for c in codes],
            })  # fmt: skip
        ticks = [{"at": len(rows) - i - 0.5, "text": _short(name)} for i, (name, _) in enumerate(rows)]
        step_s = float(np.median(np.diff(time)))
        return [{
            "name": "codes", "title": "codes: the measured window as the auto-encoder sees it, and the forecasts", "height": 24 * len(rows), "left": LEFT, "scrub": True,
            "marks": [*marks, rule(0.0)], "x": {"domain": [float(time[0]), float(time[-1] + step_s)]}, "y": {"domain": [0, len(rows)], "ticks": ticks},
        }]  # fmt: skip

    def _psth(self, view, time):
        mean, sd = view["psth"].values, view["psth_sd"].values
        return {
            "name": "psth", "title": f"mean of the {view.attrs['n_same']} trials of {view.attrs['condition']} here, with SD", "height": 110, "left": LEFT, "scrub": True,
            "marks": [band(time, mean - sd, mean + sd, "#009e73"), rule(0.0), line(time, mean, "#009e73", "mean of the condition", width=2.2),
                      line(time, view["measured"].values, width=0.8, opacity=0.6)],
            "x": {"domain": [float(time[0]), float(time[-1] + np.median(np.diff(time)))], "label": "time from onset (s)"},
            "y": {"domain": list(around(mean - sd, mean + sd, view["measured"].values)), "label": SIGNAL_LABELS.get(view.attrs["signal"], "")},
        }  # fmt: skip

    def _legend(self, looks):
        shaded = [color for _, color, _, _, low, _ in looks if np.isfinite(low).any()]
        return [
            {"name": "measured", "color": "ink"},
            *({"name": name, "color": color, "dash": _css(dash)} for name, color, dash, *_ in looks),
            *({"name": f"{LEVEL:.0%} interval", "color": color, "kind": "band"} for color in shaded[:1]),
        ]

    def _text(self, view):
        parts = [f"{'active' if bool(view['active']) else 'not active'} in this trial"]
        if "probability" in view:
            parts += [
                f"probability of being active {float(p):.2f} ({n})"
                for n, p in zip(view["classifier"].values, view["probability"].values, strict=True)
                if np.isfinite(p)
            ]
        shown = self.neuron.options, self.trial.options
        at = [[v for _, v in options].index(c.value) + 1 for options, c in zip(shown, (self.neuron, self.trial), strict=True)]
        parts.append(f"neuron {at[0]} of {len(shown[0])}, trial {at[1]} of {len(shown[1])}")
        text = "; ".join(parts) + "."
        if view.attrs["seen"]:
            text += f" Seen in training by {', '.join(view.attrs['seen'])}: no forecast to judge a model by."
        return " ".join([text, *view.attrs["notes"]])

    # ---------------------------------------------------------------- keeping

    def figure(self):
        """Return the view as a matplotlib Figure."""
        return figure_observation(self.view(), levels=self.levels)

    def _name(self):
        a = self.view().attrs
        return f"{a['session']}_{a['neuron']}_trial{a['trial']}"

    def _table(self, view):
        columns = {"measured": view["measured"].values, "psth": view["psth"].values, "psth_sd": view["psth_sd"].values}
        for name in view["model"].values:
            columns |= {f"{name}, {part}": view[part].sel(model=name).values for part in ("forecast", "low", "high")}
        table = pd.DataFrame(columns, index=pd.Index(view["time"].values, name="time_s"))
        if "code" in view:
            patch = np.clip(np.searchsorted(view["start_s"].values, view["time"].values + 1e-9) - 1, 0, None)
            table["reconstruction"] = view["reconstruction"].values
            for name, codes in code_rows(view):
                table[f"code, {name}"] = codes[patch]
        return table.dropna(axis=1, how="all")


STATISTICS = {
    "activation probability": "activation_probability",
    "number of activations": "n_activations",
    "mean response": "mean_response",
    "largest mean response": "preferred_response",
    "selectivity": "selectivity",
    "standard deviation": "sd",
    "median": "median",
}


def _css(dashes):
    return None if dashes is None else " ".join(str(2 * d) for d in dashes)


def _short(name):
    return name if len(name) <= 12 else f"{name[:11]}…"
