"""Chronos, a foundation model of time series, as a forecaster: as it comes (zero-shot), or tuned on the training part.

Sources: Ansari et al. 2024, "Chronos: Learning the Language of Time Series" (TMLR), of which Chronos-Bolt is the successor; Ansari et al. 2025,
"Chronos-2: From Univariate to Universal Forecasting". The models and their training are those of the package chronos-forecasting (`pip install
'qf_toolkit[chronos]'`), and the weights are read from a folder that the user names. Nothing is ever downloaded.
"""

import hashlib
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..errors import QfError
from ..models.options import Range
from ..recordings.splits import Split
from ..recordings.trials import Trials
from ..training.device import pick_device
from . import schema
from .digests import Digest
from .interface import Forecaster, Observations
from .naive import Naive
from .notes import bytes_if_there, check_folder, parse_json
from .saving import check_shapes

MODELS = {"ChronosBoltPipeline": "Chronos-Bolt", "Chronos2Pipeline": "Chronos-2"}  # by the name that config.json of the weights has
CHUNK = 256  # contexts that pass through the model together
STEPS, LR, BATCH = Range("whole", least=1, most=10**9), Range("number", above=0, most=1.0), Range("whole", least=1, most=10**9)
SEED, FLAG = Range("whole", least=0, most=2**32 - 1), Range("flag")


class ChronosForecaster(Naive, Forecaster):
    """Forecasts each neuron's response from its own context with Chronos-Bolt or Chronos-2.

    The model sees the context alone: it is told neither the neuron nor the condition, so that it can't know a tuning. Its quantiles become a
    distribution as `quantiles_at` says; the forecast is the distribution's mean, which is best by squared error, and not the median that Chronos
    itself gives. Samples are drawn for each frame by itself: they have the spread of every frame, but not how frames go together.

    Parameters
    ----------
    folder : str or Path
        Folder with the weights of a Chronos-Bolt or Chronos-2 model (config.json and model.safetensors).
    fine_tune : bool
        Let `fit` tune all weights on the windows of the training part; the validation part chooses the step. Only Chronos-2 can be tuned.
    steps, lr, batch_size, seed : int, float, int, int
        Of the tuning; the defaults of steps, lr and batch_size are those of chronos-forecasting.
    device : str or torch.device
    progress : bool
        Show a bar while it is tuned.

    Attributes
    ----------
    weights_digest : str
        A hash of the files in `folder` when `fit` was called; "" before.

    Raises
    ------
    QfError
        If an option is out of range. `fit` and forecasts raise it if the package is not installed, or if the folder does not hold the weights.

    Examples
    --------
    >>> row = ChronosForecaster("weights/chronos-2", fine_tune=True)
    >>> row.name
    'Chronos, fine-tuned (chronos-2)'
    """

    kind = "chronos"
    probabilistic = True
    options: ClassVar[dict] = {
        "folder": schema.text(), "fine_tune": schema.flag(), "steps": schema.whole(least=1), "lr": schema.number(above=0, most=1.0),
        "batch_size": schema.whole(least=1), "seed": schema.whole(),
    }  # fmt: skip
    learnt: ClassVar[dict] = {"weights_digest": schema.text("[0-9a-f]{24}", "a hash")}

    def __init__(
        self, folder: str | Path, fine_tune: bool = False, steps: int = 1000, lr: float = 1e-6, batch_size: int = 256, seed: int = 0,
        device: Any = "auto", progress: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.folder = str(check_folder(folder))
        self.fine_tune, self.progress = FLAG.checked("fine_tune", fine_tune), FLAG.checked("progress", progress)
        self.steps, self.lr, self.batch_size = STEPS.checked("steps", steps), LR.checked("lr", lr), BATCH.checked("batch_size", batch_size)
        self.seed, self.device = SEED.checked("seed", seed), pick_device(device)
        self.name = f"Chronos, {'fine-tuned' if self.fine_tune else 'zero-shot'} ({Path(self.folder).name})"
        self.weights_digest, self._loaded, self._tuned, self._digest = "", None, {}, Digest()

    def fit(self, split: Split) -> "ChronosForecaster":
        """Check the weights, remember the window and, with `fine_tune`, tune the model; returns self. Errors as named by the class and by `Naive.fit`."""
        self._loaded, self._tuned, self.weights_digest = None, {}, ""
        if self.fine_tune and (found := family(self.folder)) != "Chronos-2":
            raise QfError(f"fine_tune: expected the weights of Chronos-2, found {found} in {self.folder}, which has no training. Leave it out.")
        self._pipeline()
        return super().fit(split)

    def _learn(self, split):
        if self.fine_tune:
            self._tuned = {k: v.detach().cpu() for k, v in self._tune(split).inner_model.state_dict().items()}
            self._loaded = None

    def _tune(self, split):
        windows = [self._windows(part) for part in (split.train, split.validation)]
        # the package writes checkpoints, sets the seeds of all generators, and needs a validation part that is not empty
        with tempfile.TemporaryDirectory() as out, _generators_kept():
            return self._pipeline().fit(
                windows[0], self.n_response, windows[1] if len(windows[1]) else None, min_past=self.n_context, context_length=self.n_context,
                learning_rate=self.lr, num_steps=self.steps, batch_size=self.batch_size, output_dir=out, seed=self.seed,
                disable_tqdm=not self.progress, remove_printer_callback=True,
            )  # fmt: skip

    def _windows(self, trials: Trials) -> torch.Tensor:
        """All whole windows of context and response, float32 (window, 1, time)."""
        found = [np.concatenate([context, response], -1)[whole] for _, _, context, response, whole in self._observations(trials)]
        return torch.from_numpy(np.concatenate(found).astype(np.float32)[:, None])

    def digest(self) -> str:
        return self._digest(self._tuned, [super().digest(), self.weights_digest]) if self.window is not None else ""

    # ------------------------------------------------------------ forecasts

    def predict_arrays(self, asked: Observations) -> np.ndarray:
        return self.forecast_arrays(asked)["forecast"]

    def sample_arrays(self, asked: Observations, n_samples: int = 100, seed: int = 0) -> np.ndarray:
        return self.forecast_arrays(asked, ("samples",), n_samples, seed)["samples"]

    def forecast_arrays(self, asked, wanted=("forecast",), n_samples=100, seed=0):
        n_trials, n_neurons, _ = asked.context.shape
        rng, n_response = np.random.default_rng(seed), int(self.n_response or 0)
        sizes = {"forecast": (), "samples": (n_samples,)}
        out = {name: np.empty((*sizes[name], n_trials * n_neurons, n_response), np.float32) for name in wanted if name in sizes}
        for at, levels, quantiles in self._quantiles(asked):
            if "forecast" in out:
                out["forecast"][at] = mean_of_quantiles(levels, quantiles)
            if "samples" in out:
                out["samples"][:, at] = quantiles_at(levels, quantiles, rng.random((n_samples, *quantiles.shape[:-1])))
        return {name: found.reshape(*sizes[name], n_trials, n_neurons, n_response) for name, found in out.items()}

    def _quantiles(self, asked: Observations) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield, chunk by chunk of the observations (trial x neuron), its positions, the levels (K,), and the quantiles, float32 (b, time, K)."""
        pipeline = self._pipeline()
        context = asked.context if asked.valid is None else np.where(asked.valid, asked.context, np.float32(np.nan))
        rows = torch.from_numpy(np.ascontiguousarray(context).reshape(-1, context.shape[-1]))
        levels = [float(level) for level in pipeline.quantiles]
        for first in range(0, len(rows), CHUNK):
            at = slice(first, min(first + CHUNK, len(rows)))
            found, _ = pipeline.predict_quantiles(list(rows[at]), prediction_length=self.n_response, quantile_levels=levels)
            yield at, np.array(levels), torch.stack([q.reshape(self.n_response, len(levels)) for q in found]).float().numpy()

    def _pipeline(self):
        """The package's object for the weights, which is loaded on first use."""
        if self._loaded is None:
            found = digest_of_weights(self.folder)
            if self.weights_digest and found != self.weights_digest:
                raise QfError(f"weights: expected those in {self.folder} that this model was made from ({self.weights_digest}), found others ({found}). "
                              "Put them back, or fit it again.")  # fmt: skip
            pipeline = read_pipeline(self.folder)
            if self._tuned:
                check_shapes(self.folder, pipeline.inner_model, self._tuned)
                pipeline.inner_model.load_state_dict(self._tuned)
            pipeline.inner_model.to(self.device).eval()
            self._loaded, self.weights_digest = pipeline, found
        return self._loaded

    # ------------------------------------------------------------ saved models

    def facts(self) -> dict:
        return {"weights_digest": self.weights_digest}

    def tensors(self) -> dict:
        return self._tuned

    @classmethod
    def from_note(cls, note, tensors, device, folder) -> "ChronosForecaster":
        self = super().from_note(note, {}, device, folder)
        self.device, self.weights_digest, self._tuned = device, note["weights_digest"], tensors
        return self


# ---------------------------------------------------------------- weights


def family(folder: str | Path) -> str:
    """The name of the model whose weights a folder holds.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    {"Chronos-Bolt", "Chronos-2"}

    Raises
    ------
    QfError
        If the folder is missing or holds no weights of them.
    """
    folder = check_folder(folder)
    get = "Download one by yourself, for example: hf download amazon/chronos-2 --local-dir FOLDER"
    wanted = "expected a folder with the weights of Chronos-Bolt or Chronos-2"
    data = bytes_if_there(folder / "config.json")
    if data is None or not list(folder.glob("*.safetensors")):
        found = f"no {'config.json' if data is None else 'file .safetensors'} in {folder}" if folder.is_dir() else f"no folder {folder}"
        raise QfError(f"weights: {wanted}, found {found}. {get}")
    try:
        note = parse_json(data.decode())
    except (ValueError, RecursionError) as e:
        raise QfError(f"weights: {wanted}, found a config.json in {folder} that can't be read ({' '.join(str(e).split())[:80]}). {get}") from e
    kind = note.get("chronos_pipeline_class") if isinstance(note, dict) else None
    if kind not in MODELS:
        raise QfError(f"weights: {wanted}, found those of {schema.shown(kind or 'another model')} in {folder}. {get}")
    return MODELS[kind]


def digest_of_weights(folder: str | Path) -> str:
    """A hash of config.json and of the files with weights in a folder; errors as of `family`."""
    family(folder)
    found = hashlib.blake2b(digest_size=12)
    try:
        for file in sorted([Path(folder) / "config.json", *Path(folder).glob("*.safetensors")]):
            with open(file, "rb") as f:
                found.update(hashlib.file_digest(f, "blake2b").digest())
    except OSError as e:
        raise QfError(f"weights: {folder} can't be read ({e.strerror or e}). Give yourself permission to read it.") from e
    return found.hexdigest()


def read_pipeline(folder: str | Path) -> Any:
    """The weights in a folder as a pipeline of chronos-forecasting, in float32 on the CPU.

    Raises
    ------
    QfError
        If the package is not installed, or the weights can't be read.
    """
    try:
        from chronos import BaseChronosPipeline
    except ModuleNotFoundError as e:
        raise QfError(
            f"chronos: expected the package chronos-forecasting, found that {e.name} is not installed. Install it: pip install 'qf_toolkit[chronos]'"
        ) from e
    try:
        return BaseChronosPipeline.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True)
    except Exception as e:  # transformers and safetensors raise errors of many kinds
        raise QfError(f"weights: {folder} can't be read by chronos-forecasting ({' '.join(str(e).split())[:160]}). Download them again.") from e


@contextmanager
def _generators_kept():
    """A context that afterwards resets the random generators of Python, numpy and torch."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


# ---------------------------------------------------------------- quantiles


def _whole(levels, quantiles):
    """Levels from 0 to 1, (K + 2,), and their quantiles in rising order, (..., K + 2); the outermost pieces go on straight."""
    levels, q = np.asarray(levels, np.float64), np.sort(quantiles, -1)
    low, high = (
        q[..., [a]] + (q[..., [b]] - q[..., [a]]) * (end - levels[a]) / (levels[b] - levels[a]) for a, b, end in ((0, 1, 0.0), (-1, -2, 1.0))
    )
    return np.concatenate([[0.0], levels, [1.0]]), np.concatenate([low, q, high], -1)


def quantiles_at(levels: np.ndarray, quantiles: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The quantile function that runs straight between some quantiles, and straight on beyond the outermost.

    With uniform `u` it gives samples. Quantiles that cross are sorted.

    Parameters
    ----------
    levels : array, shape (K,)
        Rising, between 0 and 1; at least 2.
    quantiles : array, shape (..., K)
    u : array, shape (n, ...)
        Numbers from 0 to 1.

    Returns
    -------
    float array, shape (n, ...)
        In the units of the quantiles.

    Examples
    --------
    >>> float(quantiles_at([0.25, 0.5], np.array([1.0, 3.0]), np.array([0.125]))[0])
    0.0
    """
    levels, q = _whole(levels, quantiles)
    right = np.clip(np.searchsorted(levels, u, side="right"), 1, len(levels) - 1)
    share = (u - levels[right - 1]) / (levels[right] - levels[right - 1])
    q = np.broadcast_to(q, (*right.shape, q.shape[-1]))
    low, high = (np.take_along_axis(q, at[..., None], -1)[..., 0] for at in (right - 1, right))
    return low + share * (high - low)


def mean_of_quantiles(levels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The mean of the distribution of `quantiles_at`, float array (...); arguments as there."""
    levels, q = _whole(levels, quantiles)
    return (np.diff(levels) * (q[..., 1:] + q[..., :-1]) / 2).sum(-1)
