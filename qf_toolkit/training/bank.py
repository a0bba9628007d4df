"""Observations on the device: traces stored once, windows gathered by index, no worker and no per-item Python."""

import hashlib
import warnings

import numpy as np
import torch

from ..errors import QfError
from ..models.batch import Batch
from ..recordings.conditions import category_of
from ..recordings.session import signal_of
from ..recordings.window import as_fluorescence, is_active, response_gain, window_dff

CHUNK = 8192  # observations looked at together where every window is visited once


def tell_left_out(*banks):
    """Warn with the count of the observations that these banks had to leave out, where there are any."""
    unusable, unknown = sum(b.unusable for b in banks), sum(b.unknown for b in banks)
    total = sum(len(b) for b in banks) + unusable + unknown
    counts = {"values missing in the window, or F0 too small": unusable, "a neuron or stimulus without a token": unknown}
    for why, n in counts.items():
        if n:
            warnings.warn(f"left out: {n} of {total} observations, trial x neuron ({why})", stacklevel=3)


class Bank:
    """Every usable observation (trial x neuron) of some Trials.

    Parameters
    ----------
    trials : Trials
    neurons : dict
        {neuron key: position in the model's table}.
    stimuli : dict
        {key of the stimulus token, a condition or a category: position}.
    device : torch.device
    scale : dict, optional
        {neuron key: divisor of its signal}; 1 where left out.

    Attributes
    ----------
    neuron, condition, session : long tensors (n,)
    row, trial : long tensors (n,)
        Positions in `keys` and `conditions`.
    keys : list of str
        The neuron of each row, a neuron of a session.
    conditions : list of str
        The condition of each trial.
    active, gain : float tensors (n,)
        The label, and what it is a threshold on.
    unusable, unknown : int
        Observations left out: something missing in the window, or a neuron or stimulus without a token.
    """

    def __init__(self, trials, neurons, stimuli, device, scale=None):
        self.window, self.device, self._stimuli = trials.window, device, dict(stimuli)
        self.n_baseline, self.n_response, self.n_f0 = trials.window.frames(trials.rate_hz)
        self.length = self.n_baseline + self.n_response
        flat, first, self.unknown, self.unusable = [], [], 0, 0
        columns = {name: [] for name in ("neuron", "condition", "session")}
        per_neuron = {name: [] for name in ("floor", "mean", "sd", "scale")}
        offset = 0
        self.keys, self.conditions = [], []
        for position, session in enumerate(trials.sessions):
            ds, rows = trials.source[session], trials.rows[session]
            traces, floor = as_fluorescence(ds)
            traces = traces[rows]
            mean, sd = np.zeros(len(rows), np.float32), np.ones(len(rows), np.float32)
            if trials.window.signal == "zscore":
                mean, sd = trials.scale_of(session)
                mean = mean + np.float32(signal_of(ds) == "dff")  # as_fluorescence has added 1
            keys = trials.neurons_of(session)
            table = trials.table[trials.table["session"] == session]
            token = table["condition"].map({c: token_id(stimuli, c) for c in table["condition"].unique()})
            known = np.array([k in neurons for k in keys])
            self.unknown += len(table) * len(rows) - int(token.notna().sum()) * int(known.sum())
            table, token = table[token.notna()], token[token.notna()].to_numpy(dtype=np.int64)
            rows, keys, traces = rows[known], [k for k in keys if k in neurons], traces[known]
            floor, mean, sd = floor[trials.rows[session]][known], mean[known], sd[known]
            starts = table["onset_frame"].to_numpy() - self.n_baseline
            first.append((offset + starts[:, None] + np.arange(len(rows)) * traces.shape[1]).ravel())
            columns["neuron"].append(np.tile([neurons[k] for k in keys], len(table)))
            columns["condition"].append(np.repeat(token, len(rows)))
            n_score = trials.window.score_frames(float(ds.attrs["rate_hz"]), table["stimulus"].tolist())
            columns.setdefault("n_score", []).append(np.repeat(n_score, len(rows)))
            columns["session"].append(np.full(len(table) * len(rows), position))
            per_neuron["floor"].append(floor)
            per_neuron["mean"].append(mean)
            per_neuron["sd"].append(sd)
            per_neuron["scale"].append(np.array([(scale or {}).get(k, 1.0) for k in keys], np.float32))
            columns.setdefault("row", []).append(np.tile(np.arange(len(rows)) + len(self.keys), len(table)))
            columns.setdefault("trial", []).append(np.repeat(np.arange(len(table)) + len(self.conditions), len(rows)))
            flat.append(traces.ravel())
            offset += traces.size
            self.keys += keys
            self.conditions += table["condition"].tolist()
        self.flat = torch.from_numpy(np.concatenate(flat).astype(np.float32, copy=False)).to(device)
        for name, parts in columns.items():
            setattr(self, name, torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device))
        self.first = torch.from_numpy(np.concatenate(first).astype(np.int64)).to(device)
        self.floor, self.mean, self.sd, self.scale = (
            torch.from_numpy(np.concatenate(per_neuron[n]).astype(np.float32)).to(device) for n in ("floor", "mean", "sd", "scale")
        )
        self._frames = torch.arange(self.length, device=device)
        self.active, self.gain = (torch.zeros(len(self.first), device=device) for _ in range(2))
        self._keep_usable()

    def __len__(self):
        return len(self.first)

    def digest(self):
        """A hash of what is learnt from but the traces themselves: which windows, labels, tokens and scales."""
        found = hashlib.blake2b(digest_size=12)
        for name in ("first", "neuron", "active", "gain", "scale", "mean", "sd"):
            found.update(getattr(self, name).cpu().numpy().tobytes())
        # tokens by key: where features make them, their positions depend on which conditions a model has met before
        names = {i: k for k, i in self._stimuli.items()}
        used, which = self.condition.cpu().unique(return_inverse=True)
        keys = [names[i] for i in used.tolist()]
        found.update("\n".join(sorted(keys)).encode() + np.argsort(np.argsort(keys))[which.numpy()].tobytes())
        return found.hexdigest()

    def _keep_usable(self):
        keep = torch.zeros(len(self.first), dtype=torch.bool, device=self.device)
        for at in self.chunks():
            x, usable = self._signal(at)
            keep[at] = usable & torch.isfinite(x).all(1)
            # the label is a gain in fluorescence, whatever signal is forecast
            dff, has_f0 = window_dff(self.flat[self.first[at, None] + self._frames], self.n_baseline, self.n_f0, self.floor[self.row[at]])
            gain = response_gain(dff[:, self.n_baseline :], self.n_score[at], self.window)
            self.active[at] = (is_active(gain, self.window) & has_f0).float()
            self.gain[at] = torch.where(has_f0, gain, 0.0)
        self.unusable = int((~keep).sum())
        for name in ("first", "neuron", "condition", "session", "row", "trial", "n_score", "active", "gain"):
            setattr(self, name, getattr(self, name)[keep])
        if not len(self.first):
            raise QfError(
                f"trials: no observation is left in one part of the split ({self.unusable} with values missing or F0 too small, {self.unknown} of a "
                "neuron or stimulus without a token, since the training part has none of it). Look at the recording with `qf info`; where every "
                'trial is a condition of its own, take stim_token="category" (--stim-token category) or "features".'
            )

    def _signal(self, at):
        windows = self.flat[self.first[at, None] + self._frames]
        row = self.row[at]
        if self.window.signal == "zscore":
            return (windows - self.mean[row, None]) / self.sd[row, None], torch.ones_like(row, dtype=torch.bool)
        return window_dff(windows, self.n_baseline, self.n_f0, self.floor[row])

    def signal(self, at):
        """Windows (b, T) of the observations `at` in units of the window's signal (dF/F, or z-scores)."""
        return self._signal(at)[0]

    def batch(self, at):
        """The observations `at` as a Batch with N = 1, divided by each neuron's scale."""
        x = (self._signal(at)[0] / self.scale[self.row[at], None])[:, None]
        return Batch(x, torch.ones_like(x, dtype=torch.bool), self.neuron[at, None], self.condition[at], self.session[at])

    def chunks(self):
        """Positions of all observations, CHUNK at a time."""
        return torch.arange(len(self), device=self.device).split(CHUNK)

    def beta(self, most=100.0):
        """inactive / active (paper 3.3), capped at `most` and finite without actives."""
        actives = float(self.active.sum())
        return min((len(self) - actives) / max(actives, 1.0), most)

    def spread(self):
        """Standard deviation of each row's signal over its windows, float32 array (row,), 0 where it has none; and how many frames those have.

        Summed in float64, and so on the host: Apple's GPUs have no float64.
        """
        total, squares, count = (np.zeros(len(self.keys)) for _ in range(3))
        for at in self.chunks():
            x, row = self.signal(at).cpu().numpy().astype(np.float64), self.row[at].cpu().numpy()
            np.add.at(total, row, x.sum(1))
            np.add.at(squares, row, np.square(x).sum(1))
            np.add.at(count, row, x.shape[1])
        filled = np.maximum(count, 1)
        return np.sqrt(np.maximum(squares / filled - np.square(total / filled), 0)).astype(np.float32), count


def token_id(ids, condition):
    """The token of a condition in {key: position}: its own, else its category's, else None."""
    own = ids.get(condition)
    return ids.get(category_of(condition)) if own is None else own
