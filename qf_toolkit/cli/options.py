"""What each command of `qf` takes: the library's dataclasses of options, and what only a shell needs beside them."""

from collections.abc import Callable
from dataclasses import dataclass

from ..benchmark.options import CALM_TABLES, CALM_WINDOW, NETWORK_WINDOW, OWN_WINDOW, TABLES, BenchmarkOptions, GridOptions
from ..estimators.calm.options import ADAPT_LOOP, POPULATION_LOOP, QUANTIZER_LOOP, CalmConfig, TracesConfig
from ..estimators.decoding.options import DECODERS, HEAD_LOOP, OVER_STATES, HeadOptions, TraceOptions
from ..estimators.network_options import TELLING, NetworkConfig
from ..estimators.quantformer.options import FitConfig, PretrainConfig
from ..estimators.registry import MODELS, PRETRAINING, find
from ..evaluation.options import EvaluateOptions
from ..models.calm_config import DualAxisConfig, QuantizerConfig
from ..models.config import DECODINGS, QuantFormerConfig
from ..models.options import REQUIRED, Options, defaults, option
from ..recordings.importers.options import (
    AllenChoice,
    AllenOptions,
    AllenPlace,
    ArraysOptions,
    ManyOptions,
    NwbOptions,
    Suite2pOptions,
)  # fmt: skip
from ..recordings.options import SETTINGS
from ..recordings.simulated.options import SIMULATED, SimulateOptions
from ..study.options import REPORT_SAMPLES, DemoOptions, FiguresOptions, TablesOptions
from ..training.options import FIT_LOOP, LoopConfig, RunConfig
from .parsing import Group, value_of

KINDS = {"nwb": NwbOptions, "allen": AllenOptions, "suite2p": Suite2pOptions, "arrays": ArraysOptions}
TASKS = ("forecast", "activation")
FROM_TRIALS = ("rate_hz", "n_baseline", "n_response")  # of QuantFormerConfig


@dataclass(frozen=True)
class Common(Options):
    """What every command takes."""

    progress: bool = option(True, "flag", off="quiet", help="show progress bars")
    config: str | None = option(
        None, "path", optional=True, help="options from a file, JSON or YAML, or from a saved model's folder; those given here win"
    )


@dataclass(frozen=True)
class StorePlace(Options):
    """The recordings."""

    store: str = option(REQUIRED, "path", place="STORE", help="folder of the recordings")


@dataclass(frozen=True)
class SimulateWhat(Options):
    """What is simulated."""

    kind: str = option(
        "cortex",
        "text",
        known=tuple(SIMULATED),
        help="cortex: a visual cortex that sees the Allen protocol; network: animals whose neurons form chaotic networks",
    )


@dataclass(frozen=True)
class InfoPlace(StorePlace):
    """What is shown."""

    session: str | None = option(None, "text", optional=True, place="SESSION", help="key subject/session")


@dataclass(frozen=True)
class ImportPlace(Options):
    """What is imported, and where to."""

    kind: str = option(REQUIRED, "text", known=tuple(KINDS), place="KIND", help="what the sources are: nwb, allen, suite2p, arrays")
    sources: tuple = option((), "path", several=True, place="SOURCE", help="NWB 2 files or folders of them; suite2p folders; .npy or .npz files")
    store: str = option(REQUIRED, "path", help="folder of the store, made where missing")


@dataclass(frozen=True)
class AllenFiles(AllenOptions):
    """Session files of Visual Coding, and what is read of them."""

    files: tuple | None = option(None, "path", optional=True, several=True, help="session files (NWB 1.0) or folders of them; no cache, no network")


@dataclass(frozen=True)
class AllenList(Options):
    """What is listed."""

    what: str = option(REQUIRED, "text", known=("list",), place="WHAT", help="list: a table of what can be imported")
    sessions: bool = option(False, "flag", help="a row a session instead of a container")


@dataclass(frozen=True)
class Overwrite(Options):
    """What may be replaced."""

    overwrite: bool = option(False, "flag", help="write also where there is something that qf did not write")


@dataclass(frozen=True)
class ModelOut(Overwrite):
    """Where the model is kept."""

    out: str = option(REQUIRED, "path", help="folder of the model; the same command again goes on there")


@dataclass(frozen=True)
class Pretrained(Options):
    """What a fit starts from."""

    pretrained: str = option(REQUIRED, "path", help="what `qf pretrain` saved")


@dataclass(frozen=True)
class MaybePretrained(Options):
    """What a fit starts from, if it does not start from scratch."""

    pretrained: str | None = option(
        None, "path", optional=True, help="what `qf pretrain --model` saved; of calm also what `qf fit` saved, of brainlm a published checkpoint"
    )


@dataclass(frozen=True)
class PretrainWhat(Options):
    """What is pre-trained."""

    model: str = option(
        "quantformer", "text", known=("quantformer", "calm", *PRETRAINING), help="each has options of its own: see qf pretrain --model NAME --help"
    )


@dataclass(frozen=True)
class FitWhat(Options):
    """What is fitted."""

    task: str = option("forecast", "text", known=TASKS, help="forecast the response, or say whether it is active")
    model: str = option(
        "quantformer", "text", known=("quantformer", "calm", *MODELS), help="each has options of its own: see qf fit --model NAME --help"
    )


@dataclass(frozen=True)
class ForecastWhat(Overwrite):
    """What is forecast."""

    model: str = option(REQUIRED, "path", help="folder of a fitted model")
    out: str = option(REQUIRED, "path", help="netCDF file; of several sessions a file each, in a folder of that name")
    part: str = option("test", "text", known=("test", "validation", "train", "all"), help="of the split")
    decode: str | None = option(None, "text", known=DECODINGS, optional=True, help="how codes become traces; the model's own where left out")


@dataclass(frozen=True)
class DecodeWhat(Options):
    """What is decoded, and how."""

    variables: tuple = option(
        (), "text", several=True, place="VARIABLE", help="behaviours, or one column of the trials: a feature, stimulus, condition or block"
    )
    decoder: str = option(DECODERS[0], "text", known=DECODERS, help="each has options of its own: see qf decode --decoder NAME --help")
    backbone: str | None = option(None, "path", optional=True, help="backbone, probe: folder of the fitted model whose states are read")


@dataclass(frozen=True)
class EvaluateWhat(Overwrite):
    """What is compared."""

    model: tuple = option(
        (), "path", several=True, help="folders of fitted models; the first one's window and split are used (none: the naive rows alone)"
    )
    out: str | None = option(None, "path", optional=True, help="write the table (CSV), and beside it a .json that says where it comes from")


@dataclass(frozen=True)
class BenchmarkWhat(Overwrite):
    """Which table, of what, and where to."""

    table: str = option(REQUIRED, "text", known=TABLES, place="TABLE", help=", ".join(TABLES))
    store: str | None = option(None, "path", optional=True, help="folder of the recordings; mice or networks are simulated where left out")
    out: str = option("benchmark", "path", help="folder of results, models and tables; the same command again goes on there")
    plan: bool = option(False, "flag", help="show the runs, and make none")


@dataclass(frozen=True)
class ReportWhat(Overwrite):
    """What the page shows, and where it is written."""

    out: str = option("report.html", "path", help="the page, one HTML file that needs no network")
    model: tuple = option(
        (), "path", several=True, help="folders of fitted forecasters, shown beside the naive rows; the first one's window and split are used"
    )


@dataclass(frozen=True)
class DemoOut(Options):
    """Where it is kept."""

    out: str = option("demo", "path", help="folder of everything it makes")


@dataclass(frozen=True)
class FiguresOut(Options):
    """Where they are kept."""

    out: str = option("figures", "path", help="folder; the page is index.html in it")


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes
    ----------
    about : str
        What it does, in a few words.
    example : str
    run : str
        `module:function` below cli, which takes its Arguments.
    groups : callable
        Its groups of options; takes the arguments, since some decide which options there are.
    under : callable
        The argument that stands for a command of its own, "nwb" of `qf import nwb`; takes the arguments, gives "" where there is none.
    """

    about: str
    example: str
    run: str
    groups: Callable
    under: Callable = lambda argv: ""


def _window_groups(note="What is left out is as in the model's training."):
    return [Group(name, kind, note=note) for name, kind in zip(("trials", "window", "sliding", "split"), SETTINGS, strict=True)]


def _pretrain(argv):
    model = value_of(argv, "--model") or _filed(argv, "model")
    if model == "calm":
        own = [
            Group("model", QuantizerConfig), Group("traces", TracesConfig), Group("network", NetworkConfig, (*TELLING, "most_neurons")),
            Group("training", LoopConfig, own=QUANTIZER_LOOP),
        ]  # fmt: skip
    elif model not in PRETRAINING:
        own = [Group("observations", PretrainConfig), Group("training", LoopConfig), Group("model", QuantFormerConfig, (*FROM_TRIALS, "stim_token"))]
    else:
        own = [Group("model", find(MODELS, model).Config), Group("network", NetworkConfig, TELLING), Group("training", LoopConfig)]
    return [Group("", StorePlace), Group("", PretrainWhat), Group("", ModelOut), *_window_groups(), *own, RUN]


def fit_options(model):
    """What fitting a model takes beside the training: its own options, by its name in the registry.

    Parameters
    ----------
    model : str

    Returns
    -------
    list of Group
    """
    if model == "calm":
        return [Group("", MaybePretrained), Group("model", DualAxisConfig), Group("forecast", CalmConfig), Group("network", NetworkConfig)]
    if model not in MODELS:
        return [Group("", Pretrained), Group("fit", FitConfig)]
    start = [Group("", MaybePretrained)] if model in PRETRAINING else []
    return [*start, Group("model", find(MODELS, model).Config), Group("network", NetworkConfig)]


def _fit(argv):
    model = value_of(argv, "--model") or _filed(argv, "model") or FitWhat.model
    window = _window_groups("What is left out is as in pre-training.") if model == FitWhat.model else _window_groups("")
    usual = FIT_LOOP if model != "calm" else ADAPT_LOOP if (value_of(argv, "--tuning") or _filed(argv, "tuning")) == "embeddings" else POPULATION_LOOP
    loop = Group("training", LoopConfig, own=usual)
    return [Group("", StorePlace), Group("", FitWhat), Group("", ModelOut), *fit_options(model), loop, *window, RUN]


def _benchmark(argv):
    table = next((word for word in argv if word in TABLES), "")
    usual = OWN_WINDOW if table not in CALM_TABLES else CALM_WINDOW if value_of(argv, "--store") or _filed(argv, "store") else NETWORK_WINDOW
    window = [Group(g.title, g.kind, own={n: v for n, v in usual.items() if n in defaults(g.kind)}) for g in _window_groups("")]
    return [Group("", BenchmarkWhat), Group("runs", BenchmarkOptions), Group("grid", GridOptions), *window]


def _decode(argv):
    decoder = value_of(argv, "--decoder") or _filed(argv, "decoder") or DecodeWhat.decoder
    own = [Group("traces", TraceOptions)]
    if decoder in OVER_STATES:
        loop = Group("training", LoopConfig, ("token_speed",), HEAD_LOOP)
        own = [Group("head", HeadOptions), loop, Group("run", RunConfig, ("progress", "memory_mb", "checkpoint_s", "resume"))]
    window = _window_groups("What is left out is as in the backbone's training." if decoder in OVER_STATES else "")
    return [Group("", StorePlace), Group("", DecodeWhat), Group("", ModelOut), *own, *window]


def _filed(argv, name):
    """The value of an option in the file of options; None if there is no file, or it does not name it."""
    from .config import read_config

    file = value_of(argv, "--config")
    return None if file is None else read_config(file).get(name)


def _kind(argv):
    """The kind of what is imported; a word behind an option is taken for its value, unless there is no other."""
    named = [text for before, text in zip(["", *argv], argv, strict=False) if text in KINDS and not before.startswith("--")]
    return (named or [text for text in argv if text in KINDS] or [""])[0]


def _import(argv):
    kind = _kind(argv)
    groups = [Group("", ImportPlace), Group("", ManyOptions)]
    if kind == "allen":
        return [*groups, Group("files", AllenFiles), Group("choice", AllenChoice), Group("cache", AllenPlace)]
    return [*groups, Group(kind, KINDS[kind])] if kind else groups


RUN = Group("run", RunConfig, ("progress",))
NO_REPORT = ("naive", "ceiling", "ceiling_samples", "shrinkage")  # of EvaluateOptions
COMMANDS = {
    "simulate": Command(
        "record simulated animals with known truth",
        "qf simulate data/sim --neurons 40 --sessions A B --seed 1\n  qf simulate data/network --kind network --subjects 4", "commands:simulate_recording",
        lambda argv: [Group("", StorePlace), Group("", SimulateWhat), Group("simulation", SIMULATED.get(value_of(argv, "--kind") or "", SimulateOptions))],
    ),
    "import": Command(
        "import recordings into a store", "qf import nwb recordings/*.nwb --store data/store\n  qf import nwb --help", "importing:import_recordings", _import, _kind,
    ),
    "allen": Command(
        "list the containers and sessions of the Allen Brain Observatory", "qf allen list --area VISp --depth 175", "importing:list_allen",
        lambda argv: [Group("", AllenList), Group("choice", AllenChoice), Group("cache", AllenPlace)],
    ),
    "info": Command("show what a store or one session holds", "qf info data/store mouse1/day1", "info:show_info", lambda argv: [Group("", InfoPlace)]),
    "pretrain": Command(
        "train the auto-encoder on the training part", "qf pretrain data/store --out runs/base --f0 1 --epochs 20", "commands:pretrain_model", _pretrain
    ),
    "fit": Command(
        "fit a forecaster or an activation classifier", "qf fit data/store --pretrained runs/base --task forecast --out runs/forecast\n"
        "  qf fit data/store --model nlinear --out runs/nlinear", "commands:fit_model", _fit,
    ),
    "forecast": Command(
        "write a model's predictions as netCDF", "qf forecast data/store --model runs/forecast --out forecasts.nc --part test", "commands:write_forecasts",
        lambda argv: [Group("", StorePlace), Group("", ForecastWhat), *_window_groups()],
    ),
    "evaluate": Command(
        "compare models with the naive forecasters on the test part", "qf evaluate data/store --model runs/forecast", "commands:evaluate_models",
        lambda argv: [Group("", StorePlace), Group("", EvaluateWhat), Group("tables", TablesOptions), Group("scores", EvaluateOptions), *_window_groups()],
    ),
    "decode": Command(
        "decode behaviour, or a category of the trials, and score it on the test part",
        "qf decode data/store running_speed pupil --out runs/ridge --signal zscore\n  qf decode data/store orientation --decoder svm --out runs/svm",
        "decoding:decode_variables", _decode,
    ),
    "report": Command(
        "say on one page how far ahead and how surely a recording can be forecast", "qf report data/store --out report.html", "commands:report_recording",
        lambda argv: [Group("", StorePlace), Group("", ReportWhat), Group("scores", EvaluateOptions, NO_REPORT, {"n_samples": REPORT_SAMPLES}), *_window_groups("")],
    ),
    "benchmark": Command(
        "make a table of the paper: every model on every subject and stimulus", "qf benchmark table2 --size small --workers 2 --out runs/benchmark",
        "benchmark:run_benchmark", _benchmark,
    ),
    "demo": Command(
        "simulate, train, forecast and evaluate, in some minutes", "qf demo --out demo --size small", "commands:run_demo",
        lambda argv: [Group("", DemoOut), Group("", DemoOptions)],
    ),
    "figures": Command(
        "run the notebooks and gather their figures on one page", "qf figures --fast --out figures", "commands:gather_figures",
        lambda argv: [Group("", FiguresOut), Group("", FiguresOptions)],
    ),
}  # fmt: skip
