"""`qf`: the library from a shell. Thin: every command reads its options, calls the library and prints what came of it.

Exit codes: 0 well, 1 some of several recordings could not be imported or notebooks failed, 2 bad input or use, 130 stopped with Ctrl-C.
"""

import os
import sys
import warnings
from pathlib import Path

from . import __version__
from ._files import write_netcdf
from ._importing import READERS, import_recordings, list_allen
from ._options import build_parser, training_options
from .errors import DamagedFileError, QfError

# what `pretrain` takes where an option is left out; `fit`, `forecast` and `evaluate` take what the model was trained with
TRIALS = {
    "stimulus": None, "condition": None, "session": None, "subject": None,
    "baseline_s": 3.0, "response_s": 2.0, "f0_s": None, "score_s": None, "signal": "dff", "active_rule": "gain", "active_gain": 0.10,
}  # fmt: skip
SPLIT = {"split": "blocks", "test": None, "validation": 0.15, "gap_s": None}


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
    args = build_parser(READERS, RUN).parse_args(argv)
    with warnings.catch_warnings():
        # a library's notes to its programmers are none of the user's business; all others are one line each
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = _one_line
        try:
            code = args.run(args)
            sys.stdout.flush()
            return code or 0
        except KeyboardInterrupt:
            print("qf: stopped; the same command again goes on from the last checkpoint, where there is one.", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # whoever read our output has closed it (`qf info | head`): nobody is left to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (QfError, OSError) as error:
            print(f"qf: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except ModuleNotFoundError as error:
            print(
                f"qf: {error.name} is not installed. Install it: pip install 'qf_toolkit[nwb]' (pynwb) or pip install {error.name}", file=sys.stderr
            )
            return 2


def _one_line(message, category, filename, lineno, file=None, line=None):
    print(f"qf: note: {' '.join(str(message).split())}", file=sys.stderr)


# ---------------------------------------------------------------- recordings


def _simulate(args):
    from .recordings.simulate import simulate

    sizes = {
        n: getattr(args, n) for n in ("n_neurons", "repeats", "directions", "temporal_frequencies", "image_repeats") if getattr(args, n) is not None
    }
    store = simulate(args.store, sessions=tuple(args.sessions), seed=args.seed, subject=args.subject, **sizes)
    _print_store(store)


def _info(args):
    from .recordings.session import epoch_table
    from .recordings.store import Store

    store = Store(args.store)
    if args.session is None:
        return _print_store(store)
    info = store.info(args.session)
    for name, value in info.items():
        if name == "flagged":
            value = ", ".join(f"{n} {why}" for why, n in value.items()) or "none"
        print(f"{name:16} {value}")
    rows = store.index
    rows = rows[rows["session"] == args.session]
    if len(rows):
        print()
        table = rows.groupby("stimulus").agg(trials=("trial", "size"), conditions=("condition", "nunique"), blocks=("block", "nunique"))
        print(table.to_string())
    epochs = epoch_table(store.header(args.session))
    without = epochs[~epochs["stimulus"].isin(rows["stimulus"])]
    if len(without):
        print("\nstretches without trials (frames, the last one excluded)")
        print(without.to_string(index=False))
    return 0


def _print_store(store):
    import pandas as pd

    rows, damaged = [], []
    for key in sorted(store.keys()):
        try:
            info = store.info(key)
            flagged = ", ".join(f"{n} {why}" for why, n in info["flagged"].items()) or "-"
            rows.append([key, info["neurons"], info["minutes"], f"{info['rate_hz']:.4g}", info["signal"], info["trials"], flagged])
        except (DamagedFileError, QfError) as error:
            damaged.append(error)
    if rows:
        print(pd.DataFrame(rows, columns=["session", "neurons", "minutes", "Hz", "signal", "trials", "flagged"]).to_string(index=False))
    elif not damaged:
        print(f"{store.path} holds no session yet.")
    for error in damaged:
        print(f"qf: {error}", file=sys.stderr)
    if damaged:
        return 2
    index = store.index
    if len(index):
        table = index.groupby("stimulus").agg(sessions=("session", "nunique"), trials=("trial", "size"), conditions=("condition", "nunique"))
        print(f"\n{table.to_string()}")
    return 0


# ---------------------------------------------------------------- models


def _settings(args, base):
    """The window and split options: those given, over those in `base`."""
    given = {n: getattr(args, n, None) for n in base}  # not every one has an option
    return {n: given[n] if given[n] is not None else default for n, default in base.items()}


def _trials(store, settings):
    from .recordings.store import Store

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
    from .recordings.splits import split_blocks, split_chronological

    trials = _trials(store, settings)
    test, validation = settings["test"], settings["validation"]
    if settings["split"] == "chronological":
        return split_chronological(trials, 1 / 3 if test is None else test, validation, settings["gap_s"])
    if settings["gap_s"] is not None:
        raise QfError("--gap: expected only with --split chronological; blocks are apart as recorded. Leave it out.")
    if test is not None and test != int(test):
        raise QfError(f"--test: expected the position of a block with --split blocks, found {test:g}. Give a whole number, -1 is the last.")
    return split_blocks(trials, -1 if test is None else int(test), validation)


def _run_of(folder, store):
    """The options a saved model was trained with; of one saved from Python the window and the conditions are known."""
    from .training.notes import run_settings

    if (settings := run_settings(folder)) is not None:
        return settings
    from dataclasses import asdict

    from .training.saving import load

    model = load(folder, device="cpu")
    window = asdict(model.window)
    settings = {**TRIALS, **SPLIT, **{n: window[n] for n in TRIALS if n in window}}
    if hasattr(model, "tokens"):
        from .recordings.store import Store

        present = Store(store).index["condition"]
        if lacking := set(model.tokens.lacking(present)):
            settings["condition"] = sorted(set(present) - lacking) or None
    return settings


def _finish(model, args, settings):
    from .training.reference import line

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
    from .training.device import pick_device
    from .training.pretrain import pretrain

    device = pick_device(args.device)
    settings = _settings(args, {**TRIALS, **SPLIT})
    split = make_split(args.store, settings)
    print(split)
    _finish(pretrain(split, device=device, **options, **_how(args)), args, settings)


def _fit(args):
    options = training_options(args)
    for name, task in {"expectation_weight": "forecast", "decode": "forecast", "gain_weight": "activation"}.items():
        if name in options and args.task != task:
            raise QfError(f"--{name.replace('_', '-')}: expected only with --task {task}. Leave it out.")
    from .training.notes import read_note

    if (kind := read_note(args.pretrained)["kind"]) != "autoencoder":
        raise QfError(f"--pretrained: expected what `qf pretrain` saved, found a {kind} in {args.pretrained}. Give the model it was fitted on.")
    from .training.activation import fit_classifier
    from .training.response import fit_forecaster
    from .training.saving import load

    model = load(args.pretrained, device=args.device)
    settings = _settings(args, _run_of(args.pretrained, args.store))
    split = make_split(args.store, settings)
    print(split)
    fit = fit_forecaster if args.task == "forecast" else fit_classifier
    _finish(fit(model, split, **options, **_how(args)), args, settings)


def _forecast(args):
    from .recordings.store import _file_name
    from .training.pretrain import Autoencoder
    from .training.response import QuantFormerForecaster
    from .training.saving import load

    model = load(args.model)
    if isinstance(model, Autoencoder):
        raise QfError(f"--model: expected what `qf fit` saved, found a pre-trained auto-encoder in {args.model}. Fit it to a task first.")
    if args.decode is not None:
        if not isinstance(model, QuantFormerForecaster):
            raise QfError(f"--decode: expected a forecaster, found a {type(model).__name__} in {args.model}. Leave it out.")
        model.decode = args.decode
    settings = _settings(args, _run_of(args.model, args.store))
    # the model brings its own z-scores, so that all trials need no split
    trials = _trials(args.store, settings) if args.part == "all" else getattr(make_split(args.store, settings), args.part)
    model.prepare(trials)  # whatever doesn't fit is told before the first file
    out, parts = Path(args.out), trials.by_session()
    folder = out.with_suffix("") if out.suffix == ".nc" else out
    for part in _progress(parts, args, "forecast", "session"):
        file = out if len(parts) == 1 else folder / _file_name(part.sessions[0])
        write_netcdf(model.predict(part), file)
    print(f"{len(trials)} trials forecast: {out if len(parts) == 1 else f'{len(parts)} files in {folder}'}")


def _evaluate(args):
    from .demo import report
    from .training.pretrain import Autoencoder
    from .training.saving import load

    models = [load(folder) for folder in args.model]
    for folder, model in zip(args.model, models, strict=True):
        if isinstance(model, Autoencoder):
            raise QfError(f"--model: expected what `qf fit` saved, found a pre-trained auto-encoder in {folder}. Fit it to a task first.")
    rows = [(type(m), m.name) for m in models]
    for folder, model, row in zip(args.model, models, rows, strict=True):
        if rows.count(row) > 1:
            model.name = f"{model.name} ({folder})"
    split = make_split(args.store, _settings(args, _run_of(args.model[0], args.store)))
    print(split)
    report(
        models,
        split,
        out=args.out,
        figures=args.figures,
        ceiling=args.ceiling,
        n_samples=args.samples,
        bootstrap=args.bootstrap,
        progress=not args.quiet,
    )


def _demo(args):
    from .demo import demo

    demo(args.out, size=args.size, seed=args.seed, device=args.device, progress=not args.quiet, data=args.data)


def _figures(args):
    from .figures import INDEX, make_figures

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
    "info": _info,
    "pretrain": _pretrain,
    "fit": _fit,
    "forecast": _forecast,
    "evaluate": _evaluate,
    "demo": _demo,
    "figures": _figures,
}


if __name__ == "__main__":
    sys.exit(main())
