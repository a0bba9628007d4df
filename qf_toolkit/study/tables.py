"""The tables of some models, printed and written, with their figures."""

from dataclasses import asdict
from pathlib import Path

from ..errors import QfError
from ..evaluation.options import EvaluateOptions
from .options import TablesOptions

FIGURES = ("forecasts", "mse", "explained")


def write_tables(models, split, *, out=None, figures=TablesOptions.figures, bootstrap=TablesOptions.bootstrap, progress=False, **options):
    """Evaluate models on the test part, print their tables, and write tables and figures. Each row forecasts each session once.

    Parameters
    ----------
    models : list of Forecaster and Classifier
        Each task gets a table of its own, with the naive rows. Without any model, there is only the table of the forecasts, with only the naive rows.
    split : Split
    out : str or Path, optional
        CSV of the forecasters. The CSV of the classifiers is beside it, `*_activation.csv`; without forecasters it is `out`. Each table has a
        sidecar `.json` that names where it comes from. If None, no table is written.
    figures : str or Path, optional
        Folder for the figures. If None, no figure is written.
    bootstrap : bool
        Add the differences to the naive rows with their intervals, over animals, sessions and blocks of trials. Their CSV is beside `out`,
        `*_differences.csv`.
    progress : bool
        Show a bar while the sessions are scored.
    **options
        Options of `EvaluateOptions`: n_samples, ceiling, seed...

    Returns
    -------
    list of Path
        The tables and figures that were written.

    Raises
    ------
    LeakageError
        If a model saw a frame of the test windows in training.
    QfError
        If figures are asked for and there are only classifiers, or as for `evaluate` and `write_table`.
    """
    from ..evaluation.compare import compare, show_differences
    from ..evaluation.scored import score
    from ..evaluation.table import evaluate, evaluate_classifier, show

    how = EvaluateOptions(**options)
    forecasters, classifiers = _by_task(models)
    if figures is not None and classifiers and not forecasters:
        raise QfError("figures: expected a forecaster to draw, found classifiers alone. Leave --figures out, or add a forecaster.")
    split, paths = split.keeping(), []
    if forecasters or not classifiers:
        chosen, keep = _shown(split) if figures is not None else ([], None)
        scored = score(forecasters, split, **{n: v for n, v in asdict(how).items() if n != "shrinkage"}, keep=keep, progress=progress)
        table = evaluate(scored, split)
        print(show(table))
        paths += _written(table, out)
        if bootstrap and forecasters:
            differences = compare(scored, split, seed=how.seed)
            print(f"\n{show_differences(differences)}")
            paths += _written(differences, _beside(out, "differences"))
        if figures is not None:
            paths += _figures(scored, split, table, chosen, Path(figures))
    if classifiers:
        table = evaluate_classifier(classifiers, split, how.shrinkage, seed=how.seed)
        print(f"\n{show(table)}")
        paths += _written(table, _beside(out, "activation") if forecasters else out)
    if paths:
        print("\nwritten:")
        for path in paths:
            print(f"  {path}")
    return paths


def _by_task(models):
    """Divide models into forecasters and classifiers."""
    classifiers = [m for m in models if m.task == "activation"]
    return [m for m in models if m not in classifiers], classifiers


def table_files(models, out, figures, bootstrap):
    """List the files that `write_tables` may write.

    Parameters
    ----------
    models, out, figures, bootstrap
        As for `write_tables`.

    Returns
    -------
    dict of str to list of Path
        Files by the option of the command line that asks for them.
    """
    forecasters, classifiers = _by_task(models)
    tables = [out] if out is not None else []
    if tables and forecasters:
        tables += [_beside(out, name) for name, wanted in (("differences", bootstrap), ("activation", classifiers)) if wanted]
    pictures = [] if figures is None else [Path(figures) / f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")]
    return {"--out": tables, "--figures": pictures}


def _beside(out, name):
    return None if out is None else Path(out).with_name(f"{Path(out).stem}_{name}.csv")


def _written(table, path):
    """Write a table if there is a path, and return the path of its CSV in a list."""
    from ..evaluation.table import write_table

    return [] if path is None else write_table(table, path)[:1]


def _shown(split):
    """The observations that a figure of forecasts shows, and the observations whose forecasts must be kept for it."""
    from ..plots.chosen import choose_observations, wanted_of

    chosen = choose_observations(split.test, fitting=split.fitting)
    return chosen, wanted_of(chosen)


def _figures(scored, split, table, chosen, folder):
    import matplotlib as mpl

    # the figures go into files, so no screen is needed or opened
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from ..plots.forecasts import figure_forecasts
    from ..plots.style import save_figure
    from ..plots.tables import figure_table

    best = sorted(scored.naive, key=lambda name: table.loc[name, "mse_ratio"])[:1]  # the naive row that is hardest to beat
    paths = []
    figs = {"forecasts": figure_forecasts(split.test, {name: scored.kept[name] for name in (*scored.models, *best)}, chosen=chosen)}
    figs["mse"] = figure_table(table, "mse")
    if "E" in table and table["E"].notna().any():
        figs["explained"] = figure_table(table, "E")
    for name, fig in figs.items():
        paths += save_figure(fig, folder / name)
        plt.close(fig)
    return paths
