"""Options stand in one place: Python, the shell and files refuse the same values with the same line, and the shell reaches every one."""

import ast
import inspect
import json
import textwrap
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from helpers import refused, toy_session
from hypothesis import given
from hypothesis import strategies as st

import qf_toolkit as qf
from qf_toolkit.cli.main import main
from qf_toolkit.cli.options import COMMANDS
from qf_toolkit.errors import QfError
from qf_toolkit.estimators.network import fit_network
from qf_toolkit.estimators.pretrained_network import pretrain_network
from qf_toolkit.estimators.registry import MODELS
from qf_toolkit.models.options import Options, Range
from qf_toolkit.recordings.importers.arrays import read_arrays
from qf_toolkit.recordings.options import SplitOptions
from qf_toolkit.recordings.simulated.network import simulate_network
from qf_toolkit.recordings.sliding import slide
from qf_toolkit.recordings.splits import split_by
from qf_toolkit.recordings.trials import cut
from qf_toolkit.study.demo import demo
from qf_toolkit.study.notebook_page import make_figures
from qf_toolkit.training.options import LoopConfig, RunConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*is not below that of the mean", "ignore:split. block", "ignore:.*left out")
PACKAGE = Path(qf.__file__).parent
SMALL = ["--f0", "1", "--epochs", "1", "--patch-frames", "10", "--layers", "1", "--width", "16", "--heads", "2", "--codes", "8", "--quiet"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("options") / "store"
    for seed, subject in enumerate(("mouse", "rat")):
        qf.Store(path, create=True).add(toy_session(seed, n_conditions=2, subject=subject))
    return path


@pytest.fixture(scope="module")
def base(store):
    """A model that many options made, none of them the default."""
    out = store.parent / "base"
    how = [
        "--neurons",
        "mouse/one/0",
        "mouse/one/1",
        "rat/one/2",
        "--active-rule",
        "abs_dff",
        "--active-gain",
        "0.2",
        "--seed",
        "3",
        "--no-bf16",
        "--clip",
        "0.5",
    ]
    assert main(["pretrain", str(store), "--out", str(out), *SMALL, *how]) == 0
    return out


def modules():
    """Every module of options, and what it holds: dataclasses whose fields are made with `option`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(["qf_toolkit", *path.relative_to(PACKAGE).with_suffix("").parts])
        if path.stem in ("options", "config", "calm_config") or (path.parent.name == "baselines" and path.stem != "__init__"):
            module = import_module(name)
            yield (
                path,
                [k for k in vars(module).values() if isinstance(k, type) and is_dataclass(k) and issubclass(k, Options) and k.__module__ == name],
            )


def reached(command, *argv):
    """Names of the options that a command has."""
    return {o.name for group in COMMANDS[command].groups(list(argv)) for o in group.options}


# ---------------------------------------------------------------- all are reachable

LIBRARY = [
    (cut, "pretrain", (), {"source"}),
    (slide, "pretrain", (), {"source"}),
    (qf.split_blocks, "pretrain", (), {"trials"}),
    (qf.split_chronological, "pretrain", (), {"trials"}),
    (qf.simulate, "simulate", (), {"path", "physiology"}),  # a what-if of the simulator, no option
    (simulate_network, "simulate", ("--kind", "network"), {"path"}),
    (qf.pretrain, "pretrain", (), {"split", "config", "checkpoint", "progress"}),  # config holds options that are reached one by one
    (qf.fit_forecaster, "fit", (), {"autoencoder", "split"}),
    (qf.fit_classifier, "fit", (), {"autoencoder", "split"}),
    (fit_network, "fit", ("--model", "brainlm"), {"split", "checkpoint", "task"}),
    (pretrain_network, "pretrain", ("--model", "brainlm"), {"split", "checkpoint"}),
    (qf.decode, "decode", ("--decoder", "backbone"), {"split"}),
    (qf.evaluate, "evaluate", (), {"forecasters", "split", "progress"}),
    (qf.evaluate_classifier, "evaluate", (), {"classifier", "split"}),
    (qf.compare, "evaluate", (), {"forecasters", "split"}),
    (qf.read_nwb, "import", ("nwb",), {"path"}),
    (qf.read_suite2p, "import", ("suite2p",), {"folder"}),
    (qf.read_allen, "import", ("allen",), {"path"}),
    (read_arrays, "import", ("arrays",), {"path"}),
    (qf.from_arrays, "import", ("arrays",), {"traces"}),
    (qf.import_many, "import", ("nwb",), {"read", "options", "progress", "on_done"}),
    (demo, "demo", (), {"progress", "out"}),
    (make_figures, "figures", (), {"progress", "out"}),
]


@pytest.mark.parametrize(("call", "command", "argv", "data"), LIBRARY, ids=lambda v: getattr(v, "__name__", None))
def test_the_shell_reaches_every_option_of_the_library(call, command, argv, data):
    wanted = {p.name for p in inspect.signature(call).parameters.values() if p.kind is not p.VAR_KEYWORD}
    assert not wanted - data - reached(command, *argv)


def test_the_shell_reaches_every_field_of_every_dataclass_of_options():
    known = set().union(*(reached(c) for c in COMMANDS), *(reached("import", k) for k in ("nwb", "allen", "suite2p", "arrays")))
    known |= reached("simulate", "--kind", "network") | reached("decode", "--decoder", "backbone")
    known |= reached("pretrain", "--model", "calm") | {"progress", "config"}  # those of every command
    known |= set().union(*(reached("fit", "--model", m) for m in ("calm", *MODELS)))
    from_trials = {"rate_hz", "n_baseline", "n_response"}
    missing = {f"{kind.__name__}.{f.name}" for _, kinds in modules() for kind in kinds for f in fields(kind) if f.name not in known | from_trials}
    assert not missing
    assert {f.name for f in fields(LoopConfig)} | {f.name for f in fields(RunConfig)} - {"progress"} <= reached("pretrain") & reached("fit")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_has_two_options_of_one_name(command):
    for argv in ([], ["nwb"], ["allen"], ["suite2p"], ["arrays"]) if command == "import" else ([], *(["--model", m] for m in MODELS)):
        options = [o for group in COMMANDS[command].groups(argv) for o in group.options]
        flags = [flag for o in options for flag in o.flags]
        assert len(set(flags)) == len(flags) and len({o.name for o in options}) == len(options)


# ---------------------------------------------------------------- none is written twice


def test_a_default_stands_in_its_dataclass_alone():
    """Signatures take their defaults from the fields, `epochs=LoopConfig.epochs`, so that neither can change without the other."""
    for call, command, argv, data in LIBRARY:
        tree = ast.parse(textwrap.dedent(inspect.getsource(call)))
        options = {o.name: o for group in COMMANDS[command].groups(list(argv)) for o in group.options}
        arguments = tree.body[0].args
        given = zip(arguments.args[len(arguments.args) - len(arguments.defaults) :], arguments.defaults, strict=True)
        for name, default in [(a.arg, d) for a, d in [*given, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]]:
            if name in data or name not in options or not isinstance(default, ast.Constant) or default.value is None:
                continue  # None says "left out", and the text of the option what that means
            raise AssertionError(f"{call.__name__}: {name}={default.value!r} is written out; take the field's default")


def test_help_and_ranges_are_written_once():
    """No two dataclasses state an option of the same name with the same help and range: they share it by inheritance or a constant."""
    seen = {}
    for path, _ in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "option":
                helps = [ast.unparse(k.value) for k in node.value.keywords if k.arg == "help"]
                if helps:
                    seen.setdefault((node.target.id, helps[0], ast.unparse(node.value)), []).append(path.name)
    assert not {key[0]: where for key, where in seen.items() if len(where) > 1}


# ---------------------------------------------------------------- one line, wherever the value comes from


def said(call):
    with pytest.raises(QfError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "flag", "value"),
    [
        ("baseline_s", "--baseline", 0), ("active_gain", "--active-gain", 1e9), ("epochs", "--epochs", 0), ("lr", "--lr", 11), ("schedule", "--schedule", "line"),
        ("codes", "--codes", 1), ("validation", "--validation", 1), ("signal", "--signal", "F"), ("balance", "--balance", "all"), ("split", "--split", "half"),
    ],
)  # fmt: skip
def test_python_shell_and_file_say_the_same(store, tmp_path, capsys, name, flag, value):
    kind = next(
        k
        for _, kinds in modules()
        for k in kinds
        if name in {f.name for f in fields(k)} and k.__module__.split(".")[2] not in ("simulated", "importers")
    )
    line = said(lambda: kind(**{name: value}))
    run = ["pretrain", store, "--out", tmp_path / "m", "--device", "cpu"]
    shell = refused(capsys, *run, flag, value)
    assert (
        shell == f"qf: {flag}{line[len(name) :]}".replace("1000000000.0", "1e+09")
        or shell.split("found")[0] == f"qf: {flag}{line[len(name) :]}".split("found")[0]
    )
    for file, text in ((tmp_path / "o.json", json.dumps({name: value})), (tmp_path / "o.yaml", yaml.safe_dump({name: value}))):
        file.write_text(text)
        assert refused(capsys, *run, "--config", file) == f"qf: {file}: {line}"
    assert not (tmp_path / "m").exists()


@given(
    st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.booleans(), st.none()),
    st.sampled_from([f for k in (LoopConfig, SplitOptions) for f in fields(k)]),
)
def test_a_range_takes_what_it_gives(value, f):
    allowed: Range = f.metadata["range"]
    try:
        taken = allowed.checked(f.name, value)
    except QfError as error:
        assert str(error).startswith(f"{f.name}: expected ") and "\n" not in str(error)
    else:
        assert allowed.checked(f.name, taken) == taken
        if allowed.kind in ("number", "whole") and taken is not None:
            assert allowed.read(f.name, repr(taken)) == taken


# ---------------------------------------------------------------- files of options


def same(a, b):
    a, b = (qf.load(m, device="cpu").module.state_dict() for m in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_training_is_repeated_from_what_was_saved(store, base, tmp_path):
    """From the model's folder, from its config.json, and from a YAML file of the same."""
    run = json.loads((base / "config.json").read_text())["run"]
    assert run["command"] == "pretrain" and {"epochs", "lr", "codes", "balance", "device", "token_speed"} <= run["options"].keys()
    yml = tmp_path / "again.yaml"
    yml.write_text(yaml.safe_dump({**run["settings"], **run["options"]}))
    for i, file in enumerate((base, base / "config.json", yml)):
        out = tmp_path / str(i)
        assert main(["pretrain", str(store), "--out", str(out), "--config", str(file), "--quiet"]) == 0
        assert same(out, base) and json.loads((out / "config.json").read_text())["run"] == run
    assert main(["pretrain", str(store), "--out", str(tmp_path / "other"), "--config", str(base), "--seed", "4", "--quiet"]) == 0
    assert not same(tmp_path / "other", base)  # the command line wins
    assert qf.load(tmp_path / "other").seed == 4


@pytest.mark.parametrize("task", ["forecast", "activation"])
def test_fits_are_repeated_from_what_was_saved(store, base, tmp_path, task):
    commands = {
        "quantformer": ["--pretrained", str(base), "--hide", "0.5", *(["--gain-weight", "2"] if task == "activation" else ["--decode", "argmax"])],
        "nlinear": ["--model", "nlinear", "--token-width", "3", "--f0", "1", "--no-subtract-last"],
    }
    for name, how in commands.items():
        first, again = tmp_path / name, tmp_path / f"{name} again"
        assert main(["fit", str(store), "--out", str(first), "--task", task, "--epochs", "1", "--quiet", *how]) == 0
        assert main(["fit", str(store), "--out", str(again), "--config", str(first), "--quiet"]) == 0
        assert same(first, again) and qf.load(again).run == qf.load(first).run


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.json", "{", "expected JSON"), ("a.json", '{"epochs": 1, "epochs": 2}', "'epochs' stands there twice"), ("a.yaml", "epochs: [", "expected YAML"),
        ("a.yaml", "epochs: 1\nepochs: 2", "'epochs' stands there twice"), ("a.yaml", "- 3", "expected a mapping"), ("a.yml", "epohcs: 3", "did you mean epochs"),
        ("a.yaml", "epochs: 3.5", "epochs: expected a whole number"), ("a.yaml", "lr: '0.1'", "lr: expected a number"), ("a.json", '{"lr": NaN}', "NaN is no finite number"), ("a.yaml", "lr: .nan", "lr: expected"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "expected YAML"), ("a.yaml", "batch: 3\nbatch_size: 4", "found batch_size under two names"),
        ("a.yaml", "f0_s: 9", "f0_s: expected at most baseline_s"), ("a.json", "\x00", "expected JSON"), ("a.yaml", "[" * 2000, "expected YAML"),
    ],
)  # fmt: skip
def test_files_that_hold_no_options_are_one_line(store, tmp_path, capsys, name, text, why):
    file = tmp_path / name
    file.write_text(text)
    line = refused(capsys, "pretrain", store, "--out", tmp_path / "m", "--config", file)
    assert line.startswith(f"qf: {file}") and why in line
    assert not (tmp_path / "m").exists()


def test_no_file_and_a_model_from_python(store, base, tmp_path, capsys):
    run = ["pretrain", store, "--out", tmp_path / "m", "--config"]
    assert "expected a file of options" in refused(capsys, *run, tmp_path / "none.yaml")
    model = qf.load(base)
    model.run = None
    model.save(tmp_path / "python")
    assert "it was trained from Python" in refused(capsys, *run, tmp_path / "python")
    assert "hide: no option of `qf pretrain`" in refused(capsys, *run, write(tmp_path / "fit.yaml", "hide: 0.5"))


def write(path, text):
    path.write_text(text)
    return path


def test_names_of_the_shell_and_of_python_both_stand_in_files(store, tmp_path):
    file = write(tmp_path / "o.yaml", "baseline: 2\nresponse_s: 1.5\nbatch-trials: 4\nbf16: false\nlr: 1e-3\nstimulus: drifting_gratings\n")
    assert main(["pretrain", str(store), "--out", str(tmp_path / "m"), "--config", str(file), *SMALL]) == 0
    run = qf.load(tmp_path / "m").run
    assert (run["settings"]["baseline_s"], run["settings"]["response_s"], run["settings"]["stimulus"]) == (2, 1.5, ["drifting_gratings"])
    assert (run["options"]["batch_trials"], run["options"]["bf16"], run["options"]["lr"]) == (4, False, 1e-3)


def test_models_of_an_earlier_version_lend_their_window_and_split(tmp_path, capsys):
    fixture = Path(__file__).parent / "fixtures" / "b35afb9"
    argv = [
        "pretrain",
        fixture / "store",
        "--out",
        tmp_path / "m",
        "--config",
        fixture / "dff" / "forecaster",
        "--epochs",
        "1",
        "--patch-frames",
        "5",
        "--quiet",
    ]
    assert main([str(a) for a in [*argv, "--layers", "1", "--width", "16", "--heads", "2", "--codes", "8"]]) == 0
    assert qf.load(tmp_path / "m").window.baseline_s == 2.0


# ---------------------------------------------------------------- what the shell gained


def test_a_subject_is_left_out_and_windows_slide(store, tmp_path, capsys):
    assert main(["evaluate", str(store), "--split", "subject", "--leave-out", "rat", "--out", str(tmp_path / "t.csv"), "--quiet"]) == 0
    assert "leaving out subject rat" in capsys.readouterr().out
    assert (
        main(["evaluate", str(store), "--windows", "sliding", "--length", "4", "--every", "4", "--split", "chronological", "--no-ceiling", "--quiet"])
        == 0
    )
    assert "chronological" in capsys.readouterr().out
    assert "--length: expected only with windows sliding" in refused(capsys, "evaluate", store, "--length", "4")
    assert "--baseline: expected only around onsets" in refused(capsys, "evaluate", store, "--windows", "sliding", "--baseline", "2")
    assert "leave_out: expected with split subject or stimulus" in refused(capsys, "evaluate", store, "--split", "subject")
    assert "--test: expected only with split blocks" in refused(capsys, "evaluate", store, "--split", "subject", "--leave-out", "rat", "--test", "1")


def test_splits_by_options_are_those_of_their_functions():
    trials = cut([toy_session(0), toy_session(1, subject="rat")])
    for how, split in (
        (SplitOptions(), qf.split_blocks(trials)), (SplitOptions(test=0.0), qf.split_blocks(trials, 0)),
        (SplitOptions("chronological", gap_s=3, validation=0.2), qf.split_chronological(trials, gap_s=3, validation=0.2)),
        (SplitOptions("subject", leave_out="rat"), qf.leave_one_out(trials, subject="rat")),
    ):  # fmt: skip
        made = split_by(trials, how)
        assert made.rule == split.rule and all(getattr(made, n).table.equals(getattr(split, n).table) for n in ("train", "validation", "test"))


def test_help_says_all_and_is_quick():
    """No command's help needs torch, numpy or xarray."""
    import subprocess
    import sys

    code = "import sys; from qf_toolkit.cli.main import main; main([*sys.argv[1:], '--help']); sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'xarray')))"
    for argv in ([], ["fit"], ["import", "arrays"]):
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "example:\n  qf" in done.stdout and ("--sweep-frames N" in done.stdout) == (argv[:1] == ["import"])
    assert "--token-speed X" in subprocess.run([sys.executable, "-c", code, "pretrain"], capture_output=True, text=True, check=False).stdout
