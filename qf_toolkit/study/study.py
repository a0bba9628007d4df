"""A study: a folder with a store of recordings and the models trained on it. Each model is trained on first use, and later loaded from the folder.

The notebooks share their models through a study. `SIZES` holds the settings of all stages; `Study.settings` returns the options of one stage.
"""

import json
import shutil
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import quote

from .._files import write_text
from ..errors import DamagedFileError, QfError, UnknownKeyError, did_you_mean
from ..models.options import check_options
from ..recordings.conditions import well_shown
from .options import FiguresOptions
from .plans import STIMULI, epochs_of

STAGES = ("autoencoder", "forecaster", "classifier")
MARK = "study.json"
SIMULATED = ("A", "B", "C")
# fast takes minutes on two CPU cores, with settings that did better on validation data (README, Settings). full takes the paper's sizes, lengths and
# losses, which are the defaults of `QuantFormerConfig`, `pretrain` and the fits, on a mouse that is shown the whole protocol; it needs a GPU.
SIZES = {
    "fast": {
        "simulate": {"n_neurons": 48, "repeats": 15, "directions": 8, "temporal_frequencies": 2, "images": 6, "orientations": 4,
                     "spatial_frequencies": 1, "phases": 2, "image_repeats": 60, "noise_frames": 960, "gap_s": 20.0},
        "window": {"baseline_s": 3.0, "response_s": 2.0, "f0_s": 1.0},
        "patch_s": 0.5,
        "autoencoder": {"width": 48, "layers": 2, "heads": 4, "replace_below": 0.003, "steps": 2000, "batch_size": 128, "lr": 3e-3, "schedule": "cosine"},
        "forecaster": {"steps": 1500, "batch_size": 64, "lr": 2e-3, "schedule": "cosine", "expectation_weight": 5.0, "hide": 0.5, "dropout": 0.1,
                       "token_speed": 10.0},  # the training is short, so tokens must move fast away from their random start
        "classifier": {"steps": 700, "batch_size": 64, "lr": 2e-3, "schedule": "cosine", "gain_weight": 3.0, "hide": 1.0, "dropout": 0.1},
    },
    "full": {
        "simulate": {"n_neurons": 60},
        "window": {"baseline_s": 3.0, "response_s": 2.0, "f0_s": 1.0},
        "patch_s": 16 / 30,
        "autoencoder": {},
        "forecaster": {},
        "classifier": {},
    },
}  # fmt: skip


class Study:
    """A folder with a store and the models trained on it.

    Parameters
    ----------
    folder : str or Path
        Created if missing. If a training was interrupted, the same call continues from its last epoch.
    store : str, Path or Store, optional
        The recordings, of any stimuli and any one rate. If None, sessions A, B and C of a simulated mouse are recorded into `folder/store`.
    fast : bool
        Train small models, which takes minutes on a CPU. False takes the paper's sizes, for a GPU. See `SIZES`.
    seed : int
        Seed of the simulation and of every training.
    device : str
        auto, cpu, cuda...
    progress : bool
        Print which model is trained, and show bars.
    plan : dict, optional
        {stage: {setting: value}} that replaces settings of the size. Stages are simulate, window, autoencoder, forecaster and classifier; patch_s
        (the length of a patch in seconds) has a number instead of a dict. For example `{"forecaster": {"steps": 5000}}`.

    Attributes
    ----------
    folder : Path
    plan : dict
        The settings of all stages.

    Raises
    ------
    QfError
        If the folder holds something else, or a study of other settings or recordings: a folder never mixes two studies.

    Examples
    --------
    >>> study = Study("study", store=store)
    >>> study.stimuli
    ['drifting_gratings']
    >>> study.split("drifting_gratings").test  # and study.forecaster("drifting_gratings"), trained when first asked for
    <...>
    """

    def __init__(self, folder, *, store=None, fast=True, seed=0, device="auto", progress=True, plan=None):
        from ..recordings.store import Store

        self.folder, self.fast, self.seed, self.device, self.progress = Path(folder), bool(fast), int(seed), device, progress
        self.plan = _plan(SIZES["fast" if fast else "full"], plan or {})
        check_options(FiguresOptions, {"seed": self.seed})
        self._store = store if store is None or isinstance(store, Store) else Store(store)
        self._whole, self._made = None, {}
        if self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / MARK).is_file()):
            raise QfError(f"study: expected a new folder or that of a study, found something else at {self.folder}. Choose another folder.")
        recordings = "simulated" if store is None else self.trials().digest()
        settings = {"fast": self.fast, "seed": self.seed, "recordings": recordings, "plan": self.plan}
        self._mark({"store": None if self._store is None else str(self._store.path), **settings}, settings)

    def __repr__(self):
        made = [str(p.parent.relative_to(self.folder)) for p in sorted(self.folder.glob("**/config.json"))]
        size, shown = "fast" if self.fast else "full", "not recorded yet" if self._store is None else ", ".join(self.stimuli)
        return f"<Study {self.folder}: {size}, seed {self.seed}; {shown}; trained: {', '.join(made) or 'nothing yet'}>"

    def _mark(self, note, settings):
        """Record the settings of the study in its folder. Raise QfError if the folder holds another study."""
        path = self.folder / MARK
        if not path.is_file():
            return write_text(path, json.dumps(note, indent=2) + "\n")
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            differing = [name for name in settings if known[name] != json.loads(json.dumps(settings[name]))]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(f"{path}: can't be read ({type(error).__name__}). Choose another folder, or delete {self.folder}.") from error
        if differing:
            name = differing[0]
            was, found = ("other values", "these") if name == "plan" else (known[name], settings[name])
            if name == "recordings":
                was, found = (f"{k['store'] or 'a simulated mouse'}" for k in (known, note))
                found += " (whose trials are others now)" * (was == found)
            raise QfError(f"study: {self.folder} was made with {name} {was}, found {found}. Choose another folder, or delete that one.")
        return None

    @property
    def store(self):
        """The Store. If none was given, it is simulated on first use."""
        if self._store is None:
            from ..recordings.simulated.cortex import simulate
            from ..recordings.store import Store

            store = Store(self.folder / "store", create=True)
            for letter in SIMULATED:  # sessions that are there stay
                if f"sim1/{letter}" not in store:
                    self._say(f"recording session {letter} of a simulated mouse")
                simulate(store.path, sessions=(letter,), seed=self.seed, **self.plan["simulate"])
            self._store = store
        return self._store

    @property
    def stimuli(self):
        """Names of the stimuli in the store: first those of the paper in its order, then the others."""
        found = sorted(self.store.index["stimulus"].unique())
        return [s for s in STIMULI if s in found] + [s for s in found if s not in STIMULI]

    def trials(self, *stimuli):
        """The windows of the named stimuli, or of all stimuli: 3 s before and 2 s after the onset, F0 from the last second before it.

        If the conditions of a stimulus repeat, those that are shown fewer than twice in a block (rare blanks) are left out. The scored part of the
        response is the paper's, if the paper has one for a stimulus of the store (Table A-1).

        Parameters
        ----------
        *stimuli : str
            Names of stimuli. If none is given, all.

        Returns
        -------
        Trials

        Raises
        ------
        UnknownKeyError
            If there is no such stimulus.
        """
        from ..recordings.window import PAPER_SCORE_S

        table = self.store.index
        if "stimulus" not in table or not len(table):
            raise QfError(f"study: expected recordings with trials, found none in {self.store.path}. Import them with a trial table.")
        score = "paper" if any(s in PAPER_SCORE_S for s in self.stimuli) else None
        trials = self.store.trials(stimulus=list(stimuli) or None, score_s=score, **self.plan["window"])
        known = [c for s in stimuli or self.stimuli for c in well_shown(table, [s]) or table.loc[table["stimulus"] == s, "condition"]]
        return trials.subset(trials.table["condition"].isin(known).to_numpy())

    def split(self, *stimuli):
        """Train, validation and test part of the named stimuli, or of all stimuli.

        The test part is the last block of each stimulus in each session, or the last third of the trials of a stimulus that was shown in a single
        block. The parts of all stimuli are made together, so that no model, least of all the auto-encoder, sees a window that another is tested on.

        Parameters
        ----------
        *stimuli : str
            Names of stimuli. If none is given, all.

        Returns
        -------
        Split

        Raises
        ------
        UnknownKeyError
            If there is no such stimulus.
        QfError
            If a part is empty.
        """
        if self._whole is None:
            self._whole = _split(self.trials())
        if not stimuli:
            return self._whole
        for name in stimuli:
            if name not in self.stimuli:
                raise UnknownKeyError(f"stimulus: {name!r} has no trial in {self.store.path}; {did_you_mean(name, self.stimuli)}")
        parts = {}
        for name in ("train", "validation", "test"):
            part = getattr(self._whole, name)
            parts[name] = part.subset(part.table["stimulus"].isin(stimuli).to_numpy())
            if not len(parts[name]):
                raise QfError(f"stimulus: no trial of {', '.join(stimuli)} is left in the {name} part. Record more trials of it, or leave it out.")
        return replace(self._whole, **parts)

    def path(self, stage, stimulus=None):
        """The folder of a model.

        Parameters
        ----------
        stage : {"autoencoder", "forecaster", "classifier"}
        stimulus : str, optional
            Stimulus of the forecaster or classifier.

        Returns
        -------
        Path

        Raises
        ------
        QfError
            If there is no such stage, or the stimulus can't be the name of a folder.
        """
        if stage not in STAGES:
            raise QfError(f"stage: expected one of {', '.join(STAGES)}, found {stage!r}.")
        name = quote(stimulus, safe=" +-") if stimulus else ""
        if name in (".", "..") or len(name) > 255:
            raise QfError(
                f"stimulus: expected a name of at most 255 letters that a folder can have, found {str(stimulus)[:60]!r}. Rename it at import."
            )
        return self.folder / stage / name

    def settings(self, stage, stimulus=None):
        """The options of one stage of training.

        Parameters
        ----------
        stage : {"autoencoder", "forecaster", "classifier"}
        stimulus : str, optional
            Stimulus of the forecaster or classifier.

        Returns
        -------
        dict
            Options of `pretrain`, `fit_forecaster` or `fit_classifier`.
        """
        self.path(stage, stimulus)
        split = self.split(*([stimulus] if stimulus else []))
        plan = self.plan[stage]
        out = epochs_of(plan, split) if "steps" in plan else dict(plan)
        if stage == "autoencoder":
            n_baseline, n_response, _ = split.train.window.frames(split.train.rate_hz)
            # a patch has the same duration at every rate, but at least three frames if the window has them, since fewer have no shape
            frames = max(3, round(self.plan["patch_s"] * split.train.rate_hz))
            out = {"patch_frames": min(frames, n_baseline, n_response), **out, "device": self.device}
        return {**out, "seed": self.seed, "progress": self.progress}

    def autoencoder(self):
        """The auto-encoder, pre-trained on the training parts of all stimuli together. It is trained on first use, and later loaded.

        Returns
        -------
        Autoencoder
        """
        from ..estimators.quantformer.pretrain import pretrain

        model = self._model("autoencoder", None, lambda **options: pretrain(self.split(), **options))
        wanted = self.settings("autoencoder")
        known = {**asdict(model.config), "seed": model.seed}
        differing = [n for n in wanted if n in known and known[n] != wanted[n]]
        if differing:
            n = differing[0]
            raise QfError(
                f"study: the auto-encoder in {self.path('autoencoder')} has {n} {known[n]}, expected {wanted[n]}. Delete it to train it again."
            )
        return model

    def forecaster(self, stimulus):
        """The forecaster of a stimulus, given by its name. It is trained on first use, and later loaded.

        Returns
        -------
        QuantFormerForecaster
        """
        from ..estimators.quantformer.response import fit_forecaster

        return self._downstream("forecaster", stimulus, fit_forecaster)

    def classifier(self, stimulus):
        """The classifier of activation of a stimulus, given by its name. It is trained on first use, and later loaded.

        Returns
        -------
        QuantFormerClassifier
        """
        from ..estimators.quantformer.activation import fit_classifier

        return self._downstream("classifier", stimulus, fit_classifier)

    def _downstream(self, stage, stimulus, fit):
        autoencoder = self.autoencoder()
        model = self._model(stage, stimulus, lambda **options: fit(autoencoder, self.split(stimulus), **options))
        if model.autoencoder.digest() != autoencoder.digest():
            folder = self.path(stage, stimulus)
            raise QfError(f"study: the {stage} in {folder} was fitted on another auto-encoder than this study's. Delete it to fit it again.")
        return model

    def _model(self, stage, stimulus, make):
        from ..estimators.registry import load
        from ..training.device import pick_device

        folder = self.path(stage, stimulus)
        if folder not in self._made:
            if not (folder / "config.json").is_file():
                self._say(f"training the {stage}{f' of {stimulus}' if stimulus else ''}, kept in {folder}")
                if not self.fast and pick_device(self.device).type == "cpu":
                    warnings.warn("study: the paper's sizes take days without a GPU; fast=True is made for a CPU.", stacklevel=4)
                make(checkpoint=folder / "checkpoint", **self.settings(stage, stimulus)).save(folder)
                shutil.rmtree(folder / "checkpoint", ignore_errors=True)
            self._made[folder] = load(folder, device=self.device)
        return self._made[folder]

    def _say(self, text):
        if self.progress:
            print(f"study: {text}")


def _plan(size, own):
    """The settings of a size, in which the user's settings replace others."""
    for name, options in own.items():
        if name not in size:
            raise QfError(f"plan: expected one of {', '.join(size)}, found {name!r}.")
        if isinstance(options, dict) != isinstance(size[name], dict):
            raise QfError(f"plan: expected {name} to be {'options by name' if isinstance(size[name], dict) else 'a number'}, found {options!r}.")
    merged = {}
    for name, options in size.items():
        mine = own.get(name, {} if isinstance(options, dict) else options)
        if isinstance(options, dict):
            mine = {**options, **mine}
            if "epochs" in own.get(name, {}):  # epochs replace steps
                mine.pop("steps", None)
        merged[name] = mine
    return merged


def _split(trials):
    """The split of all stimuli. Validation and test leave out the conditions that the training part lacks."""
    from ..estimators.stimulus_tokens import StimulusTokens
    from ..recordings.splits import block_names, cut_into_parts

    table = trials.table
    shown = table.groupby(["session", "stimulus"])
    last = shown["block"].transform("max")
    several = shown["block"].transform("min") < last
    is_test = (several & (table["block"] == last)) | (~several & (shown["onset_frame"].rank(pct=True) > 2 / 3))
    # blocks lie apart in the recording; parts of one block are separated by the length of a window
    gap = 0 if several.all() else trials.window.baseline_s + trials.window.response_s
    rule = "by the last block of each stimulus" + ("" if several.all() else ", its last third where there is one block alone")
    split = cut_into_parts(trials, is_test.to_numpy(), block_names(trials), 0.15, gap, rule)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fits warn of stimuli without tokens of their conditions
        lacking = StimulusTokens.learnt("auto", split.train.table).lacking(table["condition"])
    if not lacking:
        return split
    kept = {
        name: part.subset(~part.table["condition"].isin(lacking).to_numpy()) for name, part in vars(split).items() if name in ("validation", "test")
    }
    if not all(map(len, kept.values())):
        raise QfError("split: no condition of the training part is shown in validation or test. Record conditions more often, or name fewer.")
    return replace(split, **kept, dropped=split.dropped + len(split.validation) + len(split.test) - sum(map(len, kept.values())))
