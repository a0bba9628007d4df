"""Evaluation tables as figures: bars of one metric, and the table itself, for papers and slides."""

import numpy as np
import pandas as pd
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.textpath import text_to_path

from ..errors import QfError, UnknownKeyError, did_you_mean
from ..estimators.naive import Zero
from ..estimators.rows import naive_classifiers, naive_forecasters
from ..evaluation.directions import DIFFERENCES, HIGHER, HIT_SCORES, LOWER, NEAREST
from .heat import heat_map
from .style import TRUTH, axes_or_current, credit, style

COUNTED = {"n_trials": "test trial", "n_neurons": "neuron", "n_sessions": "session", "n_animals": "animal", "n_observations": "observation"}
DIGITS = 3  # significant digits of a column's typical value
SIZE, LINE, GAP, PAD = 8, 14.0, 16.0, 8.0  # points: size of the text, height of a row, gap between columns, margin around the table
NOTE = 6.5
NARROWEST = 220.0
GREY = "0.5"
NAIVE = frozenset(f.name for f in (Zero(), *naive_classifiers(), *naive_forecasters()))


def figure_table(table, metric, ceiling="ceiling"):
    """Bars of one metric for every row of an evaluation table. Naive rows are grey, the ceiling is hollow, a line shows an interval.

    Parameters
    ----------
    table : pandas.DataFrame
        As `evaluate` returns it: one row per forecaster.
    metric : str
        Column. If the table also has `<metric>_from` and `<metric>_to`, a line connects them.
    ceiling : str
        Rows whose name contains this text are drawn hollow.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownKeyError
        If there is no such column.
    QfError
        If it holds no number.
    """
    import matplotlib.pyplot as plt

    _check_columns(table, [metric], "metric")
    values = table[metric].astype(float).dropna()
    if not len(values):
        raise QfError(f"metric: expected numbers in {metric}, found none. Choose another column, or pass n_samples to evaluate.")
    with style():
        fig, ax = plt.subplots(figsize=(4.4, 0.26 * len(values) + 0.8))
        names = [" than ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in values.index]
        kinds = ["ceiling" if ceiling in name else kind_of_row(name, table.attrs.get("naive", ())) for name in names]
        looks = {"model": ("C0", "C0"), "naive": ("0.65", "0.65"), "ceiling": ("white", "0.4")}
        faces, edges = zip(*(looks[kind] for kind in kinds), strict=True)
        ax.barh(np.arange(len(values)), values.to_numpy(), color=faces, edgecolor=edges, lw=0.8)
        if {f"{metric}_from", f"{metric}_to"} <= set(table.columns):
            ends = table.loc[values.index, [f"{metric}_from", f"{metric}_to"]].to_numpy(float)
            ax.hlines(np.arange(len(values)), *ends.T, color=TRUTH, lw=1.0)
        ax.set_yticks(np.arange(len(values)), names)
        ax.invert_yaxis()
        ax.set_xlabel(metric)
        ax.locator_params(axis="x", nbins=5)
        credit(fig, table)
    return fig


def plot_classification(table, *, ax=None):
    """Plot the scores of classifiers as a heat map with numbers, one row per classifier, naive rows beside models.

    Parameters
    ----------
    table : pandas.DataFrame
        As `evaluate_classifier` returns it. The map holds those of its scores that go from 0 to 1 and are better if higher: balanced accuracy, AUROC,
        average precision, precision, recall, F1.
    ax : matplotlib.axes.Axes, optional
        The current axes if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    QfError
        If the table has none of these scores.
    """
    names = [name for name in HIT_SCORES if name in table.columns and table[name].notna().any()]
    if not names:
        raise QfError(f"table: expected one of {', '.join(HIT_SCORES)}, found none. Pass what evaluate_classifier returned.")
    ax = axes_or_current(ax)
    shown = table[names].astype(float).rename(columns=lambda name: name.replace("_", "\n"), index=lambda name: str(name).removeprefix(". "))
    heat_map(ax, shown, top=1.0, label="score", numbers=".2f")
    ax.set_ylabel("")
    credit(ax, table)
    return ax


def figure_printed_table(table, *, columns=None, best=True, caption=None):
    """An evaluation table as a picture, with rounded numbers that are aligned on their decimal points, and the best of each column bold.

    Naive rows are grey, the ceiling of a simulation is in italics. The ceiling is never the best. Numbers that are equal as printed are bold
    together. An arrow beside a column's name shows whether lower or higher is better. Columns without an arrow (a threshold, the active fraction,
    columns of your own) have no best. In a table of `compare`, a difference whose interval lies above 0 is bold.

    Parameters
    ----------
    table : pandas.DataFrame
        As `evaluate`, `evaluate_classifier` or `compare` returns it.
    columns : list of str, optional
        Columns to print, in this order. If None, all that hold a number.
    best : bool
        Print the best in bold.
    caption : str, optional
        Text below the table; "" for none. If None, a description of the test data.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnknownKeyError
        If a column is not in the table.
    QfError
        If there is no row, no column that holds a number, or a column of text.
    """
    import matplotlib.pyplot as plt

    shown = _numbers(table, columns)
    printed = [_printed(shown.iloc[:, j].to_numpy()) for j in range(shown.shape[1])]
    names = shown.index.to_frame(index=False).astype(str).to_numpy()  # (row, level): tables of `compare` have two levels
    kinds = [kind_of_row(name, table.attrs.get("naive", ())) for name in names[:, 0]]
    bold = _best(table, shown, printed, kinds) if best else np.zeros(shown.shape, bool)
    with style():
        texts, width = _laid_out(shown, names, printed, bold)
        notes = _wrapped(_notes(table, kinds, bold) if caption is None else caption, width - 2 * PAD)
        top = 2.2 * LINE if table.attrs.get("simulated") else 1.2 * LINE  # room above the head, with a line for "simulated data"
        height = top + LINE * (len(names) + 0.4 + 0.75 * len(notes)) + PAD
        # with layout="none" matplotlib would take the style's layout after the first saving
        fig = plt.figure(figsize=(width / 72, height / 72), layout=PlaceHolderLayoutEngine(True, True))
        ax = fig.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, width), ylim=(height, 0))
        ax.set_axis_off()
        for at, row, text, side, strong in texts:
            kind = kinds[row] if row >= 0 else "head"
            ax.text(
                at, top + (row + 0.55) * LINE, text, ha=side, va="center_baseline", size=SIZE, parse_math=False,
                color=GREY if kind == "naive" else "black", style="italic" if kind == "ceiling" else "normal", weight="bold" if strong else "normal",
            )  # fmt: skip
        groups = kinds if names.shape[1] == 1 else names[:, 0]
        rules = [(-1, 0.9), (0, 0.5), (len(names), 0.9)] + [(i, 0.3) for i in range(1, len(names)) if groups[i] != groups[i - 1]]
        for row, lw in rules:
            ax.plot([PAD, width - PAD], [top + row * LINE] * 2, color="black", lw=lw)
        for i, line in enumerate(notes):
            ax.text(PAD, top + (len(names) + 0.8 + 0.75 * i) * LINE, line, va="center_baseline", size=NOTE, color="0.3", parse_math=False)
        credit(fig, table)
    return fig


def _laid_out(shown, names, printed, bold):
    """Place the texts by their widths, so that none overlap: [(x in points, row, text, alignment, bold)], row -1 for the head, and the width."""
    texts, x = [], PAD
    for level in range(names.shape[1]):
        column = [str(shown.index.names[level] or ""), *_once(names[:, level], merged=level == 0 and names.shape[1] > 1)]
        texts += [(x, i - 1, text, "left", False) for i, text in enumerate(column)]
        x += max(map(_width, column)) + GAP
    for j, name in enumerate(shown.columns):
        head, cells = _header(str(name), shown), [(*_split(text), strong) for text, strong in zip(printed[j], bold[:, j], strict=True)]
        before, after = (max(_width(part[i], part[2]) for part in cells) for i in (0, 1))
        wide = max(_width(head), before + after)
        point = x + (wide - before - after) / 2 + before
        texts.append((x + wide / 2, -1, head, "center", False))
        # bold digits are wider, so each text ends where its own decimals end
        texts += [(point + _width(b, strong), i, a + b, "right", strong) for i, (a, b, strong) in enumerate(cells)]
        x += wide + GAP
    return texts, max(x - GAP + PAD, NARROWEST)


def _check_columns(table, columns, name):
    for column in columns:
        if column not in table.columns:
            raise UnknownKeyError(f"{name}: {column!r} is no column of the table; {did_you_mean(column, table.columns)}")


def _numbers(table, columns):
    """The columns to print, as floats."""
    if columns is not None:
        columns = [columns] if isinstance(columns, str) else list(columns)
        _check_columns(table, columns, "columns")
    chosen = table if columns is None else table[columns]
    numbers = chosen.apply(pd.to_numeric, errors="coerce").astype(float)
    text = [c for c in chosen if (numbers[c].isna() & chosen[c].notna()).any()]
    if columns is None:
        numbers = numbers.drop(columns=text).dropna(axis=1, how="all")
    elif text:
        raise QfError(f"columns: expected numbers, found text in {text[0]!r}. Leave it out, or make it a part of the row's name.")
    if not numbers.size:
        raise QfError(
            f"table: expected rows and columns of numbers, found {len(numbers)} rows and {numbers.shape[1]} columns. Pass what evaluate returned."
        )
    return numbers


def _printed(values):
    """Numbers of one column as text. All have as many decimals as give the typical one DIGITS significant digits."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    decimals = 0
    if len(sizes) and not (sizes.max() > 1 and (sizes == sizes.round()).all()):  # counts have no decimals
        decimals = int(np.clip(DIGITS - 1 - np.floor(np.log10(np.median(sizes))), 0, 9))
    special = {"nan": "–", "inf": "∞", "-inf": "−∞"}
    rounded = np.round(values, decimals) + 0.0  # no minus before a 0
    return [special.get(str(v)) or f"{v:.{decimals}f}".replace("-", "−") for v in rounded]


def _split(text):
    """Split a number's text into the part before the decimal point and the rest."""
    before, point, after = text.partition(".")
    return before, point + after


def _once(names, merged):
    """Names of the rows. If `merged`, a name that equals the one in the row above is left empty."""
    return ["" if merged and i and names[i - 1] == name else name.removeprefix(". ") for i, name in enumerate(names)]


def kind_of_row(name, naive=()):
    """Kind of a table's row, by its name.

    Parameters
    ----------
    name : str
    naive : sequence of str
        Names of more naive rows than the toolkit's own.

    Returns
    -------
    {"model", "naive", "ceiling"}
    """
    name = name.removeprefix(". ")
    if "ceiling" in name:
        return "ceiling"
    return "naive" if name in NAIVE or name in naive else "model"


def _best(table, shown, printed, kinds):
    """Cells that are bold, bool (row, column). Numbers are compared as printed, so that equal texts are treated alike."""
    bold = np.zeros(shown.shape, bool)
    competes = np.array(kinds) != "ceiling"
    for j, name in enumerate(shown.columns):
        if name in DIFFERENCES and f"{name}_from" in table.columns:
            bold[:, j] = table[f"{name}_from"].to_numpy(float) > 0
            continue
        values = np.array([float(t.replace("−", "-").replace("∞", "inf").replace("–", "nan")) for t in printed[j]])
        if name not in (*LOWER, *HIGHER, *NEAREST):
            continue
        cost = values if name in LOWER else -values if name in HIGHER else np.abs(values - NEAREST[name])
        rows = competes & np.isfinite(cost)
        if rows.sum() > 1:
            bold[:, j] = rows & np.isclose(cost, cost[rows].min(), rtol=1e-9, atol=1e-12)
    return bold


def _header(name, table):
    """The name of a column, with an arrow for the better direction."""
    for end in ("from", "to"):
        if name.removesuffix(f"_{end}") != name and name.removesuffix(f"_{end}") in table.columns:
            return end
    arrow = " ↓" if name in LOWER else " ↑" if name in HIGHER else f" → {NEAREST[name]:g}" if name in NEAREST else ""
    return name + ("" if name in DIFFERENCES and f"{name}_from" in table.columns else arrow)


def _notes(table, kinds, bold):
    """Notes that describe the test data, and how to read the table."""
    a, notes = table.attrs, []
    counted = [f"{a[n]} {what}{'' if a[n] == 1 else 's'}" for n, what in COUNTED.items() if n in a]
    if "active_fraction" in a:
        counted.append(f"{a['active_fraction']:.1%} active")
    if counted:
        notes.append(", ".join(counted) + (f"; split {a['split']}." if "split" in a else "."))
    intervals = [c for c in table.columns if f"{c}_from" in table.columns]
    if any(c in DIFFERENCES for c in intervals):
        notes.append("By how much the forecaster is better, with the 95 % interval (from, to) of a paired bootstrap; bold where above 0.")
    elif bold.any():
        notes.append("Bold: the best of a column.")
    if intervals and not any(c in DIFFERENCES for c in intervals):
        notes.append("From, to: the 95 % interval.")
    if "naive" in kinds:
        notes.append("Grey: naive rows.")
    if "ceiling" in kinds:
        notes.append("Italics: the best possible forecast, which is not compared.")
    notes += [f"Not applicable: {name} ({why})." for name, why in a.get("not_applicable", {}).items()]
    return " ".join(notes)


def _wrapped(text, width):
    """Break a note into lines of at most `width` points."""
    lines = []
    for paragraph in text.splitlines():
        lines.append("")
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}".lstrip()
            if lines[-1] and _width(longer, size=NOTE) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines


def _width(text, bold=False, size=SIZE):
    """Width of a text in points. It is a little more than measured, since a screen rounds to its pixels."""
    return 1.02 * text_to_path.get_text_width_height_descent(text, FontProperties(size=size, weight="bold" if bold else "normal"), False)[0]
