"""A benchmark's table as text, LaTeX and HTML."""

from textwrap import wrap

import numpy as np
import pandas as pd

from ..evaluation.compare import WIDTH, folded, show_differences
from .options import TABLES
from .ranking import ahead, statistics
from .tables import COST, Results, paper_table

TITLES = {
    "table1": "Table 1: classification of responses", "table2": "Table 2: forecasts of responses", "table3": "Table 3: ablation",
    "table4": "Table 4: generalisation", "tableA1": "Table A-1: stimuli, data and durations", "tableA2": "Table A-2: codes K and width d, forecasts",
    "tableA3": "Table A-3: codes K and width d, classification", "tableA4": "Table A-4: forecasts, not normalised",
    "calm-simulation": "Forecasts of populations: simulated networks", "calm-multi-session": "Forecasts of populations: all sessions together",
    "calm-single-session": "Forecasts of populations: each session by itself",
    "calm-behaviour": "Behaviour decoded from populations, frame by frame and causally, and categories of the trials",
}  # fmt: skip
assert set(TITLES) == set(TABLES)
MISSING = "-"
ENOUGH = 5  # runs, with fewer no test of Wilcoxon's reaches p < 0.05
MEANS = "mean ± sd over runs, each a subject with a stimulus, and of several seeds their mean"
DIFFERENCES = "Paired differences of the forecasts; each recording with each stimulus counts as a session"


def as_text(results: Results, table: pd.DataFrame, found: dict[str, pd.DataFrame] | None = None) -> str:
    """A table of `make_table` as text of at most 100 columns, with the paper's numbers, the reasons of empty cells, and the statistics.

    Parameters
    ----------
    results : Results
    table : pandas.DataFrame
    found : dict of str to pandas.DataFrame, optional
        What `ranking.statistics` returned, where that is at hand.

    Returns
    -------
    str
    """
    a, found = table.attrs, statistics(results) if found is None else found
    head = [
        TITLES[a["table"]],
        f"{'SIMULATED DATA, ' if a['simulated'] else ''}{_count(len(a['subjects']), 'subject')}, {_count(len(a['stimuli']), 'selection')} of stimuli, "
        f"{_count(len(a['seeds']), 'seed')}",
        MEANS.capitalize(),
        *wrap(a["budget"], WIDTH),
    ]
    lines = [*head, "", *folded(cells(table)), ""]
    lines += [line for text in _legend(table) for line in wrap(text, WIDTH, subsequent_indent="  ")]
    lines += [line for row, why in a["reasons"].items() for line in wrap(f"{row}: {why}", WIDTH, subsequent_indent="  ")]
    lines += [line for note in a["notes"] for line in wrap(f"note: {note}", WIDTH, subsequent_indent="  ")]
    printed = printed_cells(a["table"])
    if len(printed):
        why = (line for why in a["compared"] for line in wrap(f"not comparable: {why}", WIDTH, subsequent_indent="  "))
        lines += ["", "The paper prints", *folded(printed), "", *why]
    for title, cells_of in sections(found, a["naive"]):
        lines += ["", *wrap(title, WIDTH), *folded(cells_of)]
    if "differences" in found:
        lines += ["", DIFFERENCES, show_differences(found["differences"])]
    return "\n".join(lines)


def sections(found: dict[str, pd.DataFrame], naive: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """The statistics but the paired differences, each with a title in words, as tables of text.

    Parameters
    ----------
    found : dict of str to pandas.DataFrame
        What `ranking.statistics` returned.
    naive : list of str
        Names of the naive rows; a dot marks them.

    Returns
    -------
    list of (str, pandas.DataFrame)
    """
    out = []
    for task, of in found["leaderboard"].groupby("task", sort=False) if "leaderboard" in found else ():
        shown = {c: [_interval(*v) for v in of[[c, f"{c}_from", f"{c}_to"]].to_numpy(float)] for c in ("skill", "win_rate")}
        shown["runs"] = [f"{n:.0f}" + (f", {failed:.0f} failed" if failed else "") for n, failed in of[["n_runs", "n_failed"]].to_numpy(float)]
        n_runs = of["runs"].iloc[0]
        more = "; where a row failed it counts as level" * bool(of["n_failed"].any())
        more += f"; left out, as the naive rows failed: {of['left_out'].iloc[0]}" * bool(of["left_out"].iloc[0])
        title = (
            f"Leaderboard, {task}: skill is 1 - geometric mean over runs of {LED[task]} to that of {of['than'].iloc[0]}, the best naive row (chosen on the "
            f"test part, which favours it); {f'[95 % interval over {n_runs} runs]' if n_runs > 1 else 'one run, so without an interval'}{more}"
        )
        out.append((title, pd.DataFrame(shown, _dotted(of.index, naive))))
    if "horizon" in found:
        of = ahead(found["horizon"], found["groups"])
        shown = {"informative": [_horizon(*v) for v in zip(of["informative_s"], of["to_end"], strict=True)]}
        shown |= {SHOWN.get(c, c): [_number(v) for v in of[c]] for c in of if c not in ("informative_s", "to_end")}
        title = (
            f"Skill against {of.attrs['reference']} (the best naive row on the test part by mse_ratio), 1 - ratio of mse: informative to the step before its 95 % "
            "interval first meets 0; first step, and last one that all windows have; thirds of the neurons by the signal-to-noise ratio of their training traces; active and inactive windows"
        )
        out.append((title, pd.DataFrame(shown, _dotted(of.index, naive))))
    if "step_r" in found:
        of = found["step_r"]
        title = "Correlation over trials at the first, the middle and the last step, each neuron by itself, mean over neurons, sessions and seeds"
        out.append((title, pd.DataFrame({f"{seconds:g} s": [_number(v) for v in of[seconds]] for seconds in of}, _dotted(of.index, naive))))
    if "wilcoxon" in found:
        of = found["wilcoxon"]
        few = f"; with {of['n_runs'].max()} runs p is at least {2.0 ** -of['n_runs'].max():.2g}" * bool(of["n_runs"].max() < ENOUGH)
        shown = {score: [_tested(table, row) for row in of.index.unique()] for score, table in of.groupby("score", sort=False)}
        title = (
            f"Wilcoxon: is {of.attrs['reference']} better? Mean difference over runs and p of the one-sided Wilcoxon test, corrected for the rows of a column (Holm); "
            f"* p < 0.05; an infinite score is ranked as the worst, and -: there is no difference to test{few}"
        )
        out.append((title, pd.DataFrame(shown, _dotted(of.index.unique(), naive))))
    return out


LED = {"forecast": "the ratio of mse_ratio", "activation": "the ratio of 1 - balanced accuracy"}
SHOWN = {"low": "SNR low", "middle": "SNR middle", "high": "SNR high"}


def _legend(table):
    """What the signs in the table mean, and how much seeds differ."""
    out = []
    if table.attrs["naive"]:
        out = [
            ". marks naive rows: nothing in them is random, so they run once for each subject and stimulus",
            "-: a row has no score of a task that it is not made for; costs are those of trained rows",
        ]
    if np.isinf(table.select_dtypes("number").to_numpy(float)).any():
        out.append("inf: the paper's normalisation divides by the forecast's own changes, and a forecast that does not change has none")
    for column in (c for c in table if c in ("mse_ratio", "balanced_accuracy")):
        of = table.get(f"{column}_seed_sd", pd.Series(dtype=float)).dropna()
        if len(of):
            out.append(f"sd of {column} over the seeds of a run: {'; '.join(f'{row} {v:.3f}' for row, v in of.items())}")
    return out


def _dotted(names, naive):
    return [f". {name}" if name in naive else str(name) for name in names]


def _interval(value, low, high):
    between = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""
    return f"{value:.3f}{between}" if np.isfinite(value) else MISSING


def _horizon(seconds, to_end):
    return MISSING if np.isnan(seconds) else f"{seconds:.2f} s{' (end)' if to_end else ''}"


def _tested(table, row):
    if row not in table.index:
        return MISSING
    better, p = float(table.loc[row, "better_by"]), float(table.loc[row, "p_holm"])
    return MISSING if np.isnan(p) else f"{better:+.3g}, p {p:.2g}{'*' if p < 0.05 else ' '}"


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
    shown["runs"] = [f"{n:.0f}" + (f", {failed:.0f} fits failed" if failed else "") for n, failed in table[["runs", "failed"]].to_numpy(float)]
    return pd.DataFrame(shown, _dotted(table.index, table.attrs["naive"]))


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


def as_html(results: Results, table: pd.DataFrame, found: dict[str, pd.DataFrame] | None = None) -> str:
    """A table of `make_table` as a page of HTML, with what `as_text` says beside it."""
    from html import escape

    a, found = table.attrs, statistics(results) if found is None else found
    compared = (f"The paper's numbers can't be compared: {why}." for why in a["compared"])
    notes = [*_legend(table), *(f"{row}: {why}" for row, why in a["reasons"].items()), *a["notes"], *compared]
    parts = [f"<h1>{escape(TITLES[a['table']])}</h1>", *["<p><strong>Simulated data.</strong></p>"] * bool(a["simulated"])]
    parts += [
        f"<p>{MEANS.capitalize()}. {escape(a['budget'])}</p>",
        _html(cells(table)),
        f"<ul>{''.join(f'<li>{escape(n)}</li>' for n in notes)}</ul>",
    ]
    printed = printed_cells(a["table"])
    parts += [f"<h2>The paper prints</h2>{_html(printed)}"] if len(printed) else []
    parts += [f"<h2>{escape(title.partition(':')[0])}</h2><p>{escape(title)}</p>{_html(of)}" for title, of in sections(found, a["naive"])]
    parts += [f"<h2>{escape(DIFFERENCES)}</h2><pre>{escape(show_differences(found['differences']))}</pre>"] if "differences" in found else []
    style = (
        "body{font:15px sans-serif;margin:2em}table{border-collapse:collapse}td,th{padding:.2em .7em;text-align:right;border-top:1px solid #ccc}"
        "th{text-align:left}"
    )
    return f"<!doctype html><meta charset=utf-8><title>{escape(TITLES[a['table']])}</title><style>{style}</style>{''.join(parts)}"


def _html(text):
    return text.style.format(escape="html").format_index(escape="html").to_html()


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
