"""Population viewer: the rasters of one trial, measured, forecast and wrong, and the trace of a neuron that is clicked."""

import ipywidgets as widgets
import numpy as np

from ..errors import QfError
from ..estimators.interface import origin
from ..interpret.observation import one_thread
from ..interpret.population import ORDERS, population_view
from ..plots.heat import DIFFERENCES, SHARES
from ..plots.population import TITLES, plot_population, raster_limits
from ..plots.style import TRUTH, credit, palette, style
from ..recordings.trials import check_trials
from ..recordings.window import SIGNAL_LABELS
from .base import ROW, WIDE, Viewer, fill, step
from .chart import around, image, line, rule

HEIGHT, LEFT = 220, 48  # of a panel, and of the room beside it, pixels
KEPT = 32  # views that stay in memory


class PopulationViewer(Viewer):
    """All neurons of a session in one trial: what was measured, what a model forecasts, and the difference.

    The neurons have the same order in all rasters. Click a row, or press the up and down keys, to see the neuron's trace; left and right go to the next
    trial.

    Parameters
    ----------
    models : Forecaster or sequence of Forecaster
        Models and naive rows, with names that differ.
    trials : Trials

    Examples
    --------
    >>> PopulationViewer(forecaster, split.test)
    PopulationViewer(...)
    """

    title = "population viewer"

    def __init__(self, models, trials):
        super().__init__()
        with self._told():
            self._set_up(models, trials)

    def _set_up(self, models, trials):
        check_trials(trials)
        models = list(models) if isinstance(models, list | tuple) else [models]
        for model in models:
            if getattr(model, "task", None) != "forecast":
                raise QfError(
                    f"models: expected forecasters, found {getattr(model, 'name', type(model).__name__)!r}. Pass what fit_network returned."
                )
        self.models = {m.name: m for m in models}
        if len(self.models) < len(models) or not models:
            raise QfError(f"models: expected one or more with names that differ, found {', '.join(m.name for m in models) or 'none'}. Rename one.")
        self.parts, self.simulated, self._shown = {part.sessions[0]: part for part in trials.by_session()}, trials.simulated, {}
        self.session = widgets.Dropdown(description="session", options=list(self.parts), layout=WIDE)
        self.trial = widgets.Dropdown(description="trial", layout=WIDE)
        self.model = widgets.Dropdown(description="model", options=list(self.models), layout=WIDE)
        self.order = widgets.Dropdown(description="order", options=[(text, name) for name, text in ORDERS.items()], layout=WIDE)
        self.neuron = widgets.Dropdown(description="neuron", layout=WIDE)
        self.session.observe(lambda _: self._changed(), "value")
        for control in (self.trial, self.model, self.order, self.neuron):
            control.observe(lambda _: self.update(), "value")
        with self._quiet():
            self._fill()
        self._ready(widgets.HBox([self.session, self.trial, self.model], layout=ROW), widgets.HBox([self.order, self.neuron], layout=ROW))

    def _fill(self):
        part = self.parts[self.session.value]
        fill(self.trial, [(f"{t}: {c}", t) for t, c in zip(part.table["trial"].tolist(), part.table["condition"], strict=True)])
        fill(self.neuron, part.neurons)

    def _changed(self):
        with self._quiet():
            self._fill()
        self.update()

    def _keyed(self, key, count):
        if key in ("ArrowUp", "ArrowDown") and self._view is not None:
            self.neuron.value = step(self._view["neuron"].values.tolist(), self.neuron.value, count if key == "ArrowDown" else -count)
        elif key in ("ArrowLeft", "ArrowRight"):
            self.trial.value = step([t for _, t in self.trial.options], self.trial.value, count if key == "ArrowRight" else -count)

    def _picked(self, panel, key):
        if panel in TITLES:
            self.neuron.value = key

    def view(self):
        """Return the view: `measured`, `forecast` and `error` (neuron, time), in the order in which the neurons are shown."""
        return super().view()

    def _look(self):
        """The view that the controls choose; another neuron needs no new forecast."""
        asked = session, trial, name, order = self.session.value, self.trial.value, self.model.value, self.order.value
        if asked not in self._shown:
            model, part = self.models[name], self.parts[session]
            part = model.prepare(part.subset((part.table["trial"] == trial).to_numpy()))
            with one_thread():
                forecast = model.predict(part)
            view = population_view(part.dataset(), forecast, trial, order=order)
            self._shown[asked] = view.assign_attrs({**origin(part, model), "forecaster": name})
            if len(self._shown) > KEPT:
                del self._shown[next(iter(self._shown))]
        return self._shown[asked]

    def _draw(self):
        self._view = view = self._look()
        a, neuron, time = view.attrs, str(self.neuron.value), view["time"].values
        label = SIGNAL_LABELS.get(a["signal"], a["signal"])
        keys, n = view["neuron"].values.tolist(), view.sizes["neuron"]
        extent = (float(time[0]), float(time[-1] + np.median(np.diff(time))))
        one, color = view.sel(neuron=neuron), palette()[0]
        traces = {"name": "trace", "title": neuron, "height": HEIGHT, "left": LEFT, "scrub": True,
                  "marks": [rule(0.0), line(time, one["measured"].values, "ink", "measured", width=1.6),
                            line(time, one["forecast"].values, color, a["forecaster"], width=2.2)],
                  "x": {"domain": list(extent), "label": "time from onset (s)"},
                  "y": {"domain": list(around(one["measured"].values, one["forecast"].values)), "label": label}}  # fmt: skip
        rasters = [self._raster(view, of, extent, keys, label) for of in TITLES]
        error = np.square(view["error"].values[:, a["n_baseline"] :])
        mse, mine = (float(np.nanmean(e)) if np.isfinite(e).any() else np.nan for e in (error, error[keys.index(neuron)]))
        unknown = int((~np.isfinite(error).all(1)).sum())
        text = f"{a['session']}, trial {a['trial']}, {a['condition']}: {n} neurons, by {ORDERS[a['order']]}. "
        text += f"Mean squared error of {a['forecaster']} {mse:.3g}, of {neuron.rsplit('/', 1)[-1]} {mine:.3g} ({label} squared)."
        if unknown:
            text += f" {unknown} neurons lack a forecast or values of the response."
        return {
            "about": f"Population viewer: {text} Arrow up and down: neuron, left and right: trial.",
            "legend": [{"name": "measured", "color": "ink"}, {"name": a["forecaster"], "color": color}],
            "columns": [{"share": 0.5, "panels": [0, 3]}, {"share": 0.5, "panels": [1, 2]}],
            "panels": [*rasters, traces],
        }, text

    def _raster(self, view, of, extent, keys, label):
        """A panel: the picture, over it a row a neuron that can be clicked, and the onset."""
        low, high = raster_limits(view, of)
        n, name = len(keys), view.attrs["forecaster"] if of == "forecast" else TITLES[of]
        rows = {"type": "cells", "x0": [extent[0]] * n, "x1": [extent[1]] * n, "y0": list(range(n - 1, -1, -1)), "y1": list(range(n, 0, -1)),
                "color": ["ink"] * n, "opacity": 0, "key": keys, "tip": keys, "picked": self.neuron.value, "outline": 1.2}  # fmt: skip
        picture = image(view[of].values, extent, (0, n), low, high, DIFFERENCES if of == "error" else SHARES)
        return {
            "name": of, "title": f"{name}, {label} {low:.2g} to {high:.2g}", "height": HEIGHT, "left": LEFT, "scrub": True,
            "marks": [picture, rule(0.0, color="#888888" if of == "error" else "#ffffff", width=1.5), rows],
            "x": {"domain": list(extent), "label": "time from onset (s)"}, "y": {"domain": [0, n], "label": "neuron", "ticks": []},
        }  # fmt: skip

    def figure(self):
        """Return the view as a matplotlib Figure."""
        from matplotlib.figure import Figure

        view, neuron = self.view(), self.neuron.value
        a, label = view.attrs, SIGNAL_LABELS.get(view.attrs["signal"], view.attrs["signal"])
        with style():
            fig = Figure(figsize=(8.4, 5.0), layout="constrained")
            grid = fig.add_gridspec(2, 3, height_ratios=(2, 1))
            for i, of in enumerate(TITLES):
                ax = fig.add_subplot(grid[0, i])
                plot_population(view, of=of, ax=ax)
                if i:  # the rasters share their rows
                    ax.set_ylabel("")
                    ax.tick_params(labelleft=False)
                fig.colorbar(ax.images[0], ax=ax, location="bottom", label=label, extend="both", shrink=0.8).outline.set_visible(False)
                ax.axhline(view["neuron"].values.tolist().index(neuron) + 0.5, color="0.15", lw=0.6)
            ax, time, one = fig.add_subplot(grid[1, :]), view["time"].values, view.sel(neuron=neuron)
            ax.axvline(0, color="0.5", lw=0.8)
            ax.plot(time, one["measured"].values, color=TRUTH, lw=1.0, label="measured")
            ax.plot(time, one["forecast"].values, label=a["forecaster"])
            ax.set(xlabel="time from onset (s)", ylabel=label)
            ax.set_title(neuron, loc="left")
            ax.legend()
            fig.suptitle(f"{a['session']}, trial {a['trial']}: {a['condition']}", fontsize=8, x=0.01, ha="left")
            credit(fig, view)
        return fig

    def _name(self):
        a = self.view().attrs
        return f"{a['session']}_trial{a['trial']}_{a['forecaster']}_{self.neuron.value}"
