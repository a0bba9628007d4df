"""The base of auto-encoders of single neurons' traces: they code whole windows, and decode what they coded."""

from copy import copy
from typing import Any

import numpy as np
import torch
import xarray as xr

from ..errors import QfError
from ..recordings.trials import check_trials
from ..training.bank import CHUNK
from ..training.traces import Traces
from .checks import check_window
from .digests import Digest
from .divisors import divisors_of
from .interface import Estimator, origin


class Coder(Estimator):
    """Codes and reconstructs windows. A subclass has a `config` with the places of its patches, and says in `_coded` how its module codes.

    Attributes
    ----------
    module : nn.Module
        Its `decode` turns codes, long (B, P), into windows, float32 (B, T), divided by each neuron's divisor.
    window : Window
    normalise : {"neuron", "global", "none"}
        Which divisor a neuron's signal has; see `divisors_of`.
    scale : dict
        {neuron key: divisor, in units of the signal}; the key "" holds the pooled divisor.
    scaling : dict or None
        {session: {neuron key: (mean, sd)}} under signal="zscore", else None.
    config : dataclass
        Has rate_hz, codes, patches, patch_frames, patch_starts, baseline_patches, n_baseline and n_response (frames before and after the onset that
        are coded), and first, the frames of the window before these.
    """

    task = "codes"
    module: Any
    config: Any

    def __init__(self, module, window, normalise, scale, seen, history, scaling=None, seed=None, simulated=None, reference=None):
        super().__init__()
        self._digest = Digest()
        self.module, self.window, self.normalise, self.scale = module.eval(), window, normalise, scale
        self.seen, self.history, self.scaling, self.seed, self.simulated = seen, history, scaling, seed, simulated
        self.reference = reference

    def _coded(self, x):
        """Reconstructions, float32 (B, T), and codes, long (B, P) or None, of windows x (B, T) on the device."""
        raise NotImplementedError

    def code_vectors(self):
        """The vectors of the codes, float32 array (code, width)."""
        raise NotImplementedError

    @property
    def autoencoder(self):
        """Itself, so that callers find the codes of every model in one place."""
        return self

    @property
    def patch_frames(self):
        """Frames of a patch."""
        return self.config.patch_frames

    @property
    def device(self):
        return next(self.module.parameters()).device

    def digest(self):
        """A hash of the weights, divisors and z-scores, which decide the codes."""
        return self._digest(self.module.state_dict(), [self.scale, self.scaling])

    def divisor(self, neuron):
        """The divisor of a neuron's signal, in units of the signal; the pooled divisor for a neuron not seen in training."""
        return self.scale.get(neuron, self.scale[""])

    def prepare(self, trials):
        """Check rate, window and signal of trials, and give them this model's z-scores; raises QfError if they differ from the model's."""
        return check_window(self.window, self.config.rate_hz, trials, self.scaling)

    def measured_by(self, scale, scaling):
        """A copy with the same weights that divides and z-scores as `scale` and `scaling` say, where they say it."""
        found = copy(self)
        found._digest, found.scale, found.scaling = Digest(), {**self.scale, **scale}, merged_scaling(self.scaling, scaling)
        return found

    def knowing(self, neurons, trials, traces=None):
        """This auto-encoder, with the divisors and z-scores of new neurons.

        Parameters
        ----------
        neurons : sequence of str
            Keys.
        trials : Trials
            The training part on which they are measured, as in `pretrain`.
        traces : Traces, optional
            Traces that hold their sessions.

        Returns
        -------
        Coder
            Itself if `neurons` is empty. Otherwise a copy with the same weights, because other models may share this one.

        Raises
        ------
        QfError
            If no observation is usable.
        """
        if not neurons:
            return self
        found, scaling = copy(self), self.scaling
        scale = divisors_of(trials, self.normalise, traces or Traces([trials], self.device))
        found._digest, found.scale = Digest(), {**self.scale, **{n: scale[n] for n in neurons}}
        if scaling is not None:
            found.scaling = dict(scaling)
            for session, known in trials.scaling.items():
                found.scaling[session] = {**scaling.get(session, {}), **{n: known[n] for n in neurons if n in known}}
        return found

    def predict(self, trials):
        """Reconstructions of whole windows of one session, unmasked, and their codes if the model has a codebook; see `codes`."""
        ds = self.prepare(trials).dataset()
        codes, reconstruction = self.codes_arrays(ds[self.window.signal].values, [str(n) for n in ds["neuron"].values])
        dims = ("trial", "neuron")
        coded = {} if codes is None else {"code": ((*dims, "patch"), codes)}
        found = xr.Dataset({**coded, "reconstruction": ((*dims, "time"), reconstruction)}, ds.coords, ds.attrs)
        found = found.assign_coords(start_s=("patch", self.config.patch_starts)).assign_attrs(origin(trials, self))
        for name in found.data_vars:  # so that a variable that is taken out of the Dataset keeps its origin
            found[name].attrs.update(found.attrs)
        return found

    def codes(self, trials):
        """Codes and reconstructions of whole windows of one session, unmasked.

        Parameters
        ----------
        trials : Trials
            Of one session.

        Returns
        -------
        xarray.Dataset
            `code` (trial, neuron, patch), int64, -1 where the window isn't whole; `reconstruction` (trial, neuron, time), float32 in units of the
            signal, NaN where the window isn't whole; coord `start_s` (patch), the start of each patch in seconds from the onset. If the first patch
            has padding, its start lies before the window.

        Raises
        ------
        QfError
            If the model has no codes, the trials belong to several sessions, or rate, window or signal are not the model's.
        """
        if not self.has_codes:
            raise QfError(f"{self.name}: expected one with a codebook, found one without (quantise=False). Ask predict for its reconstructions.")
        return self.predict(trials)

    def codes_arrays(self, x, neurons):
        """Codes and reconstructions of an array of whole windows; see `codes`.

        Parameters
        ----------
        x : array, shape (trial, neuron, time)
            Windows in units of the signal.
        neurons : sequence of str
            Keys, one per neuron of `x`.

        Returns
        -------
        codes : int64 array, shape (trial, neuron, patch), or None
            None if the model has no codes.
        reconstruction : float32 array, shape (trial, neuron, time)
        """
        x = np.asarray(x, np.float32)  # Apple's GPUs have no float64
        whole = np.isfinite(x).all(-1)
        divisor = np.array([self.divisor(n) for n in neurons], np.float32)[:, None]
        codes = np.full((*whole.shape, self.config.patches), -1) if self.has_codes else None
        out = np.full_like(x, np.nan)
        first, length = self.config.first, self.config.n_baseline + self.config.n_response
        flat = torch.from_numpy((x / divisor)[whole][:, first : first + length])
        with torch.no_grad():
            parts = [self._coded(part.to(self.device)) for part in flat.split(CHUNK)]
        if parts:
            if codes is not None:
                codes[whole] = torch.cat([p[1] for p in parts]).cpu().numpy()
            out[whole, first : first + length] = torch.cat([p[0] for p in parts]).cpu().numpy()
        return codes, out * divisor

    def code_usage(self, trials):
        """The share of patches that each code has.

        Parameters
        ----------
        trials : Trials

        Returns
        -------
        xarray.DataArray
            (code,), float64 from 0 to 1; attrs: perplexity, and codes_used, the number of codes with 0.2 % of the patches or more.

        Raises
        ------
        QfError
            If the model has no codes, or rate, window or signal of the trials are not the model's.
        """
        check_trials(trials)
        counts = np.zeros(self.config.codes)
        for part in trials.by_session():
            codes = self.codes(part)["code"].values
            counts += np.bincount(codes[codes >= 0], minlength=self.config.codes)
        share = counts / max(counts.sum(), 1)
        perplexity = float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
        return xr.DataArray(
            share, dims="code", name="usage", attrs={"perplexity": perplexity, "codes_used": int((share >= 0.002).sum()), **origin(trials, self)}
        )


def merged_scaling(*maps):
    """Join z-scores, {session: {neuron: (mean, sd)}}, of which later ones win; None if none is given."""
    found: dict = {}
    for scaling in maps:
        for session, of in (scaling or {}).items():
            found[session] = {**found.get(session, {}), **of}
    return found or None
