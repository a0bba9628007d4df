"""A table of the paper from one call: planned, run, and read."""

from pathlib import Path
from typing import Any

from ..errors import QfError
from ..models.options import defaults, refuse_unknown
from ..recordings.options import SETTINGS
from ..recordings.settings import whole_settings
from ..recordings.store import Store
from .grid import run_grid
from .options import CALM_TABLES, CALM_WINDOW, NETWORK_WINDOW, OWN_WINDOW, SIZES, BenchmarkOptions, GridOptions
from .plan import Plan, make_plan
from .results import mark
from .tables import Results, read_results


def benchmark_table(table: str, store: Store | str | Path | None = None, *, out: str | Path, progress: bool = True, **options: Any) -> Results:
    """Make a table of the paper: every model on every subject and stimulus, beside the naive rows.

    Parameters
    ----------
    table : str
        One of `options.TABLES`: table1, table2, table3, table4, tableA1, tableA2, tableA3, tableA4 of QuantFormer's paper; calm-simulation,
        calm-single-session and calm-multi-session, forecasts of whole populations; calm-behaviour, what is decoded from them.
    store : Store or path, optional
        The recordings. If None, mice are simulated that see the paper's four stimuli, or networks for the tables of populations.
    out : str or Path
        Folder of results, models and tables. The same call again makes only what is not there.
    progress : bool
        Show a bar with an estimate of the time that is left.
    **options
        Options of `BenchmarkOptions` (size, seeds, models, tune, steps, n_samples), of `GridOptions` (workers, on, device, retry...) and of trials,
        window and split (stimulus, subject, baseline_s, response_s, f0_s, signal, split...). f0_s is 1 and score_s "paper" unless they are given; in tables
        of populations signal is "zscore" and split "chronological".

    Returns
    -------
    Results
        `tables.make_table` makes the table of it, `ranking.statistics` the comparisons.

    Raises
    ------
    QfError
        If an option is unknown or out of range, the store lacks what is asked for, or the workers can't be started.

    Examples
    --------
    >>> from qf_toolkit.benchmark.make import benchmark_table
    >>> from qf_toolkit.benchmark.tables import make_table
    >>> short = {"steps": 3, "n_samples": 0, "baseline_s": 1.0, "response_s": 1.0, "score_s": 1.0}
    >>> results = benchmark_table("table2", store, out="runs/benchmark", models=["nlinear"], progress=False, **short)
    >>> make_table(results).index[0]
    'NLinear'
    """
    out = Path(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        mark(out)
    plan, grid = prepare(table, store, out, options)
    run_grid(plan, out, grid, progress=progress)
    return read_results(plan, out)


def prepare(table: str, store: Store | str | Path | None, out: Path, options: dict) -> tuple[Plan, GridOptions]:
    """The plan of a table and the options of its grid.

    Parameters
    ----------
    table, store, out
        As for `benchmark_table`.
    options : dict
        As the **options of `benchmark_table`.

    Returns
    -------
    Plan, GridOptions

    Raises
    ------
    QfError
        As `benchmark_table`.
    """
    kinds = (BenchmarkOptions, GridOptions, *SETTINGS)
    refuse_unknown("benchmark_table", options, sorted({name for kind in kinds for name in defaults(kind)}))
    of = {kind: {n: v for n, v in options.items() if n in defaults(kind)} for kind in kinds}
    how, grid = BenchmarkOptions(**of[BenchmarkOptions]), GridOptions(**of[GridOptions])
    usual = OWN_WINDOW if table not in CALM_TABLES else NETWORK_WINDOW if store is None else CALM_WINDOW
    usual_of = {kind: {n: v for n, v in usual.items() if n in defaults(kind)} for kind in SETTINGS}
    settings = whole_settings({n: getattr(kind(**{**usual_of[kind], **of[kind]}), n) for kind in SETTINGS for n in of[kind]}, usual)
    if settings["split"] in ("subject", "stimulus"):
        raise QfError("split: expected blocks or chronological, found that a subject or stimulus is left out. For that there is table4.")
    if store is None:
        store = simulated(out / "store", how.size) if table not in CALM_TABLES else simulated_networks(out / "networks", how.size)
    elif not isinstance(store, Store):
        store = Store(store)
    return make_plan(table, store, settings, how), grid


def simulated(folder: str | Path, size: str = "small") -> Store:
    """A store of simulated mice that see the paper's four stimuli, sessions A, B and C. Those that are there are kept.

    Parameters
    ----------
    folder : str or Path
    size : {"small", "paper"}

    Returns
    -------
    Store
    """
    from ..recordings.simulated.cortex import simulate

    for i in range(SIZES[size]["subjects"]):
        simulate(folder, sessions=("A", "B", "C"), subject=f"sim{i + 1}", seed=i, **SIZES[size]["simulate"])
    return Store(folder)


def simulated_networks(folder: str | Path, size: str = "small") -> Store:
    """A store of simulated animals whose neurons form chaotic networks. Those that are there are kept.

    Parameters
    ----------
    folder : str or Path
    size : {"small", "paper"}

    Returns
    -------
    Store
    """
    from ..recordings.simulated.network import simulate_network

    return simulate_network(folder, **SIZES[size]["network"])
