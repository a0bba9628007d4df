"""The base of all widgets: controls above a chart, messages instead of tracebacks, a static picture for exports, saving the view."""

import base64
import html
import io
import re
import uuid
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import ipywidgets as widgets
from IPython.display import display

from .._files import atomic_path
from ..errors import QfError
from ..plots.style import save_figure, style
from .chart import Chart

WIDE = widgets.Layout(width="auto", min_width="240px", flex="1 1 240px")
LONGEST = 120  # most characters that a view's name adds to a file name: the names of long sequences would be too long for a disk
ARROWS = ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown")
ALL_KEYS = (*ARROWS, "Home", "End", "PageUp", "PageDown")
ROW = widgets.Layout(display="flex", flex_flow="row wrap", align_items="center", width="100%")


class Viewer(widgets.VBox):
    """Controls, a line of text that describes the view or an error, and a chart.

    A subclass sets up its controls inside `_told()`, then calls `_ready(controls)`. Its `_draw` stores the view in `_view`, and returns the chart's
    spec and the line of text. `view()` returns the view as a labelled Dataset, `figure()` as a matplotlib Figure.
    """

    title = "view"
    simulated = False  # True if the data are simulated; every picture then shows it
    used_keys = ARROWS  # keys that the chart takes; the page keeps all others

    def __init__(self):
        super().__init__(layout=widgets.Layout(width="100%"))
        self._uid, self._busy = uuid.uuid4().hex, 0
        self.chart = Chart(on_key=self._keyed, on_pick=self._picked, used_keys=list(self.used_keys), uid=self._uid)
        self.status = widgets.HTML()
        self.status.add_class("qf-status")
        self._stem = widgets.Text(
            value=self.title.replace(" ", "_"), description="save as", tooltip="folder and name, without ending; the observation is added",
            continuous_update=False, layout=WIDE,
        )  # fmt: skip
        self._save = widgets.Button(
            description="Save figure and CSV", tooltip="writes svg, png, csv and where they come from", layout=widgets.Layout(width="auto")
        )
        self._stem.style.description_width = "initial"
        self._save.on_click(lambda _: self._saved())
        self.saved = widgets.HTML()
        self._error = self._view = self._display = None
        self.children = [self.status]  # until the widget is ready, only the text is shown, which may hold an error of the set-up

    def _ready(self, *rows):
        for row in rows:
            for control in row.children:
                control.style.description_width = "initial"  # else long descriptions are cut off
        self.children = [*rows, self.status, self.chart, widgets.HBox([self._stem, self._save, self.saved], layout=ROW)]
        self.update()

    # ---------------------------------------------------------------- drawing

    def update(self):
        """Draw the view that the controls choose. If it can't be drawn, the line of text shows the error."""
        if self._busy:
            return
        with self._told():
            self._view = None
            spec, text = self._draw()
            if self.simulated:
                spec = {**spec, "legend": [*spec.get("legend", []), {"name": "simulated data", "kind": "note"}]}
            self.chart.spec = spec
            self._say(text)

    @contextmanager
    def _quiet(self):
        """Change several controls in this context without drawing after each. The caller draws once afterwards."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    @contextmanager
    def _told(self):
        """Show a QfError of this context in the widget, and clear the chart, so that nobody takes the old picture for the new view."""
        self._error = None
        try:
            yield
        except QfError as error:
            self._error, self._view = str(error), None
            self.chart.spec = {"panels": [], "about": str(error)}
            self._say(str(error), bad=True)

    def _say(self, text, bad=False):
        look = "color: var(--jp-error-color0, #b00020); font-weight: 600;" if bad else ""
        # the role makes a screen reader read the new text aloud
        self.status.value = f'<div role="{"alert" if bad else "status"}" style="line-height: 1.4; font-size: 13px; {look}">{html.escape(text)}</div>'

    @property
    def message(self):
        """The line of text above the chart, as plain text."""
        return html.unescape(re.sub("<[^>]*>", "", self.status.value))

    def _draw(self):
        raise NotImplementedError

    def _keyed(self, key, count):
        """Called when a key was pressed `count` times in the chart."""

    def _picked(self, panel, key):
        """Called when a mark with the key `key` was clicked in a panel."""

    # ---------------------------------------------------------------- keeping

    def view(self):
        """Return the view as an xarray.Dataset.

        Raises
        ------
        QfError
            If nothing is shown; its text is the reason.
        """
        if self._view is None:
            raise QfError(self._error or "view: expected something to be shown, found nothing. Choose a neuron and a trial.")
        return self._view

    def figure(self):
        """Return the view as a matplotlib Figure.

        Raises
        ------
        QfError
            If nothing is shown; its text is the reason.
        """
        raise NotImplementedError

    def _figure(self):
        """`figure`, closed in pyplot, which would else hold every figure of a long session."""
        import matplotlib.pyplot as plt

        fig = self.figure()
        plt.close(fig)
        return fig

    def _name(self):
        """The part of a file name that identifies this view."""
        return ""

    def save(self, stem=None):
        """Write the view as a figure (svg, png) and a table (csv), with a sidecar (json) that names where they come from.

        Parameters
        ----------
        stem : str or Path, optional
            Path without ending. If None, the path in the box, with the view's name added.

        Returns
        -------
        list of Path

        Raises
        ------
        QfError
            If nothing is shown, the disk is full, or the folder can't be written.
        """
        view = self.view()
        if stem is None:
            name = re.sub(r"[^\w.=,+-]+", "_", self._name())
            if len(name) > LONGEST:
                name = f"{name[:LONGEST]}_{crc32(name.encode()):08x}"
            stem = f"{self._stem.value.strip() or self.title}{'_' if name else ''}{name}"
        paths = save_figure(self._figure(), stem, title=self.title, view=self._name())
        table = Path(f"{stem}.csv")
        with atomic_path(table) as tmp:
            self._table(view).to_csv(tmp)
        return [*paths, table, Path(f"{stem}.json")]

    def _table(self, view):
        """The view as a pandas.DataFrame."""
        return view.to_dataframe()

    def _saved(self):
        try:
            paths = self.save()
            self.saved.value = f"written: {html.escape(', '.join(str(p) for p in paths))}"
            self._refresh_static()
        except QfError as error:
            self.saved.value = f'<span role="alert">{html.escape(str(error))}</span>'

    # ---------------------------------------------------------------- where no widget can be shown

    def _static(self):
        """The view as HTML without any script, for exports, and for front ends that have no widgets."""
        try:
            out = io.BytesIO()
            with style():
                self._figure().savefig(out, format="png", dpi=110)
            about = html.escape(f"{self.title}, {self._name()}: {self.message}")
            picture = f'<img alt="{about}" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"/>'
        except QfError as error:
            picture = f"<p>{html.escape(str(error))}</p>"
        return (
            f'<div data-qf-static="{self._uid}">{picture}<p style="font-size: 12px">{html.escape(self.title)}, as it was when the cell was run or the view '
            "saved. If no controls stand below, the page is an export, or this front end has no widgets: see <code>qf_toolkit.widgets.diagnose()</code>.</p></div>"
        )

    def _refresh_static(self):
        if self._display is not None:
            self._display.update({"text/html": self._static(), "text/plain": self.title}, raw=True)

    def _ipython_display_(self):
        self._display = display({"text/html": self._static(), "text/plain": f"{self.title}: {self.message}"}, raw=True, display_id=True)
        display(self._repr_mimebundle_(), raw=True)


def step(options, value, by):
    """Return the option `by` places after `value` in a sequence of options. It stops at the ends."""
    options = list(options)
    at = options.index(value) if value in options else 0
    return options[min(max(at + by, 0), len(options) - 1)]


def fill(control, options):
    """Give a control new options, a list of values or of (text, value). Its value stays if it is among them, else the first one is chosen."""
    values = [o[1] if isinstance(o, tuple) else o for o in options]
    value = control.value if control.value in values else (values[0] if values else None)
    control.options = options
    control.value = value
