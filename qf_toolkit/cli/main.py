"""`qf`: the library from a shell. Thin: every command reads its options, calls the library and prints what came of it.

Exit codes: 0 well, 1 some of several recordings could not be imported or notebooks failed, 2 bad input or use, 130 stopped with Ctrl-C.
"""

import errno
import gc
import sys
import warnings
from pathlib import Path

from .._files import write_netcdf
from .._version import __version__
from ..errors import QfError
from .console import console
from .importing import READERS, import_recordings, list_allen, options_given
from .info import print_store, show_info
from .options import build_parser, training_options
from .outputs import claim_output
from .parsing import as_typed

# what `pretrain` takes where an option is left out; `fit`, `forecast` and `evaluate` take what the model was trained with
TRIALS = {
    "stimulus": None, "condition": None, "session": None, "subject": None,
    "baseline_s": 3.0, "response_s": 2.0, "f0_s": None, "score_s": None, "signal": "dff", "active_rule": "gain", "active_gain": 0.10,
}  # fmt: skip
SPLIT = {"split": "blocks", "test": None, "validation": 0.15, "gap_s": None}
FITS = {"forecast": "forecaster", "activation": "classifier"}  # what each task makes
PRINT = ("info", "allen")  # commands whose result is what they print


def main(argv=None):
    """Run `qf`.

    Parameters
    ----------
    argv : list of str, optional
        Arguments, those of the process where left out.

    Returns
    -------
    int
        The exit code.
    """
    with console() as out, warnings.catch_warnings():
        args = build_parser(READERS, RUN).parse_args(argv)
        # a library's notes to its programmers are none of the user's business; all others are one line each
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = _one_line
        code = _run(args)
        if code:
            gc.collect()  # what a library can't close after the error, it fails to close while `console` listens
        out.flush()
        # whoever read our output may close it (`qf info | head`), or not have wanted it; else it is missed
        if code == 0 and out.lost is not None and (out.lost.errno != errno.EPIPE and (out.lost.errno != errno.EBADF or args.command in PRINT)):
            return _say_error(f"standard output: could not be written ({out.lost.strerror}). What the command saved is whole.")
        return code


def _run(args):
    """Run a command; what a user can cause becomes one line. Returns the exit code."""
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("qf: stopped; the same command again goes on from the last checkpoint, where there is one.", file=sys.stderr)
        return 130
    except (QfError, OSError) as error:
        return _say_error(as_typed(str(error), args))
    except MemoryError:
        return _say_error("memory: expected enough for this, found too little. Take fewer neurons, sessions or samples at a time.")
    except ModuleNotFoundError as error:
        return _say_error(f"{error.name} is not installed. Install it: pip install 'qf_toolkit[nwb]' (pynwb) or pip install {error.name}")


def _say_error(text):
    print(f"qf: {' '.join(text.split())}", file=sys.stderr)
    return 2


def _one_line(message, category, filename, lineno, file=None, line=None):
    print(f"qf: note: {' '.join(str(message).split())}", file=sys.stderr)


# ---------------------------------------------------------------- recordings


def _simulate(args):
    from ..recordings.simulated.cortex import simulate
    from ..recordings.store import Store

    sizes = options_given(args, ("n_neurons", "repeats", "directions", "temporal_frequencies", "image_repeats"))
    path = claim_output(args.store, "store", option="STORE")
    known = Store(path).keys() if path.is_dir() else []
    store = simulate(path, sessions=tuple(args.sessions), seed=args.seed, subject=args.subject, **sizes)
    for key in dict.fromkeys(f"{args.subject}/{letter}" for letter in args.sessions):
        if key in known:
            print(f"{key} is there already, of the same options: kept.")
    return print_store(store)


# ---------------------------------------------------------------- models


def _settings(args, base):
    """The window and split options: those given, over those in `base`."""
    given = {n: getattr(args, n, None) for n in base}  # not every one has an option
    return {n: given[n] if given[n] is not None else default for n, default in base.items()}


def _trials(store, settings):
    from ..recordings.store import Store

    return Store(store).trials(**{n: settings[n] for n in TRIALS})


def make_split(store, settings):
    """Trials of a store and their split, from the options that config.json keeps.

    Parameters
    ----------
    store : str or Path
    settings : dict
        Keys of TRIALS and SPLIT.

    Returns
    -------
    Split
    """
    from ..recordings.splits import split_blocks, split_chronological

    trials = _trials(store, settings)
    test, validation = settings["test"], settings["validation"]
    if settings["split"] == "chronological":
        return split_chronological(trials, 1 / 3 if test is None else test, validation, settings["gap_s"])
    if settings["gap_s"] is not None:
        raise QfError("--gap: expected only with --split chronological; blocks are apart as recorded. Leave it out.")
    return split_blocks(trials, -1 if test is None else test, validation)


def _run_of(folder, store):
    """The options a saved model was trained with; of one saved from Python the window and the conditions are known."""
    from ..estimators.notes import run_settings

    if (settings := run_settings(folder)) is not None:
        return settings
    from dataclasses import asdict

    from ..estimators.registry import load

    model = load(folder, device="cpu")
    window = asdict(model.window)
    settings = {**TRIALS, **SPLIT, **{n: window[n] for n in TRIALS if n in window}}
    if model.has_tokens:
        from ..recordings.store import Store

        present = Store(store).index["condition"]
        if lacking := set(model.tokens.lacking(present)):
            settings["condition"] = sorted(set(present) - lacking) or None
    return settings


def _finish(model, args, settings):
    from ..estimators.reference import line

    model.run = {"qf_toolkit": __version__, "settings": settings}
    model.save(args.out)
    if args.quiet:  # else the training has said it
        print(line("pre-training" if args.command == "pretrain" else model.kind, model.reference))
    print(f"saved in {args.out}")


def _how(args):
    """Where every training goes on from."""
    return {"checkpoint": Path(args.out) / "checkpoint", "resume": not args.fresh, "progress": not args.quiet}


def _pretrain(args):
    options = training_options(args)  # what is wrong with the command is told before any work
    from ..estimators.quantformer.pretrain import pretrain
    from ..training.device import pick_device

    device = pick_device(args.device)
    claim_output(args.out, "autoencoder", overwrite=args.overwrite, store=args.store)
    settings = _settings(args, {**TRIALS, **SPLIT})
    split = make_split(args.store, settings)
    print(split)
    _finish(pretrain(split, device=device, **options, **_how(args)), args, settings)


def _fit(args):
    options = training_options(args)
    for name, task in {"expectation_weight": "forecast", "decode": "forecast", "gain_weight": "activation"}.items():
        if name in options and args.task != task:
            raise QfError(f"--{name.replace('_', '-')}: expected only with --task {task}. Leave it out.")
    from ..estimators.notes import read_note

    if (kind := read_note(args.pretrained)["kind"]) != "autoencoder":
        raise QfError(f"--pretrained: expected what `qf pretrain` saved, found a {kind} in {args.pretrained}. Give the model it was fitted on.")
    claim_output(args.out, FITS[args.task], overwrite=args.overwrite, store=args.store, sources=[args.pretrained])
    from ..estimators.quantformer.activation import fit_classifier
    from ..estimators.quantformer.response import fit_forecaster
    from ..estimators.registry import load

    model = load(args.pretrained, device=args.device)
    settings = _settings(args, _run_of(args.pretrained, args.store))
    split = make_split(args.store, settings)
    print(split)
    fit = fit_forecaster if args.task == "forecast" else fit_classifier
    _finish(fit(model, split, **options, **_how(args)), args, settings)


def _forecast(args):
    from ..estimators.registry import load
    from ..recordings.store import Store

    model = load(args.model)
    if model.task == "codes":
        raise QfError(f"--model: expected what `qf fit` saved, found a pre-trained auto-encoder in {args.model}. Fit it to a task first.")
    if args.decode is not None:
        if not (model.task == "forecast" and model.has_codes):
            raise QfError(f"--decode: expected a forecaster, found a {type(model).__name__} in {args.model}. Leave it out.")
        model.decode = args.decode
    settings = _settings(args, _run_of(args.model, args.store))
    # the model brings its own z-scores, so that all trials need no split
    trials = _trials(args.store, settings) if args.part == "all" else getattr(make_split(args.store, settings), args.part)
    model.prepare(trials)  # whatever doesn't fit is told before the first file
    out, parts = Path(args.out), trials.by_session()
    folder = out.with_suffix("") if out.suffix == ".nc" else out
    store = Store(args.store)
    files = [out] if len(parts) == 1 else [folder / store.file(part.sessions[0]).name for part in parts]
    files = [claim_output(file, overwrite=args.overwrite, store=args.store) for file in files]
    for part, file in zip(_progress(parts, args, "forecast", "session"), files, strict=True):
        write_netcdf(model.predict(part), file)
    print(f"{len(trials)} trials forecast: {out if len(parts) == 1 else f'{len(parts)} files in {folder}'}")


def _evaluate(args):
    from ..estimators.registry import load
    from ..study.report import report, report_files

    models = [load(folder) for folder in args.model]
    for folder, model in zip(args.model, models, strict=True):
        if model.task == "codes":
            raise QfError(f"--model: expected what `qf fit` saved, found a pre-trained auto-encoder in {folder}. Fit it to a task first.")
    rows = [(type(m), m.name) for m in models]
    for folder, model, row in zip(args.model, models, rows, strict=True):
        if rows.count(row) > 1:
            model.name = f"{model.name} ({folder})"
    for option, files in report_files(models, args.out, args.figures, args.bootstrap).items():
        for file in files:
            claim_output(file, option=option, overwrite=args.overwrite, store=args.store)
    # without a model, the naive rows alone in the windows that `qf pretrain` would take
    split = make_split(args.store, _settings(args, _run_of(args.model[0], args.store) if args.model else {**TRIALS, **SPLIT}))
    print(split)
    report(
        models,
        split,
        out=args.out,
        figures=args.figures,
        ceiling=args.ceiling,
        n_samples=args.n_samples,
        bootstrap=args.bootstrap,
        progress=not args.quiet,
    )


def _demo(args):
    from ..study.demo import demo

    claim_output(args.out, "folder")
    demo(args.out, size=args.size, seed=args.seed, device=args.device, progress=not args.quiet, data=args.data)


def _figures(args):
    from ..study.notebook_page import INDEX, make_figures

    claim_output(args.out, "folder")
    what = {name: getattr(args, name) for name in ("notebooks", "study", "store", "fast", "seed", "only")}
    runs = make_figures(args.out, progress=not args.quiet, **what)
    n = sum(len(run.figures) for run in runs)
    print(f"{n} figure{'s' * (n != 1)}: {Path(args.out) / INDEX}")
    return int(any(run.failure for run in runs))


def _progress(items, args, label, unit="file"):
    from tqdm.auto import tqdm

    return tqdm(items, desc=label, unit=unit, disable=args.quiet or len(items) < 2)


RUN = {
    "simulate": _simulate,
    "import": import_recordings,
    "allen": list_allen,
    "info": show_info,
    "pretrain": _pretrain,
    "fit": _fit,
    "forecast": _forecast,
    "evaluate": _evaluate,
    "demo": _demo,
    "figures": _figures,
}


if __name__ == "__main__":
    sys.exit(main())
