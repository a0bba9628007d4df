"""A benchmark's table as text, LaTeX and HTML."""

from textwrap import wrap

import numpy as np
import pandas as pd

from ..evaluation.compare import WIDTH, folded, show_differences
from .options import TABLES
from .ranking import differences
from .tables import COST, Results, paper_table

TITLES = {
    "table1": "Table 1: classification of responses", "table2": "Table 2: forecasts of responses", "table3": "Table 3: ablation",
    "table4": "Table 4: generalisation", "tableA1": "Table A-1: stimuli, data and durations", "tableA2": "Table A-2: codes K and width d, forecasts",
    "tableA3": "Table A-3: codes K and width d, classification", "tableA4": "Table A-4: forecasts, not normalised",
}  # fmt: skip
assert set(TITLES) == set(TABLES)
MISSING = "-"


def as_text(results: Results, table: pd.DataFrame) -> str:
    """A table of `make_table` as text of at most 100 columns, with the paper's numbers, the reasons of empty cells, and the differences.

    Parameters
    ----------
    results : Results
    table : pandas.DataFrame

    Returns
    -------
    str
    """
    a = table.attrs
    head = [
        TITLES[a["table"]],
        f"{'SIMULATED DATA, ' if a['simulated'] else ''}{_count(len(a['subjects']), 'subject')}, {_count(len(a['stimuli']), 'selection')} of stimuli, "
        f"{_count(len(a['seeds']), 'seed')}, {a['n_runs']} runs; mean ± sd over runs",
    ]
    lines = [*head, "", *folded(cells(table)), ""]
    lines += [". marks naive rows: nothing in them is random, so they run once for each subject and stimulus"] * bool(a["naive"])
    lines += [line for row, why in a["reasons"].items() for line in wrap(f"{row}: {why}", WIDTH, subsequent_indent="  ")]
    lines += [line for note in a["notes"] for line in wrap(f"note: {note}", WIDTH, subsequent_indent="  ")]
    printed = printed_cells(a["table"])
    if len(printed):
        lines += [
            "",
            "the paper prints",
            *folded(printed),
            "",
            *(line for why in a["compared"] for line in wrap(f"not comparable: {why}", WIDTH, subsequent_indent="  ")),
        ]
    found = differences(results)
    if found is not None:
        lines += ["", show_differences(found)]
    return "\n".join(lines)


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """The cells of a table as text: mean ± sd, and costs; a dot marks naive rows.

    Parameters
    ----------
    table : pandas.DataFrame
        As `make_table` returns it.

    Returns
    -------
    pandas.DataFrame
        Of str.
    """
    ends = ("_sd", "_paper", "_paper_sd")
    scores = [c for c in table if not c.endswith(ends) and c not in (*COST, "runs", "failed")]
    shown = {c: [_mean_sd(table.loc[row, c], table.loc[row].get(f"{c}_sd")) for row in table.index] for c in scores}
    shown |= {c: [_number(v) for v in table[c]] for c in COST if c in table and len(table[c].dropna())}
    shown["runs"] = [f"{n:.0f}" if not failed else f"{n - failed:.0f} of {n:.0f}" for n, failed in table[["runs", "failed"]].to_numpy(float)]
    return pd.DataFrame(shown, [f". {r}" if r in table.attrs["naive"] else str(r) for r in table.index])


def printed_cells(name: str) -> pd.DataFrame:
    """The numbers that the paper prints, as text."""
    printed = paper_table(name)
    printed["text"] = [_mean_sd(m, s) for m, s in zip(printed["mean"], printed["sd"], strict=True)]
    rows, columns = (list(dict.fromkeys(printed[c])) for c in ("row", "column"))
    found = dict(zip(zip(printed["row"], printed["column"], strict=True), printed["text"], strict=True))
    return pd.DataFrame({c: [found.get((r, c), MISSING) for r in rows] for c in columns}, rows)


def as_latex(table: pd.DataFrame) -> str:
    """A table of `make_table` as a LaTeX tabular, for booktabs."""
    return cells(table).replace("±", r"$\\pm$", regex=True).style.to_latex(hrules=True, convert_css=False).replace("_", r"\_").rstrip()


def as_html(results: Results, table: pd.DataFrame) -> str:
    """A table of `make_table` as a page of HTML, with what `as_text` says beside it."""
    from html import escape

    a = table.attrs
    notes = [
        *(f"{row}: {why}" for row, why in a["reasons"].items()),
        *a["notes"],
        *(f"The paper's numbers can't be compared: {why}." for why in a["compared"]),
    ]
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    printed = printed_cells(a["table"])
    beside = f"<h2>The paper prints</h2>{printed.style.format(escape='html').to_html()}" if len(printed) else ""
    data = "<p><strong>Simulated data.</strong></p>" if a["simulated"] else ""
    return (
        f"<!doctype html><meta charset=utf-8><title>{escape(TITLES[a['table']])}</title><style>body{{font:15px sans-serif;margin:2em}}"
        "table{border-collapse:collapse}td,th{padding:.2em .7em;text-align:right;border-top:1px solid #ccc}th{text-align:left}</style>"
        f"<h1>{escape(TITLES[a['table']])}</h1>{data}<p>Mean ± sd over runs.</p>{cells(table).style.format(escape='html').format_index(escape='html').to_html()}<ul>{items}</ul>{beside}"
    )


def _mean_sd(mean, sd):
    sd = np.nan if sd is None else float(sd)
    return _number(mean) + (f" ± {f'{sd:.3f}' if sd < 100 else _number(sd)}" if np.isfinite(sd) else "")


def _number(value):
    value = float(value)
    if not np.isfinite(value):
        return MISSING if np.isnan(value) else str(value)
    if abs(value) < 1e7 and (value == int(value) or abs(value) >= 100):
        return f"{value:,.0f}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 100 else f"{value:.3g}"


def _count(n, word):
    return f"{n} {word}{'s' * (n != 1)}"
