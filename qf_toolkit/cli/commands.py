"""The commands that make, use and show models: each reads its options, calls the library and prints what came of it."""

from dataclasses import asdict
from pathlib import Path

from .._files import write_netcdf
from .._version import __version__
from ..errors import QfError
from ..estimators.registry import PRETRAINING
from ..evaluation.options import EvaluateOptions
from ..recordings.options import SETTINGS
from ..recordings.settings import split_by_settings, trials_by, whole_settings
from ..recordings.simulated.options import NetworkOptions, SimulateOptions
from ..study.options import DemoOptions, FiguresOptions, TablesOptions
from ..training.options import check_device
from .info import print_store
from .options import FitWhat, MaybePretrained, Pretrained
from .outputs import claim_output
from .parsing import Arguments

FITS = {"forecast": "forecaster", "activation": "classifier"}  # what each task makes


def simulate_recording(args: Arguments):
    """Run `qf simulate`."""
    from ..recordings.simulated.cortex import simulate
    from ..recordings.simulated.network import session_keys, simulate_network
    from ..recordings.store import Store

    path = claim_output(args.store, "store", option="STORE")
    known = Store(path).keys() if path.is_dir() else []
    if args.kind == "network":
        store, made = simulate_network(path, **args.all(NetworkOptions)), session_keys(args.subjects)
    else:
        store, made = simulate(path, **args.all(SimulateOptions)), [f"{args.subject}/{letter}" for letter in args.sessions]
    for key in dict.fromkeys(made):
        if key in known:
            print(f"{key} is there already, of the same options: kept.")
    return print_store(store)


# ---------------------------------------------------------------- models


def run_of(folder, store):
    """The options a saved model was trained with; of one saved from Python the window and the conditions are known."""
    from ..estimators.notes import run_settings

    if (settings := run_settings(folder)) is not None:
        return settings
    from ..estimators.registry import load

    model = load(folder, device="cpu")
    settings = asdict(model.window)
    if model.has_stimulus_tokens:
        from ..recordings.store import Store

        present = Store(store).index["condition"]
        if lacking := set(model.tokens.lacking(present)):
            settings["condition"] = sorted(set(present) - lacking) or None
    return settings


def _finish(command, model, args, settings, options):
    from ..estimators.reference import line

    kept = {name: value for name, value in options.items() if name != "progress"}
    model.run = {"qf_toolkit": __version__, "command": command, "settings": settings, "options": kept}
    model.save(args.out)
    if not args.progress:  # else the training has said it
        print(line("pre-training" if command == "pretrain" else f"{model.name} ({model.task})", model.reference))
    print(f"saved in {args.out}")


def _training(args):
    """Every option of a training that the command has, and where the training goes on from."""
    kinds = [group.kind for group in args.groups if group.title and group.kind not in SETTINGS]
    check_device(args.device)
    return {**args.all(*kinds), "progress": args.progress}, {"checkpoint": Path(args.out) / "checkpoint"}


def pretrain_model(args: Arguments):
    """Run `qf pretrain`."""
    options, checkpoint = _training(args)  # what is wrong with the command is told before any work
    settings = whole_settings(args.of(*SETTINGS))
    from ..training.device import pick_device

    pick_device(args.device)
    made = {"quantformer": "autoencoder", "calm": "calm_quantizer"}.get(args.model, "network_pretrained")
    claim_output(args.out, made, overwrite=args.overwrite, store=args.store)
    split = split_by_settings(args.store, settings)
    print(split)
    if args.model == "calm":
        from ..estimators.calm.quantizer import pretrain_calm_quantizer

        model, options = pretrain_calm_quantizer(split, **options, **checkpoint), {"model": args.model, **options}
    elif made == "autoencoder":
        from ..estimators.quantformer.pretrain import pretrain

        model = pretrain(split, **options, **checkpoint)
    else:
        from ..estimators.pretrained_network import pretrain_network

        model, options = pretrain_network(split, args.model, **options, **checkpoint), {"model": args.model, **options}
    _finish("pretrain", model, args, settings, options)


def fit_model(args: Arguments):
    """Run `qf fit`."""
    options, checkpoint = _training(args)
    for group in args.groups:
        for option in group.options:
            if option.facts["task"] not in (None, args.task):
                if option.name in args.given and args.given[option.name] != option.default:
                    raise QfError(f"{option.name}: expected only with --task {option.facts['task']}. Leave it out.")
                options.pop(option.name)
            elif args.model in PRETRAINING and args.pretrained and group.title == "model" and option.name not in args.given:
                options.pop(option.name)  # pre-training has set it
    fit = {"quantformer": _fit_quantformer, "calm": _fit_calm}.get(args.model, _fit_network)
    model, settings = fit(args, {**options, **checkpoint})
    _finish("fit", model, args, settings, {**args.all(FitWhat, Pretrained), **options})


def _fit_calm(args, options):
    from ..estimators.calm.fit import fit_calm
    from ..estimators.notes import read_note
    from ..estimators.registry import load

    if args.task != "forecast":
        raise QfError(f"--task: expected forecast, since CalM forecasts traces, found {args.task}. Take another model for activation.")
    if "batch_size" in args.given and "batch_trials" not in args.given:
        options["batch_trials"] = 0
    pretrained, settings, sources = None, {}, []
    if start := args.all(MaybePretrained).get("pretrained"):
        if (kind := read_note(start)["kind"]) not in ("calm_quantizer", "calm"):
            raise QfError(f"--pretrained: expected what `qf pretrain --model calm` or `qf fit --model calm` saved, found a {kind} in {start}.")
        for group in args.groups:  # what it has set
            for option in group.options:
                set_before = (
                    group.title in ("model", "network", "forecast") and option.name != "tuning" if kind == "calm" else option.name == "normalise"
                )
                if set_before and option.name not in args.given:
                    options.pop(option.name, None)
        pretrained, settings, sources = load(start, device=options["device"]), run_of(start, args.store), [start]
    settings = whole_settings(args.of(*SETTINGS), settings)
    claim_output(args.out, "calm", overwrite=args.overwrite, store=args.store, sources=sources)
    split = split_by_settings(args.store, settings)
    print(split)
    return fit_calm(split, pretrained, **options), settings


def _fit_quantformer(args, options):
    from ..estimators.notes import read_note

    if (kind := read_note(args.pretrained)["kind"]) != "autoencoder":
        raise QfError(f"--pretrained: expected what `qf pretrain` saved, found a {kind} in {args.pretrained}. Give the model it was fitted on.")
    from ..estimators.quantformer.activation import fit_classifier
    from ..estimators.quantformer.response import fit_forecaster
    from ..estimators.registry import load

    model = load(args.pretrained, device=options.pop("device"))
    kind = FITS[args.task] if model.has_codes or args.task == "activation" else "regressor"
    claim_output(args.out, kind, overwrite=args.overwrite, store=args.store, sources=[args.pretrained])
    settings = whole_settings(args.of(*SETTINGS), run_of(args.pretrained, args.store))
    split = split_by_settings(args.store, settings)
    print(split)
    fit = fit_forecaster if args.task == "forecast" else fit_classifier
    return fit(model, split, **options), settings


def _fit_network(args, options):
    from ..estimators.network import fit_network

    sources, pretrained, settings = [], None, {}
    if start := args.all(MaybePretrained).get("pretrained"):
        from ..estimators.published_brainlm import is_published, load_pretrained

        sources, pretrained = [start], load_pretrained(start, device=options["device"])
        settings = {} if is_published(start) else run_of(start, args.store)
    settings = whole_settings(args.of(*SETTINGS), settings)
    claim_output(args.out, f"network_{FITS[args.task]}", overwrite=args.overwrite, store=args.store, sources=sources)
    split = split_by_settings(args.store, settings)
    print(split)
    return fit_network(split, args.model, args.task, pretrained=pretrained, **options), settings


def _load_fitted(folder):
    from ..estimators.registry import load

    model = load(folder)
    if model.task not in FITS:
        found, hint = "pre-trained auto-encoder", "Fit it to a task first"
        if model.task == "behaviour":
            found, hint = "decoder", "`qf decode` scores it"
        raise QfError(f"--model: expected what `qf fit` saved, found a {found} in {folder}. {hint}.")
    return model


def write_forecasts(args: Arguments):
    """Run `qf forecast`."""
    from ..recordings.store import Store

    model = _load_fitted(args.model)
    if args.decode is not None:
        if not (model.task == "forecast" and model.has_codes):
            raise QfError(f"--decode: expected a forecaster, found a {type(model).__name__} in {args.model}. Leave it out.")
        model.decode = args.decode
    settings = whole_settings(args.of(*SETTINGS), run_of(args.model, args.store))
    # the model brings its own z-scores, so that all trials need no split
    trials = trials_by(args.store, settings) if args.part == "all" else getattr(split_by_settings(args.store, settings), args.part)
    model.prepare(trials)  # whatever doesn't fit is told before the first file
    out, parts = Path(args.out), trials.by_session()
    folder = out.with_suffix("") if out.suffix == ".nc" else out
    store = Store(args.store)
    files = [out] if len(parts) == 1 else [folder / store.file(part.sessions[0]).name for part in parts]
    files = [claim_output(file, overwrite=args.overwrite, store=args.store) for file in files]
    for part, file in zip(_bar(parts, args), files, strict=True):
        write_netcdf(model.predict(part), file)
    print(f"{len(trials)} trials forecast: {out if len(parts) == 1 else f'{len(parts)} files in {folder}'}")


def _bar(parts, args):
    from tqdm.auto import tqdm

    return tqdm(parts, desc="forecast", unit="session", disable=not args.progress or len(parts) < 2)


def evaluate_models(args: Arguments):
    """Run `qf evaluate`."""
    from ..study.tables import table_files, write_tables

    models = _named_apart([_load_fitted(folder) for folder in args.model], args.model)
    for option, files in table_files(models, args.out, args.figures, args.bootstrap).items():
        for file in files:
            claim_output(file, option=option, overwrite=args.overwrite, store=args.store)
    # without a model, the naive rows alone in the windows that `qf pretrain` would take
    base = run_of(args.model[0], args.store) if args.model else None
    split = split_by_settings(args.store, whole_settings(args.of(*SETTINGS), base))
    print(split)
    write_tables(models, split, out=args.out, progress=args.progress, **args.all(TablesOptions, EvaluateOptions))


def _named_apart(models, folders):
    """The models, with the folder in the name of those that would share one."""
    rows = [(type(m), m.name) for m in models]
    for folder, model, row in zip(folders, models, rows, strict=True):
        if rows.count(row) > 1:
            model.name = f"{model.name} ({folder})"
    return models


def report_recording(args: Arguments):
    """Run `qf report`."""
    from ..study.recording_page import report

    out = claim_output(args.out, "page", overwrite=args.overwrite, store=args.store)
    models = [_load_fitted(folder) for folder in args.model]
    page = report(args.store, _named_apart(models, args.model), out=out, overwrite=True, n_samples=args.n_samples, seed=args.seed,
                  progress=args.progress, **args.of(*SETTINGS))  # fmt: skip
    print("\n".join(page.short))
    print(f"the page: {args.out}")


# ---------------------------------------------------------------- everything at once


def run_demo(args: Arguments):
    """Run `qf demo`."""
    from ..study.demo import demo

    claim_output(args.out, "folder")
    demo(args.out, progress=args.progress, **args.all(DemoOptions))


def gather_figures(args: Arguments):
    """Run `qf figures`. Returns the exit code."""
    from ..study.notebook_page import INDEX, make_figures

    claim_output(args.out, "folder")
    runs = make_figures(args.out, progress=args.progress, **args.all(FiguresOptions))
    n = sum(len(run.figures) for run in runs)
    print(f"{n} figure{'s' * (n != 1)}: {Path(args.out) / INDEX}")
    return int(any(run.failure for run in runs))
