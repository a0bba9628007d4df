"""The demo: a simulated mouse is recorded, a model is trained on it, and its forecasts are laid beside the truth."""

import json
import shutil
from pathlib import Path

from .. import __version__
from .._files import sweep, write_text
from ..errors import QfError

# full: at most 5 minutes on 2 CPU cores; small: what .ci/run does, under 2; tiny: for the tests
SIZES = {
    "full": {
        "simulate": {"n_neurons": 40, "repeats": 15, "directions": 8, "temporal_frequencies": 2},
        "config": {"width": 64, "layers": 2, "heads": 4, "patch_frames": 10, "replace_below": 0.003},
        "pretrain": {"epochs": 20, "batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
        "forecaster": {"epochs": 40, "batch_size": 64, "schedule": "cosine", "expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1},
        "classifier": {"epochs": 20, "batch_size": 64, "schedule": "cosine", "gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
    },
    "small": {
        "simulate": {"n_neurons": 20, "repeats": 12, "directions": 4, "temporal_frequencies": 2},
        "config": {"width": 32, "layers": 2, "heads": 4, "patch_frames": 10, "replace_below": 0.003},
        "pretrain": {"epochs": 30, "batch_size": 64, "lr": 1e-3, "schedule": "cosine"},
        "forecaster": {"epochs": 50, "batch_size": 64, "schedule": "cosine", "expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1},
        "classifier": {"epochs": 20, "batch_size": 64, "schedule": "cosine", "gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
    },
    "tiny": {
        "simulate": {"n_neurons": 5, "repeats": 15, "directions": 2, "temporal_frequencies": 1, "gap_s": 6.0},
        "config": {"width": 16, "layers": 1, "heads": 2, "patch_frames": 15, "codes": 8},
        "pretrain": {"epochs": 1},
        "forecaster": {"epochs": 1},
        "classifier": {"epochs": 1},
    },
}
# what a container of Visual Coding files holds, and how many steps each stage learns from it; the stimuli differ tenfold in their trials
ALLEN = {
    "full": {
        "simulate": {"n_neurons": 16, "repeats": 15, "directions": 8, "temporal_frequencies": 2, "images": 6, "orientations": 4,
                     "spatial_frequencies": 1, "phases": 2, "image_repeats": 120, "noise_frames": 960},
        "config": {"width": 48, "layers": 2, "heads": 4, "patch_frames": 10, "replace_below": 0.003},
        "pretrain": {"steps": 2500, "batch_size": 128, "lr": 1e-3, "schedule": "cosine"},
        "forecaster": {"steps": 2500, "batch_size": 64, "schedule": "cosine", "expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1},
        "classifier": {"steps": 1000, "batch_size": 64, "schedule": "cosine", "gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
    },
    "small": {
        "simulate": {"n_neurons": 10, "repeats": 15, "directions": 4, "temporal_frequencies": 1, "images": 4, "orientations": 2,
                     "spatial_frequencies": 1, "phases": 2, "image_repeats": 120, "noise_frames": 480},
        "config": {"width": 32, "layers": 1, "heads": 4, "patch_frames": 10, "replace_below": 0.003},
        "pretrain": {"steps": 800, "batch_size": 64, "lr": 1e-3, "schedule": "cosine"},
        "forecaster": {"steps": 800, "batch_size": 64, "schedule": "cosine", "expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1},
        "classifier": {"steps": 400, "batch_size": 64, "schedule": "cosine", "gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
    },
    "tiny": {
        "simulate": {"n_neurons": 3, "repeats": 15, "directions": 2, "temporal_frequencies": 1, "images": 2, "orientations": 1,
                     "spatial_frequencies": 1, "phases": 1, "image_repeats": 150, "noise_frames": 300},
        "config": {"width": 16, "layers": 1, "heads": 2, "patch_frames": 15, "codes": 8},
        "pretrain": {"steps": 10, "batch_size": 64},
        "forecaster": {"steps": 10, "batch_size": 64},
        "classifier": {"steps": 10, "batch_size": 64},
    },
}  # fmt: skip
STIMULI = ("drifting_gratings", "static_gratings", "natural_scenes", "locally_sparse_noise")
MADE = ("store", "files", "autoencoder", "forecaster", "classifier", "figures")
# every table it may write, and what says where each is from
TABLES = tuple(f"{name}{which}{end}" for name in ("table", *STIMULI) for which in ("", "_activation", "_differences") for end in (".csv", ".json"))
MARK = "demo.json"


def demo(out="demo", *, size="full", seed=0, device="auto", progress=True, data="simulated"):
    """Run the demo, printing as it goes. Interrupted, the same call goes on where it was.

    Parameters
    ----------
    out : str or Path
        Folder of everything it makes; a former demo in it is replaced.
    size : {"full", "small", "tiny"}
    data : {"simulated", "allen"}
        A simulated session of drifting gratings; or a simulated container of Visual Coding files (NWB 1.0, sessions A, B and C), imported through
        allensdk, with a table and figures for each of the four stimuli.
    seed : int
        Of the simulation and of the training.
    device : str
    progress : bool
        Show bars.

    Returns
    -------
    list of Path
        The table of the forecasts, that of the activations, and the figures; with data="allen" of each stimulus.

    Raises
    ------
    QfError
        If the folder holds something else, or can't be written; with data="allen" if allensdk is missing.
    """
    from ..estimators.quantformer.activation import fit_classifier
    from ..estimators.quantformer.pretrain import pretrain
    from ..estimators.quantformer.response import fit_forecaster
    from ..recordings.simulated.cortex import simulate

    if size not in SIZES:
        raise QfError(f"size: expected one of {', '.join(SIZES)}, found {size!r}.")
    if data not in ("simulated", "allen"):
        raise QfError(f"data: expected simulated or allen, found {data!r}.")
    check_seed(seed)
    out, plan = Path(out), (ALLEN if data == "allen" else SIZES)[size]
    _prepare(out, {"qf_toolkit": __version__, "size": size, "seed": seed, "data": data, "plan": plan})
    common = {"seed": seed, "progress": progress}
    if data == "allen":
        return _finished(out, _demo_allen(out, plan, device, common))

    print(f"1. a simulated mouse sees drifting gratings (size {size}, seed {seed})")
    store = simulate(out / "store", sessions=("A",), seed=seed, **plan["simulate"])
    split = _split(store)
    print(f"   {split.train}\n   {split}")
    print("2. pre-training: the auto-encoder learns a code book of activity patterns")
    model = pretrain(split, checkpoint=out / "autoencoder" / "checkpoint", device=device, **plan["config"], **plan["pretrain"], **common)
    model.save(out / "autoencoder")
    print("3. fitting the forecaster and the activation classifier")
    forecaster = fit_forecaster(model, split, checkpoint=out / "forecaster" / "checkpoint", **plan["forecaster"], **common)
    forecaster.save(out / "forecaster")
    classifier = fit_classifier(model, split, checkpoint=out / "classifier" / "checkpoint", **plan["classifier"], **common)
    classifier.save(out / "classifier")
    print("4. forecasts of the last block, which no model has seen\n")
    return _finished(out, report([forecaster, classifier], split, out=out / "table.csv", figures=out / "figures", ceiling=True, progress=progress))


def _finished(out, paths):
    write_text(out / MARK, json.dumps({**json.loads((out / MARK).read_text(encoding="utf-8")), "done": True}, indent=2) + "\n")
    return paths


def _demo_allen(out, plan, device, common):
    from ..estimators.quantformer.activation import fit_classifier
    from ..estimators.quantformer.pretrain import pretrain
    from ..estimators.quantformer.response import fit_forecaster
    from ..recordings.importers.allen import read_allen
    from ..recordings.importers.many import import_many
    from ..recordings.simulated.visual_coding_files import simulate_container
    from ..recordings.splits import split_blocks
    from ..recordings.store import Store

    print(f"1. a simulated mouse is shown sessions A, B and C of Visual Coding (seed {common['seed']})")
    files = sorted((out / "files").glob("*.nwb"))
    if len(files) < 3:
        files = simulate_container(out / "files", seed=common["seed"], **plan["simulate"])
    print("2. its NWB 1.0 files are imported through allensdk")
    for done in import_many(read_allen, files, out / "store", workers=1, progress=False):
        if done.error is not None:
            raise QfError(done.error)
    store = Store(out / "store")

    def split_of(*stimuli):
        # F0 from the last second: gratings are 3 s apart, of images it holds four
        window = {"baseline_s": 3.0, "response_s": 2.0, "f0_s": 1.0, "score_s": "paper"}
        return split_blocks(store.trials(stimulus=stimuli, condition=_well_shown(store.index, stimuli), **window))

    split = split_of(*STIMULI)
    print(f"   {split.train}\n   {split}")
    print("3. pre-training on all four stimuli")
    model = pretrain(
        split, checkpoint=out / "autoencoder" / "checkpoint", device=device, **plan["config"], **_epochs(plan["pretrain"], split), **common
    )
    model.save(out / "autoencoder")
    paths = []
    for i, stimulus in enumerate(STIMULI):
        print(f"\n4.{i + 1} {stimulus.replace('_', ' ')}: forecaster and classifier, then forecasts of the last block, which no model has seen")
        split = split_of(stimulus)
        models = []
        for name, fit in (("forecaster", fit_forecaster), ("classifier", fit_classifier)):
            folder = out / name / stimulus
            models.append(fit(model, split, checkpoint=folder / "checkpoint", **_epochs(plan[name], split), **common))
            models[-1].save(folder)
        paths += report(models, split, out=out / f"{stimulus}.csv", figures=out / "figures" / stimulus, progress=common["progress"])
    return paths


def _well_shown(table, stimuli):
    """The conditions that are shown twice or more in each block, of the stimuli whose conditions repeat; a rare blank is left out."""
    kept = []
    for stimulus in stimuli:
        shown = table[table["stimulus"] == stimulus].groupby(["condition", "block"]).size().unstack(fill_value=0)
        enough = shown.index[(shown >= 2).all(axis=1)] if shown.to_numpy().sum() > len(shown) else shown.index
        kept += enough.tolist()
    return kept


def _epochs(plan, split):
    """The epochs that make about as many steps as the plan has."""
    observations = sum(len(part) * len(part.neurons) for part in split.train.by_session())
    return {**{k: v for k, v in plan.items() if k != "steps"}, "epochs": max(1, round(plan["steps"] * plan["batch_size"] / observations))}


def _split(store):
    """Gratings are 3 s apart, so F0 is taken from the grey second before each. A blank sweep too rare to be in every block is left out."""
    from ..recordings.splits import split_blocks

    table = store.index
    blocks = table.groupby("condition")["block"].nunique()
    known = sorted(blocks.index[blocks == table["block"].nunique()])
    return split_blocks(store.trials(stimulus="drifting_gratings", condition=known, baseline_s=3.0, response_s=2.0, f0_s=1.0))


def check_seed(seed):
    """Refuse a seed that the generators of numpy or torch don't take."""
    if not 0 <= seed < 2**32:
        raise QfError(f"seed: expected from 0 to {2**32 - 1}, found {seed}.")


def _prepare(out, settings):
    """An interrupted demo of the same settings is gone on with; a finished or other one makes room; anything else is left alone."""
    mark = out / MARK
    try:
        known = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else None
    except ValueError:
        known = None
    is_demo = isinstance(known, dict) and {"qf_toolkit", "plan"} <= known.keys()
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not is_demo):
        raise QfError(f"{out}: expected a new folder or that of a former demo, found something else. Choose another with --out.")
    if is_demo:
        for folder in (out, *(p for p in out.rglob("*") if p.is_dir())):
            sweep(folder)
        if known == json.loads(json.dumps(settings)):
            print("going on with the interrupted demo")
            return
        for name in MADE:
            shutil.rmtree(out / name, ignore_errors=True)
        for name in TABLES:
            (out / name).unlink(missing_ok=True)
    write_text(mark, json.dumps(settings, indent=2) + "\n")


FIGURES = ("forecasts", "mse", "explained")


def report(models, split, *, out=None, figures=None, ceiling=False, n_samples=0, bootstrap=False, progress=False):
    """Evaluate models on the test part: print the tables, write them and the figures. Each session is forecast once by each row.

    Parameters
    ----------
    models : list of Forecaster and classifiers of activation
        Each task gets a table of its own, with the naive rows; without any model there is that of the forecasts, with the naive rows alone.
    split : Split
    out : str or Path, optional
        CSV of the forecasters; that of the classifiers is beside it, `*_activation.csv`. Each has a `.json` that says where it comes from.
    figures : str or Path, optional
        Folder.
    ceiling : bool
        Add the best possible forecast, where the data are simulated.
    n_samples : int
        Draws a forecast for crps and coverage; 0 for none.
    bootstrap : bool
        Add how sure each difference to the naive rows is, over animals, sessions and blocks of trials; its CSV is beside `out`, `*_differences.csv`.
    progress : bool
        Show a bar while the sessions are scored.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    QfError
        If figures are asked for, and there are classifiers alone.
    """
    from ..evaluation.compare import compare, show_differences
    from ..evaluation.scored import score
    from ..evaluation.table import evaluate, evaluate_classifier, show

    forecasters, classifiers = _by_task(models)
    if figures is not None and classifiers and not forecasters:
        raise QfError("figures: expected a forecaster to draw, found classifiers alone. Leave --figures out, or add a forecaster.")
    paths = []
    if forecasters or not classifiers:
        chosen, keep = _shown(split) if figures is not None else ([], None)
        scored = score(forecasters, split, ceiling=ceiling, n_samples=n_samples, keep=keep, progress=progress)
        table = evaluate(scored, split)
        print(show(table))
        paths += _written(table, out)
        if bootstrap and forecasters:
            differences = compare(scored, split)
            print(f"\n{show_differences(differences)}")
            paths += _written(differences, _beside(out, "differences"))
        if figures is not None:
            paths += _figures(scored, split, table, chosen, Path(figures))
    if classifiers:
        table = evaluate_classifier(classifiers, split)
        print(f"\n{show(table)}")
        paths += _written(table, _beside(out, "activation") if forecasters else out)
    if paths:
        print("\nwritten:")
        for path in paths:
            print(f"  {path}")
    return paths


def _by_task(models):
    """The forecasters and the classifiers among some models."""
    classifiers = [m for m in models if hasattr(m, "predict_probability")]
    return [m for m in models if m not in classifiers], classifiers


def report_files(models, out, figures, bootstrap):
    """The files that `report` may write, by the option that asks for them; arguments as those of `report`."""
    forecasters, classifiers = _by_task(models)
    tables = [out] if out is not None else []
    if tables and forecasters:
        tables += [_beside(out, name) for name, wanted in (("differences", bootstrap), ("activation", classifiers)) if wanted]
    pictures = [] if figures is None else [Path(figures) / f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")]
    return {"--out": tables, "--figures": pictures}


def _beside(out, name):
    return None if out is None else Path(out).with_name(f"{Path(out).stem}_{name}.csv")


def _written(table, path):
    """Where a table was written, if it was to be: the path of its CSV."""
    from ..evaluation.table import write_table

    return [] if path is None else write_table(table, path)[:1]


def _shown(split):
    """The observations that a figure of forecasts shows, and of what forecasts must be kept for it."""
    from ..plots.chosen import choose_observations, wanted_of

    chosen = choose_observations(split.test, fitting=split.fitting)
    return chosen, wanted_of(chosen)


def _figures(scored, split, table, chosen, folder):
    import matplotlib as mpl

    # drawn to files: a screen is neither needed nor opened
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from ..plots.forecasts import figure_forecasts
    from ..plots.style import save_figure
    from ..plots.tables import figure_table

    best = min(scored.naive, key=lambda name: table.loc[name, "mse_ratio"])  # the naive row that is hardest to beat
    paths = []
    figs = {"forecasts": figure_forecasts(split.test, {name: scored.kept[name] for name in (*scored.models, best)}, chosen=chosen)}
    figs["mse"] = figure_table(table, "mse")
    if "E" in table and table["E"].notna().any():
        figs["explained"] = figure_table(table, "E")
    for name, fig in figs.items():
        paths += save_figure(fig, folder / name)
        plt.close(fig)
    return paths
