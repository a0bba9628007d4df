"""The demo: it simulates a recording of a mouse, trains models on it, and shows their forecasts beside the truth."""

import json
import shutil
from pathlib import Path

from .._files import sweep, write_text
from .._version import __version__
from ..errors import QfError
from ..models.options import check_options
from ..recordings.conditions import well_shown
from .options import DemoOptions
from .plans import ALLEN, SIZES, STIMULI, epochs_of
from .tables import write_tables

MADE = ("store", "files", "autoencoder", "forecaster", "classifier", "figures")
# every table that the demo may write, and the sidecar of each
TABLES = tuple(f"{name}{which}{end}" for name in ("table", *STIMULI) for which in ("", "_activation", "_differences") for end in (".csv", ".json"))
MARK = "demo.json"


def demo(out="demo", *, size=DemoOptions.size, seed=DemoOptions.seed, device=DemoOptions.device, progress=True, data=DemoOptions.data):
    """Run the demo, and print what it does. If it was interrupted, the same call continues it.

    Parameters
    ----------
    out : str or Path
        Folder for everything that the demo makes. A former demo in it is replaced.
    size : {"full", "small", "tiny"}
        Size of recording and models; see `plans.SIZES`.
    seed : int
        Seed of the simulation and of the training.
    device : str
        Device of the training: auto, cpu, cuda...
    progress : bool
        Show bars.
    data : {"simulated", "allen"}
        "simulated" takes a simulated session of drifting gratings. "allen" takes a simulated container of Visual Coding files (NWB 1.0, sessions A, B
        and C), imports it through allensdk, and makes a table and figures for each of the four stimuli.

    Returns
    -------
    list of Path
        The table of the forecasts, the table of the activations, and the figures; with data="allen" these files for each stimulus.

    Raises
    ------
    QfError
        If the folder holds something else, or can't be written; with data="allen" if allensdk is missing.
    """
    from ..estimators.quantformer.activation import fit_classifier
    from ..estimators.quantformer.pretrain import pretrain
    from ..estimators.quantformer.response import fit_forecaster
    from ..recordings.simulated.cortex import simulate

    check_options(DemoOptions, {"size": size, "data": data, "seed": seed})
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
    paths = write_tables([forecaster, classifier], split, out=out / "table.csv", figures=out / "figures", ceiling=True, progress=progress)
    return _finished(out, paths)


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
        # F0 comes from the last second before the onset: gratings are 3 s apart, and of the images four fall into this second
        window = {"baseline_s": 3.0, "response_s": 2.0, "f0_s": 1.0, "score_s": "paper"}
        return split_blocks(store.trials(stimulus=stimuli, condition=well_shown(store.index, stimuli), **window))

    split = split_of(*STIMULI)
    print(f"   {split.train}\n   {split}")
    print("3. pre-training on all four stimuli")
    model = pretrain(
        split, checkpoint=out / "autoencoder" / "checkpoint", device=device, **plan["config"], **epochs_of(plan["pretrain"], split), **common
    )
    model.save(out / "autoencoder")
    paths = []
    for i, stimulus in enumerate(STIMULI):
        print(f"\n4.{i + 1} {stimulus.replace('_', ' ')}: forecaster and classifier, then forecasts of the last block, which no model has seen")
        split = split_of(stimulus)
        models = []
        for name, fit in (("forecaster", fit_forecaster), ("classifier", fit_classifier)):
            folder = out / name / stimulus
            models.append(fit(model, split, checkpoint=folder / "checkpoint", **epochs_of(plan[name], split), **common))
            models[-1].save(folder)
        paths += write_tables(models, split, out=out / f"{stimulus}.csv", figures=out / "figures" / stimulus, progress=common["progress"])
    return paths


def _split(store):
    """Split the gratings by blocks. They are 3 s apart, so F0 is from the grey second before each. Blanks not in every block are left out."""
    from ..recordings.splits import split_blocks

    table = store.index
    blocks = table.groupby("condition")["block"].nunique()
    known = sorted(blocks.index[blocks == table["block"].nunique()])
    return split_blocks(store.trials(stimulus="drifting_gratings", condition=known, baseline_s=3.0, response_s=2.0, f0_s=1.0))


def _prepare(out, settings):
    """Keep an interrupted demo of the same settings, remove any other demo from the folder, and raise QfError if the folder holds anything else."""
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
