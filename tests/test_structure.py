"""The house: imports run downwards, rooms keep their underscored names, models know tensors only, and a word means one thing. Read from the source."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qf_toolkit"
GROUND = {"errors", "_files", "_version", "_moved"}
FLOORS = [
    ["models"],
    ["recordings"],
    ["training"],
    ["estimators"],
    ["evaluation"],
    ["interpret"],
    ["benchmark"],
    ["plots"],
    ["widgets", "rig", "study"],
    ["cli"],
]
FLOOR = {room: n for n, floor in enumerate(FLOORS) for room in floor} | dict.fromkeys(GROUND, -1) | {"__init__": len(FLOORS)}
MOST_LINES = 500

# the name of a parameter, and the names that would mean the same; no public function has one of the latter
ONE_NAME = {
    "seed": ["random_state", "rng_seed", "random_seed"],
    "device": ["dev", "gpu", "cuda"],
    "progress": ["verbose", "show_progress", "quiet", "bar", "pbar"],
    "n_samples": ["num_samples", "n_draws", "draws"],
    "n_neurons": ["num_neurons", "neuron_count", "n_cells"],
    "path": ["filename", "file_name", "filepath", "fname", "src"],
    "folder": ["directory", "dir", "dirname", "root", "folder_path"],
    "out": ["output", "output_dir", "out_dir", "outdir", "destination"],
    "overwrite": ["force", "clobber", "exist_ok"],
    "workers": ["n_jobs", "num_workers", "n_workers"],
    "rate_hz": ["rate", "fs", "sampling_rate", "frame_rate", "framerate", "hz"],
    "session": ["session_id", "session_name", "recording"],
    "subject": ["subject_id", "mouse", "animal"],
    "neuron": ["neuron_id", "neuron_key", "cell", "roi"],
    "neurons": ["neuron_ids", "neuron_keys", "rois"],
    "trial": ["trial_id", "trial_index"],
    "condition": ["condition_key", "condition_id"],
    "stimulus": ["stimulus_name", "stim", "stimulus_type"],
    "split": ["splits", "parts_of"],
    "signal": ["trace_type", "signal_type"],
    "context": ["baseline", "history_window"],
    "forecast": ["prediction", "pred", "y_pred", "yhat"],
    "truth": ["target_response", "y_true", "ground_truth", "gt"],
    "active": ["labels_active", "is_responsive", "responsive"],
    "probability": ["prob", "proba", "probabilities"],
    "dropout": ["drop", "p_drop"],
    "width": ["d_model", "dim", "hidden_size", "embed_dim"],
    "layers": ["n_layers", "num_layers", "depth"],
    "heads": ["n_heads", "num_heads"],
    "codes": ["code_ids", "indices_of_codes"],
    "lr": ["learning_rate"],
    "batch_size": ["bs", "batchsize"],
    "epochs": ["n_epochs", "num_epochs", "max_epochs"],
    "steps": ["n_steps", "num_steps", "max_steps"],
    "normalise": ["normalize", "norm_by"],
    "color": ["colour"],
    "cmap": ["colormap", "colourmap", "colour_map"],
    "ax": ["axis_to_draw_on", "axe"],
    "checkpoint": ["checkpoint_dir", "ckpt"],
    "store": ["store_path", "dataset_store"],
    "config": ["cfg", "conf"],
    "timeout_s": ["timeout"],
    "baseline_s": ["pre_s", "baseline_seconds", "before_s"],
    "response_s": ["post_s", "response_seconds", "after_s"],
    "patch_frames": ["patch_len", "patch_length", "patch_size"],
    "threshold": ["thresh", "cutoff"],
    "shrinkage": ["shrink", "prior_weight"],
}  # fmt: skip


@cache
def modules():
    """{dotted name under qf_toolkit: tree}; a package goes by its own name, the top one by "__init__"."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def room_of(module):
    return module.split(".")[0]


def is_package(module):
    return module == "__init__" or (PACKAGE / module.replace(".", "/")).is_dir()


def names_of(module, node):
    """[(module, name or None, bound as)] that an import statement takes from the package; module and name under qf_toolkit."""
    out = []
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == "qf_toolkit":
                out.append((".".join(alias.name.split(".")[1:]) or "__init__", None, alias.asname or alias.name))
        return out
    if node.level:
        parts = [] if module == "__init__" else module.split(".")
        up = node.level - 1 if is_package(module) else node.level
        base = [*parts[: len(parts) - up], *filter(None, [node.module])]
    elif node.module and node.module.split(".")[0] == "qf_toolkit":
        base = node.module.split(".")[1:]
    else:
        return []
    for alias in node.names:
        whole = ".".join([*base, alias.name])
        if whole in modules():
            out.append((whole, None, alias.asname or alias.name))
        else:
            out.append((".".join(base) or "__init__", alias.name, alias.asname or alias.name))
    return out


def imports(module, tree=None):
    """What a module imports from the package, wherever the statement stands."""
    found = [n for n in ast.walk(tree or modules()[module]) if isinstance(n, ast.Import | ast.ImportFrom)]
    return [name for n in found for name in names_of(module, n)]


def imports_at_top(module):
    """Those that run when the module is imported: at the top of the file, also inside if, try and with, but not for the type checker alone."""
    out, todo = [], list(modules()[module].body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            out += names_of(module, node)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)
    return out


def test_no_module_imports_itself_in_a_circle():
    graph = {m: {source for source, _, _ in imports_at_top(m)} - {m} for m in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail(f"a circle of imports: {' <- '.join(e.args[1])}")


def test_every_room_has_its_floor():
    assert {room_of(m) for m in modules()} <= set(FLOOR)


def test_imports_run_downwards_also_inside_functions():
    wrong = set()
    for module in modules():
        here = room_of(module)
        if here == "__init__":  # the front door hands out names of every room
            continue
        for source, _, _ in imports(module):
            there = room_of(source)
            ground = here in GROUND and there in GROUND
            if there != here and not ground and FLOOR[there] >= FLOOR[here]:
                wrong.add(f"{module} imports {source}")
    assert not wrong


def hidden(name):
    return name.startswith("_") and not name.endswith("__")


def test_no_room_takes_an_underscored_name_of_another():
    wrong = set()
    for module, tree in modules().items():
        here, bound = room_of(module), {}
        for source, name, as_ in imports(module):
            if room_of(source) in {here} | GROUND:
                continue
            if hidden(name or source.split(".")[-1]):
                wrong.add(f"{module} takes {name or ''} of {source}")
            bound[as_] = source
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and hidden(node.attr) and ast.unparse(node.value) in bound:
                wrong.add(f"{module} takes {node.attr} of {bound[ast.unparse(node.value)]}")
    assert not wrong


def test_no_room_uses_an_underscored_attribute_that_only_another_defines():
    theirs = {"_version", "_replace", "_fields", "_asdict"}  # of torch (the changes of a tensor are counted) and of named tuples
    defined = {}
    for module, tree in modules().items():
        names = defined.setdefault(room_of(module), set())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    wrong = set()
    for module, tree in modules().items():
        others = set().union(*(names for room, names in defined.items() if room != room_of(module)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and hidden(node.attr) and node.attr in others - theirs - defined[room_of(module)]:
                wrong.add(f"{module}: {ast.unparse(node)}")
    assert not wrong


def classes_of_models():
    """Names of the classes of estimators/, dataclasses apart, and of the torch modules of models/."""
    out = set()
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                data = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
                torch_module = any(ast.unparse(b).endswith("Module") for b in node.bases)
                if (room_of(module) == "estimators" and not data) or (room_of(module) == "models" and torch_module):
                    out.add(node.name)
    return out


def asked(tree):
    """Last names of the classes that isinstance, issubclass and class patterns ask for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass") and len(node.args) == 2:
            for n in ast.walk(node.args[1]):
                if isinstance(n, ast.Name | ast.Attribute):
                    yield ast.unparse(n).split(".")[-1]
        elif isinstance(node, ast.MatchClass):
            yield ast.unparse(node.cls).split(".")[-1]


def test_no_class_of_a_model_is_asked_for_outside_estimators():
    classes = classes_of_models()
    assert {"QuantFormerForecaster", "Autoencoder", "QuantFormer", "CopyLast"} <= classes
    found = {f"{module}: {name}" for module, tree in modules().items() if room_of(module) not in ("estimators", "models") for name in asked(tree)}
    assert not {f for f in found if f.split(": ")[1] in classes}


def test_models_know_tensors_only():
    barred = {"xarray", "pandas", "matplotlib", "seaborn", "pathlib", "os", "io", "shutil", "json", "h5py", "h5netcdf", "safetensors", "pynwb"}
    wrong = set()
    for module, tree in modules().items():
        if room_of(module) != "models":
            continue
        for node in ast.walk(tree):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            wrong |= {f"{module}: {n}" for n in names if n.split(".")[0] in barred}
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "torch.save", "torch.load"):
                wrong.add(f"{module}: {ast.unparse(node.func)}")
        wrong |= {f"{module}: {source}" for source, _, _ in imports(module) if room_of(source) not in ("models", "errors")}
    assert not wrong


def test_every_package_says_what_it_is_for():
    packages = {p.parent for p in PACKAGE.rglob("*.py")}
    assert all((p / "__init__.py").exists() for p in packages)
    silent = [str(p.relative_to(ROOT)) for p in packages if not ast.get_docstring(ast.parse((p / "__init__.py").read_text(encoding="utf-8")))]
    assert not silent


def test_no_file_is_longer_than_can_be_read():
    files = [p for folder in ("qf_toolkit", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text(encoding="utf-8").splitlines())) > MOST_LINES}
    assert not long


def public_functions():
    """(module, qualified name, node) of the public functions and methods of the package."""
    for module, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield module, node.name, node
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for k in node.body:
                    if isinstance(k, ast.FunctionDef) and (k.name == "__init__" or not k.name.startswith("_")):
                        yield module, f"{node.name}.{k.name}", k


def parameters(node):
    return [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]


def test_like_parameters_have_one_name():
    kept = {other: name for name, others in ONE_NAME.items() for other in others}
    assert not set(kept) & set(ONE_NAME)
    used = [(f"{module}.{name}", p) for module, name, node in public_functions() for p in parameters(node)]
    assert not {f"{where}: {p}, elsewhere {kept[p]}" for where, p in used if p in kept}


def test_counts_begin_with_n_and_times_end_with_their_unit():
    wrong = []
    for module, name, node in public_functions():
        for p in parameters(node):
            if p.startswith(("num_", "nb_", "number_of_")) or p.endswith(("_seconds", "_sec", "_secs", "_ms", "_count")):
                wrong.append(f"{module}.{name}: {p}")
    assert not wrong
