"""Tables, made from the result files of a plan's runs: the paper's table, its numbers beside ours, a leaderboard, and paired differences."""

import re
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from .._files import atomic_path
from ..evaluation.table import write_table
from . import roster
from .options import BEHAVIOUR, CALM_TABLES
from .plan import PRETRAIN, Plan
from .results import read_result

ACTIVATION, FORECAST = ("balanced_accuracy", "f1", "precision", "recall"), ("paper_mse", "paper_smape", "paper_corr", "paper_ssim")
OURS = {"activation": ("auroc", "brier"), "forecast": ("mse_ratio", "r", "crps", "coverage_90")}
OF_DRAWS = ("crps", "coverage_90")
COST = ("parameters", "train_s", "forecast_ms", "peak_mb")
COLUMNS = {
    "table1": {"activation": (*ACTIVATION, *OURS["activation"])},
    "table2": {"forecast": (*FORECAST, *OURS["forecast"])},
    "table3": {"activation": ("balanced_accuracy", "f1"), "forecast": ("paper_mse", "paper_corr", "mse_ratio", "r")},
    "table4": {"activation": ("balanced_accuracy", "f1"), "forecast": ("paper_mse", "paper_corr", "mse_ratio", "r")},
    "tableA2": {"forecast": ("paper_mse", "paper_mae", "paper_smape", "paper_corr", "paper_ssim", "mse_ratio", "r")},
    "tableA3": {"activation": ("balanced_accuracy", "f1")},
    "tableA4": {"forecast": ("mse", "mae", "smape", "paper_corr", "paper_ssim")},
    **{name: {"forecast": ("r", "poco", "mse_ratio", "mae", "crps", "coverage_90")} for name in CALM_TABLES if name != BEHAVIOUR},
    BEHAVIOUR: {},
}
NUMBER = re.compile(r"\d+(\.\d+)?")
CONTAINERS = {  # the paper's 11 mice (appendix I)
    "511507650", "511510667", "511510675", "511510699", "511510718", "511510779", "511510855", "511510989", "526481129", "536323956", "543677425",
}  # fmt: skip


@dataclass
class Results:
    """The results of a plan's runs.

    Attributes
    ----------
    plan : Plan
    runs : pandas.DataFrame
        One row per table row and run: row, naive, task, subject, stimulus, seed, error ("" if it is done), the scores and the costs.
    by_run : dict of str to dict
        The content of the result files.
    """

    plan: Plan
    runs: pd.DataFrame
    by_run: dict

    @property
    def order(self) -> list[str]:
        """Rows in the order of the table: those that were trained, then the naive ones."""
        return list(dict.fromkeys(self.runs.sort_values("naive", kind="stable")["row"]))


def read_results(plan: Plan, out: str | Path) -> Results:
    """Read the result files of a plan's runs.

    Parameters
    ----------
    plan : Plan
    out : str or Path
        Folder of the benchmark.

    Returns
    -------
    Results
        A run without a result counts as one that failed.

    Raises
    ------
    DamagedFileError
        If a file can't be read.
    """
    found = {identity: read_result(Path(out), identity) for identity in plan.runs}
    done = [result for cell in plan.cells if not cell.row and (result := found[cell.run]) is not None]
    naive = list(dict.fromkeys(name for result in done for name in result.get("rows", {}))) or ["naive rows"]
    rows = []
    for cell in plan.cells:
        run, result = plan.runs[cell.run], found[cell.run]
        where = {"run": cell.run, "task": run.task, "subject": run.subject, "stimulus": run.stimulus, "seed": run.seed}
        if result is None or result["status"] != "done":
            error = "not run" if result is None else result["error"]
            rows += [{"row": row, "naive": not cell.row, **where, "error": error} for row in ([cell.row] if cell.row else naive)]
            continue
        for name, of in result["rows"].items():
            scores = {k: float(v) for k, v in of["scores"].items() if v is not None}
            costs = {n: v for n, v in result.get("cost", {}).items() if v is not None}
            rows.append({"row": cell.row or name, "naive": not cell.row, **where, "error": "", **scores, **costs})
        for name, why in result["facts"].get("not_applicable", {}).items():
            rows[:] = [r for r in rows if not (r["run"] == cell.run and r["row"] == name)]
            rows.append({"row": name, "naive": not cell.row, **where, "error": f"not applicable: {why}"})
    runs = pd.DataFrame(rows)
    runs.attrs = {"simulated": plan.simulated, "data": " ".join(sorted({run.data for run in plan.runs.values()}))}
    return Results(plan, runs, found)


def paper_table(name: str) -> pd.DataFrame:
    """The numbers that the paper prints.

    Parameters
    ----------
    name : str
        One of `options.TABLES`.

    Returns
    -------
    pandas.DataFrame
        One row per printed number: row, column, mean, sd. Percentages are shares, as in our tables.

    Examples
    --------
    >>> from qf_toolkit.benchmark.tables import paper_table
    >>> found = paper_table("table2").set_index(["row", "column"])
    >>> float(found.loc[("QuantFormer", "paper_corr"), "mean"])
    0.338
    """
    with files(__package__).joinpath("paper_tables.csv").open(encoding="utf-8") as f:
        table = pd.read_csv(f)
    table = table[table["table"] == name].reset_index(drop=True)
    share = np.where(table["unit"] == "%", 100.0, 1.0)
    return table.assign(mean=table["mean"] / share, sd=table["sd"] / share).drop(columns="table")


def make_table(results: Results) -> pd.DataFrame:
    """The table of the paper, with the naive rows.

    Parameters
    ----------
    results : Results

    Returns
    -------
    pandas.DataFrame
        One row per model, the naive rows last. For each score of the table the mean and standard deviation (`*_sd`) over runs, as in the paper: a run
        is a subject with a stimulus, and its score the mean over seeds, of which `*_seed_sd` is the standard deviation (root mean square over runs).
        For a table of both tasks the columns of activation come first. runs counts the runs, failed the fits (of any task and seed) without a score;
        the costs are means over fits: parameters, train_s (seconds, without pre-training), forecast_ms (a trial, all its neurons) and peak_mb. Scores of
        draws are left out where nothing was drawn. `*_paper` and `*_paper_sd` columns hold what the paper prints. attrs: table, naive, reasons ({row: why a cell has no number}), compared (why the paper's numbers can't be compared), budget (what each model was given, and the time
        that it took, in words), simulated.
    """
    table, runs = results.plan.table, results.runs
    if table == "tableA1":
        return _protocol_table(results)
    if table == BEHAVIOUR:
        return _behaviour_table(results)
    rows = {}
    for row in results.order:
        of = runs[runs["row"] == row]
        found = {}
        for task, columns in COLUMNS[table].items():
            done = of[(of["task"] == task) & (of["error"] == "")]
            for column in columns:
                if column in OF_DRAWS and not any(run.n_samples for run in results.plan.runs.values()):
                    continue
                scores = done.dropna(subset=column).groupby(["subject", "stimulus"])[column] if column in done else None
                found[column], found[f"{column}_sd"] = _mean_sd(np.empty(0) if scores is None else scores.mean().to_numpy(float))
                found[f"{column}_seed_sd"] = np.nan if scores is None else float(np.sqrt(scores.var(ddof=1).mean()))
        found |= {"runs": len(of.groupby(["subject", "stimulus"])), "failed": int((of["error"] != "").sum())}
        found |= {c: _mean_sd(of[c].dropna().to_numpy(float) if c in of else np.empty(0))[0] for c in COST}
        rows[row] = found
    out = pd.DataFrame(rows).T.infer_objects()
    out.index.name = "model"
    printed = paper_table(table)
    for number in printed.itertuples():
        if number.row in out.index and number.column in out:
            out.loc[number.row, f"{number.column}_paper"] = number.mean
            out.loc[number.row, f"{number.column}_paper_sd"] = number.sd
    naive = list(dict.fromkeys(runs.loc[runs["naive"], "row"]))
    out.attrs = {"table": table, "naive": naive, "reasons": _reasons(runs), "compared": not_compared(results), **_facts(results)}
    return out


def _mean_sd(values):
    with np.errstate(invalid="ignore"):  # of infinite scores there is no sd
        return (values.mean() if values.size else np.nan), (values.std(ddof=1) if values.size > 1 else np.nan)


def _protocol_table(results):
    """Table A-1, a row per stimulus: conditions, trials of a subject, scored seconds, subjects, signals (trials of all subjects), and the minutes of an
    epoch of the fit; beside them the parameters and the cost of the fit."""
    runs, rows = results.runs, {}
    for stimulus, of in runs.groupby("stimulus", sort=False):
        done = of[of["error"] == ""]
        facts = pd.DataFrame([results.by_run[r]["facts"] for r in done["run"]])
        found = {
            "conditions": np.nan,
            "trials": np.nan,
            "window_s": np.nan,
            "subjects": of["subject"].nunique(),
            "signals": np.nan,
            "epoch_min": np.nan,
        }
        if len(done):
            found |= {
                "conditions": facts["conditions"].max(), "trials": facts["trials"].mean(), "window_s": facts["score_s"].max(),
                "signals": facts["trials"].sum() / of["seed"].nunique(), "epoch_min": done["epoch_s"].mean() / 60,
            }  # fmt: skip
        found |= {"runs": len(of), "failed": int((of["error"] != "").sum()), **{c: done[c].mean() if len(done) else np.nan for c in COST}}
        rows[stimulus] = found
    out = pd.DataFrame(rows).T
    out.index.name = "stimulus"
    for number in paper_table("tableA1").itertuples():
        if number.row in out.index:
            out.loc[number.row, f"{number.column}_paper"] = number.mean
    reasons = {of["stimulus"].iloc[0]: "; ".join(of["error"].unique()) for _, of in runs[runs["error"] != ""].groupby("stimulus")}
    out.attrs = {"table": "tableA1", "naive": [], "reasons": reasons, "compared": not_compared(results), **_facts(results)}
    return out


def _behaviour_table(results):
    """A row per decoder: r2 and r of each behaviour, accuracy, balanced accuracy and auroc of each category, mean and standard deviation over seeds. The
    costs of a head are without those of its backbone."""
    runs, rows = results.runs, {}
    kept = [c for c in runs if c.endswith((" r2", " r", " accuracy", " balanced_accuracy", " auroc"))]
    for row in results.order:
        of = runs[runs["row"] == row]
        found = {}
        for column in kept:
            found[column], found[f"{column}_sd"] = _mean_sd(of[column].dropna().to_numpy(float))
        found |= {"runs": len(of), "failed": int((of["error"] != "").sum())}
        found |= {c: _mean_sd(of[c].dropna().to_numpy(float) if c in of else np.empty(0))[0] for c in ("parameters", "train_s", "peak_mb")}
        rows[row] = found
    out = pd.DataFrame(rows).T.infer_objects()
    out.index.name = "decoder"
    naive = list(dict.fromkeys(runs.loc[runs["naive"], "row"]))
    out.attrs = {"table": BEHAVIOUR, "naive": naive, "reasons": _reasons(runs), "compared": not_compared(results), **_facts(results)}
    return out


def _reasons(runs):
    """{row: why some of its cells have no number}, each reason once."""
    failed = runs[runs["error"] != ""]
    return {row: "; ".join(f"{why} ({n} of {int((runs['row'] == row).sum())} fits)" for why, n in of["error"].value_counts().items())
            for row, of in failed.groupby("row", sort=False)}  # fmt: skip


def _facts(results):
    plan = results.plan
    told = Counter(NUMBER.sub("...", text) for result in results.by_run.values() for text in (result or {}).get("warnings", ()))
    done = [r for r in results.by_run.values() if r is not None and r["status"] == "done"]
    return {
        "budget": _budget(results), "notes": [f"{text} ({n} runs)" for text, n in told.items()], "simulated": plan.simulated, "n_runs": len(plan.runs), "subjects": sorted({r.subject for r in plan.runs.values() if r.task != PRETRAIN}),
        "stimuli": sorted({r.stimulus for r in plan.runs.values() if r.task != PRETRAIN}), "seeds": sorted({r.seed for r in plan.runs.values()}),
        "data": sorted({r.data for r in plan.runs.values()}), "code": sorted({r.code for r in plan.runs.values()}),
        "n_animals": len({a for r in done for a in r.get("blocks", {}).get("units", {}).get("animal", [])}) or len({r["run"]["settings"]["subject"][0] for r in done if r["run"]["settings"].get("subject")}),
    }  # fmt: skip


def _budget(results):
    """What each model was given, and how long all took, in a sentence."""
    fits = [run for run in results.plan.runs.values() if run.task != PRETRAIN and run.model not in (roster.NAIVE, roster.BOUND)]
    given = sorted({_length(run.options) for run in fits})
    tried = max((run.tune for run in fits), default=1)
    spent = {i: r["cost"]["train_s"] for i, r in results.by_run.items() if r and r.get("cost", {}).get("train_s") is not None}
    runs = {i: results.plan.runs[i] for i in spent}
    seconds = [s for i, s in spent.items() if runs[i].task != PRETRAIN]
    took = f"; a fit took {min(seconds):.1f} to {max(seconds):.1f} s" if seconds else ""
    learnt = [i for i in spent if runs[i].task == PRETRAIN and results.by_run[i]["tuning"][0]["validation"] != "inf"]  # ablations may learn nothing
    first = pd.DataFrame([(f"{runs[i].model} {_length(runs[i].options)}", spent[i]) for i in learnt], columns=["what", "s"])
    before = ", ".join(f"{what} in {s:.1f} s" for what, s in first.groupby("what", sort=False)["s"].mean().items())
    before = f" Pre-training comes before, is shared by the fits of a seed, and is not in their seconds: {before}." if before else ""
    rates = sorted({run.options["lr"] for run in fits if run.model == roster.CALM and "lr" in run.options})
    own = f" CalM trains as its authors do (AdamW, warm-up, averaged weights), with lr {', '.join(f'{lr:g}' for lr in rates)}." if rates else ""
    return (
        f"Each fit: {' or '.join(given) or 'none'}, {tried} learning rate{'s' * (tried != 1)} tried{took}.{own}{before} All trainings: "
        f"{sum(spent.values()) / 60:.1f} min."
    )


def _length(options):
    steps = options.get("steps_most", options.get("steps"))
    return f"{steps} steps" if steps else f"{options.get('epochs')} epochs"


def not_compared(results: Results) -> list[str]:
    """Why the paper's numbers can't be compared with ours, a sentence each.

    Parameters
    ----------
    results : Results

    Returns
    -------
    list of str
    """
    plan, why = results.plan, []
    subjects = {s for run in plan.runs.values() for s in (run.settings.get("subject") or ())}
    if plan.table in CALM_TABLES:
        ours = "networks simulated here" if plan.simulated else "other recordings"
        return [f"not the same recordings: CalM's are not public in this form, ours are {ours}; context, horizon and sizes of the models differ, too"]
    if plan.simulated:
        why.append("the recordings are simulated")
    elif subjects != CONTAINERS:
        why.append(f"the recordings are not the paper's 11 containers ({len(subjects & CONTAINERS)} of them are)")
    fits = [run for run in plan.runs.values() if run.task not in (PRETRAIN,) and run.model != roster.NAIVE]
    if any(run.options.get("steps") for run in fits):
        why.append("models and trainings are smaller than the paper's (--size paper has its sizes)")
    if any(run.settings.get("split", "blocks") != "blocks" for run in fits):
        why.append("the split is not by sub-sessions")
    why.append("the paper does not say how it averages over neurons and trials, nor how it labels activity in its Table 1 in full")
    return why


# ---------------------------------------------------------------- written


def write_tables(results: Results, out: str | Path) -> list[Path]:
    """Write a table as text, LaTeX, HTML and CSV, and as CSV the runs that it is made of and their statistics (see `ranking.statistics`).

    Parameters
    ----------
    results : Results
    out : str or Path
        Folder of the benchmark; the files are in its folder `tables`.

    Returns
    -------
    list of Path
        That of the text first.
    """
    from .ranking import statistics
    from .shown import as_html, as_latex, as_text

    table, folder = results.plan.table, Path(out) / "tables"
    made, found = make_table(results), statistics(results)
    paths = []
    for suffix, text in ((".txt", as_text(results, made, found)), (".tex", as_latex(made)), (".html", as_html(results, made, found))):
        path = folder / f"{table}{suffix}"
        with atomic_path(path) as tmp:
            tmp.write_text(text + "\n", encoding="utf-8")
        paths.append(path)
    runs = results.runs.set_index("row")
    runs.attrs = made.attrs
    for name, of in {"": made, "_runs": runs, **{f"_{name}": of for name, of in found.items()}}.items():
        paths += write_table(of, folder / f"{table}{name}.csv")
    return paths
