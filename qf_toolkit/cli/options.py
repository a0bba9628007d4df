"""The options of `qf`, with an example under every --help."""

import argparse
from dataclasses import fields

from .._version import __version__
from ..estimators.quantformer.options import FitConfig, PretrainConfig
from ..models.config import QuantFormerConfig
from ..training.options import LoopConfig, check_device
from .parsing import Parser, flags

FROM_TRIALS = ("rate_hz", "n_baseline", "n_response")
# what each training takes: names of fields that it leaves out, by dataclass
TRAININGS = {
    "pretrain": {LoopConfig: ("token_speed",), PretrainConfig: (), QuantFormerConfig: (*FROM_TRIALS, "stim_token")},
    "fit": {LoopConfig: (), FitConfig: ()},
}

# one option a line reads better than what the formatter makes of it
# fmt: off


def build_parser(readers, run):
    """The parser of `qf`.

    Parameters
    ----------
    readers : sequence of str
        Kinds of recordings that can be imported.
    run : mapping of str to callable
        Command to the function that runs it, which lands in `run` of the parsed options.

    Returns
    -------
    argparse.ArgumentParser
    """
    top = Parser(
        prog="qf", description="Forecast neural activity from two-photon calcium recordings.", formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  qf simulate store\n  qf pretrain store --out runs/base\n"
        "  qf fit store --pretrained runs/base --task forecast --out runs/forecast\n  qf evaluate store --model runs/forecast --out table.csv",
    )
    top.add_argument("--version", action="version", version=f"qf {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = []

    def command(name, text, example):
        p = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        p.set_defaults(run=run[name])
        parsers.append(p)
        p.add_argument("--quiet", action="store_true", help="no progress bars")
        return p

    p = command("simulate", "record a simulated visual cortex with known truth", "qf simulate data/sim --neurons 40 --sessions A B --seed 1")
    p.add_argument("store", metavar="STORE", help="folder, made where missing")
    p.add_argument("--sessions", nargs="+", choices=("A", "B", "C", "C2"), default=["A"], help="A drifting gratings; B images, static gratings; C noise, C2 of two grids")
    p.add_argument("--neurons", dest="n_neurons", type=int, metavar="N", help="how many (60)")
    p.add_argument("--repeats", type=int, metavar="N", help="repeats of a drifting grating (15)")
    p.add_argument("--directions", type=int, metavar="N", help="directions of the drifting gratings (8)")
    p.add_argument("--temporal-frequencies", type=int, metavar="N", help="temporal frequencies of the drifting gratings (5)")
    p.add_argument("--image-repeats", type=int, metavar="N", help="repeats of an image or static grating (50)")
    p.add_argument("--subject", default="sim1", help="another name is another mouse (sim1)")
    p.add_argument("--seed", type=int, default=0, help="the same seed gives the same bits (0)")

    p = command("import", "import recordings into a store", "qf import nwb recordings/*.nwb --store data/store")
    p.add_argument("kind", choices=tuple(readers), metavar="{" + ",".join(readers) + "}", help="what the sources are")
    p.add_argument("sources", nargs="*", metavar="SOURCE", help="NWB 2 files or folders of them; suite2p folder; .npy or .npz (allen: see below)")
    p.add_argument("--store", required=True, help="folder, made where missing")
    p.add_argument("--workers", type=int, metavar="N", help="processes that import side by side (as many as there are cores, for many files)")
    p.add_argument("--scheduler", nargs="?", const="local", metavar="ADDRESS", help="a Dask cluster instead, tcp://...; without an address one of its own")
    p.add_argument("--rate", dest="rate_hz", type=float, metavar="HZ", help="frames a second (suite2p, arrays)")
    table = p.add_mutually_exclusive_group()
    table.add_argument("--trials", metavar="CSV", help="a row a trial, onset_frame or onset_s; for nwb the name of a table, where there are several")
    table.add_argument("--no-trials", dest="trials", action="store_const", const=False, help="nwb: a continuous recording, whatever tables there are")
    p.add_argument("--subject", help="name of the animal")
    p.add_argument("--session", help="name of the recording")
    p.add_argument("--signal", choices=("fluorescence", "dff"), help="arrays: what they are (fluorescence); nwb: which, where both are there")
    p.add_argument("--all-rois", dest="iscell", action="store_const", const=False, help="suite2p: keep what is no cell by iscell.npy, too")
    p.add_argument("--neuropil", type=float, metavar="FACTOR", help="suite2p: F - FACTOR * Fneu (0.7)")
    p.add_argument("--stimulus", help="nwb, arrays: stimulus category of all trials")
    p.add_argument("--condition-columns", nargs="+", metavar="COLUMN", help="columns of the trial table that make the condition (all but counters)")
    p.add_argument("--plane", help="nwb, suite2p: one of several planes")
    p.add_argument("--orientation", metavar="DIMS", help="arrays: order of the dims, neuron,frame or frame,neuron (the longer one is taken for frames); "
                   "of sweeps trial,neuron,time in any order")
    p.add_argument("--key", help="arrays: name of the array inside an .npz file")
    p.add_argument("--sweep-frames", type=int, metavar="N", help="arrays: they are cut trials (sweeps) of N frames, one after another")
    p.add_argument("--sweep-onset", type=_seconds_or_name, metavar="S", help="arrays: seconds from the beginning of a sweep to its onset, or the array of an "
                   ".npz file that holds the seconds of a sweep's frames, 0 at the onset")
    p.add_argument("--frame-time", metavar="NAME", help="arrays: seconds of the frames, an array of the .npz file, or a .npy or CSV file")
    p.add_argument("--behaviour", nargs="*", metavar="NAME", help="nwb: series of behaviour to bring in (all that can be; none where no name follows); "
                   "arrays: arrays of the .npz file")
    p.add_argument("--matched", action="store_true", default=None, help="nwb, arrays: a cell of that name is the same cell in every session")
    p.add_argument("--overwrite", action="store_true", help="replace sessions that are in the store")
    p.add_argument("--allow-external", action="store_true", default=None, help="nwb, allen: read data that a file keeps in other files (none)")
    g = _add_allen(p, "Visual Coding sessions: by their containers (downloaded once, then kept), from an existing cache, or from loose files.")
    g.add_argument("--files", nargs="+", metavar="PATH", help="session files (NWB 1.0) or folders of them; no cache, no network")
    g.add_argument("--traces", choices=("corrected", "raw", "demixed", "dff"), help="which traces (corrected for neuropil)")

    p = command("allen", "list the containers and sessions of the Allen Brain Observatory", "qf allen list --area VISp --depth 175")
    p.add_argument("what", choices=("list",), help="list: a table of what can be imported")
    p.add_argument("--sessions", action="store_true", help="a row a session instead of a container")
    _add_allen(p, "Left out, all of them.")

    p = command("info", "show what a store or one session holds", "qf info data/store mouse1/day1")
    p.add_argument("store", metavar="STORE")
    p.add_argument("session", nargs="?", metavar="SESSION", help="key subject/session")

    p = command("pretrain", "train the auto-encoder on the training part", "qf pretrain data/store --out runs/base --f0 1 --epochs 20")
    p.add_argument("store", metavar="STORE")
    _add_model_out(p)
    _add_window(p)
    _add_training(p, "pretrain", epochs=50, lr=1e-4)

    p = command("fit", "fit a forecaster or an activation classifier", "qf fit data/store --pretrained runs/base --task forecast --out runs/forecast")
    p.add_argument("store", metavar="STORE")
    p.add_argument("--pretrained", required=True, metavar="DIR", help="what `qf pretrain` saved")
    p.add_argument("--task", choices=("forecast", "activation"), default="forecast")
    _add_model_out(p)
    _add_window(p)
    _add_training(p, "fit", epochs=100, lr=1e-3)

    p = command("forecast", "write a model's predictions as netCDF", "qf forecast data/store --model runs/forecast --out forecasts.nc --part test")
    p.add_argument("store", metavar="STORE")
    p.add_argument("--model", required=True, metavar="DIR")
    p.add_argument("--out", required=True, metavar="FILE", help="netCDF; of several sessions a file each, in a folder of that name")
    p.add_argument("--part", choices=("test", "validation", "train", "all"), default="test")
    p.add_argument("--decode", choices=("soft", "argmax", "sample"), help="how codes become traces; the model's own where left out")
    add_overwrite(p)
    _add_window(p)

    p = command("evaluate", "compare models with the naive forecasters on the test part", "qf evaluate data/store --model runs/forecast")
    p.add_argument("store", metavar="STORE")
    p.add_argument("--model", nargs="+", default=[], metavar="DIR", help="one or several; the first one's window and split are used (none: the naive rows alone)")
    p.add_argument("--out", metavar="CSV", help="write the table, and beside it a .json that says where it comes from")
    p.add_argument("--figures", metavar="DIR", help="write forecasts beside the truth, svg and png")
    p.add_argument("--samples", dest="n_samples", type=int, default=0, metavar="N", help="draws of each forecast, for crps and coverage_90 (0: none)")
    p.add_argument("--bootstrap", action="store_true", help="how sure each difference to the naive rows is: animals, sessions and blocks of trials are drawn")
    p.add_argument("--ceiling", action="store_true", help="add the best possible forecast (simulated data alone)")
    add_overwrite(p)
    _add_window(p)

    p = command("demo", "simulate, train, forecast and evaluate, in some minutes", "qf demo --out demo --size small")
    p.add_argument("--out", default="demo", metavar="DIR")
    p.add_argument("--size", choices=("full", "small", "tiny"), default="full")
    p.add_argument("--data", choices=("simulated", "allen"), default="simulated", help="allen: four stimuli, from Visual Coding files of a simulated mouse")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="auto", help="auto, cpu, cuda...")

    p = command("figures", "run the notebooks and gather their figures on one page", "qf figures --fast --out figures")
    size = p.add_mutually_exclusive_group()
    size.add_argument("--fast", dest="fast", action="store_true", default=True, help="small models, minutes on a CPU (this is the default)")
    size.add_argument("--full", dest="fast", action="store_false", help="the paper's sizes and lengths; for a GPU")
    p.add_argument("--store", metavar="STORE", help="the recordings (a simulated mouse)")
    p.add_argument("--out", default="figures", metavar="DIR", help="the page is index.html in it")
    p.add_argument("--study", metavar="DIR", help="models that the notebooks share, trained where missing (study_fast or study_full in --out)")
    p.add_argument("--notebooks", default="notebooks", metavar="DIR", help="folder of the .ipynb files (notebooks)")
    p.add_argument("--only", nargs="+", metavar="NAME", help="beginnings of their names, 06 07 say; the others' figures stay on the page")
    p.add_argument("--seed", type=int, default=0)
    for p in parsers:
        p.set_defaults(flags=flags(p))
    return top


def _add_model_out(p):
    p.add_argument("--out", required=True, metavar="MODEL_DIR", help="folder; the same command again goes on there")
    add_overwrite(p)


def add_overwrite(p):
    """Add `--overwrite` to a command whose outputs `claim_output` checks."""
    p.add_argument("--overwrite", action="store_true", help="write also where there is something that qf did not write")


def _add_allen(p, text):
    g = p.add_argument_group("allen", text)
    g.add_argument("--container", nargs="+", type=int, metavar="ID", help="experiment containers")
    g.add_argument("--paper", action="store_true", help="the 11 containers of the QuantFormer paper")
    g.add_argument("--type", dest="types", nargs="+", choices=("A", "B", "C", "C2"), help="sessions of these types (all)")
    g.add_argument("--area", nargs="+", metavar="NAME", help="visual areas, for example VISp")
    g.add_argument("--cre-line", nargs="+", metavar="NAME", help="driver lines, for example Cux2-CreERT2")
    g.add_argument("--depth", dest="depth_um", nargs="+", type=int, metavar="UM", help="imaging depths, micrometres")
    g.add_argument("--cache", metavar="DIR", help="where downloads are kept (data/allen)")
    g.add_argument("--manifest", metavar="PATH", help="manifest.json of an existing cache: nothing is asked of the network")
    g.add_argument("--url", help="another server than the Allen Institute's, for example a mirror")
    return g


def _seconds_or_paper(text):
    try:
        return text if text == "paper" else float(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"expected seconds or paper, found {text!r}") from e


def _seconds_or_name(text):
    try:
        return float(text)
    except ValueError:
        return text


def _add_window(p):
    g = p.add_argument_group("window and split", "Left out, they are those the model was trained with; for `pretrain` the value in brackets.")
    g.add_argument("--stimulus", nargs="+", metavar="NAME", help="stimulus categories (all)")
    g.add_argument("--condition", nargs="+", metavar="KEY", help="conditions, stimulus/feature=value,... (all)")
    g.add_argument("--session", nargs="+", metavar="KEY", help="sessions, subject/session (all)")
    g.add_argument("--subject", nargs="+", metavar="NAME", help="subjects (all)")
    g.add_argument("--baseline", dest="baseline_s", type=float, metavar="S", help="seconds before the onset (3)")
    g.add_argument("--response", dest="response_s", type=float, metavar="S", help="seconds from the onset on (2)")
    g.add_argument("--f0", dest="f0_s", type=float, metavar="S", help="F0 is the mean of the baseline's last S seconds (2)")
    g.add_argument("--score", dest="score_s", type=_seconds_or_paper, metavar="S", help="part of the response that is labelled and scored (all of it); "
                   "paper: 2 s for drifting gratings, 0.5 s for images, static gratings and noise")
    g.add_argument("--signal", choices=("dff", "zscore"), help="what is forecast (dff)")
    g.add_argument("--split", choices=("blocks", "chronological"), help="test on a block, or on the end of every session (blocks)")
    g.add_argument("--test", type=float, metavar="X", help="position of the test block (-1, the last), or share of the trials (1/3)")
    g.add_argument("--validation", type=float, metavar="SHARE", help="end of each training block (0.15)")
    g.add_argument("--gap", dest="gap_s", type=float, metavar="S", help="chronological: seconds between training and test (a window)")


def _add_training(p, command, **own):
    """The options of a training; `own` defaults instead of the dataclasses'."""
    titles = {LoopConfig: "training", PretrainConfig: "observations", QuantFormerConfig: "model", FitConfig: "fit"}
    for kind, without in TRAININGS[command].items():
        g = p.add_argument_group(titles[kind])
        for f in fields(kind):
            if f.name not in without:
                _add_option(g, f, own.get(f.name, f.default))
    g = p.add_argument_group("run")
    g.add_argument("--device", default="auto", help="auto, cpu, cuda...")
    how = g.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on from a checkpoint in --out where there is one (this is the default)")
    how.add_argument("--fresh", action="store_true", help="start anew")


def _add_option(group, f, default):
    allowed, text = f.metadata["range"], f.metadata["help"].replace("%", "%%")
    if default is not None:
        text += f" ({default:g})" if allowed.kind == "number" else f" ({default})"
    if allowed.kind == "flag":
        group.add_argument(_flag(f), dest=f.name, action=argparse.BooleanOptionalAction, default=None, help=text)
        return
    kind = {"number": float, "whole": int, "text": str}[allowed.kind]
    group.add_argument(_flag(f), dest=f.name, type=kind, choices=allowed.known or None, metavar=None if allowed.known else "X", help=text)


def _flag(f):
    return "--" + (f.metadata["flag"] or f.name).replace("_", "-")


def training_options(args):
    """The options of a training that were given, each in its range.

    Parameters
    ----------
    args : argparse.Namespace
        Of the command pretrain or fit.

    Returns
    -------
    dict

    Raises
    ------
    QfError
        Naming the option, its range and what was given.
    """
    found = {}
    check_device(args.device)
    for kind, without in TRAININGS[args.command].items():
        for f in fields(kind):
            if f.name not in without and (value := getattr(args, f.name)) is not None:
                found[f.name] = f.metadata["range"].checked(_flag(f), value)
    return found
