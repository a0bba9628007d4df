"""Observations on the device. The traces are stored once, and a batch gathers its windows by index: no workers, no Python code per item."""

import hashlib
import warnings
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch

from ..errors import QfError
from ..models.batch import Batch
from ..recordings.conditions import category_of
from ..recordings.trials import Trials
from ..recordings.window import is_active, response_gain, window_dff, window_f0
from .traces import Traces

CHUNK = 8192  # observations that are processed together when all windows are visited once


def tell_left_out(*banks: "Bank") -> None:
    """Warn if these banks had to leave out observations; the warning gives their number and the reason."""
    unusable, unknown = sum(b.unusable for b in banks), sum(b.unknown for b in banks)
    total = sum(len(b) for b in banks) + unusable + unknown
    counts = {"values missing in the window, or F0 too small": unusable, "a neuron or stimulus without a token": unknown}
    for why, n in counts.items():
        if n:
            warnings.warn(f"left out: {n} of {total} observations, trial x neuron ({why})", stacklevel=3)


class Bank:
    """All usable observations (trial x neuron) of some Trials. It gives batches of single observations, or of whole trials.

    A row is a neuron of a session. An observation takes 13 bytes: its row, its trial, its label and its gain. All else is looked up in tables of rows
    and of trials.

    Parameters
    ----------
    trials : Trials
    neurons : dict
        {neuron key: position in the model's token table}.
    stimuli : dict
        {key of a stimulus token, a condition or a category: position}.
    device : torch.device or str
    scale : dict, optional
        {neuron key: divisor, in units of the signal}. A neuron that it lacks has the divisor 1, and so have all if it is None.
    traces : Traces, optional
        Traces that hold the sessions of these trials; several banks may share them. If None, the bank reads traces of its own.

    Attributes
    ----------
    row, trial : int32 tensors, shape (n,)
        Positions of each observation in `keys` and `conditions`. The observations of a trial follow one another, sorted by row.
    active : bool tensor, shape (n,)
        The label: whether the response's gain passes the window's threshold.
    gain : float32 tensor, shape (n,)
        The mean of dF/F, or of its absolute value, over the scored part of the response; a fraction of F0.
    keys : list of str
        The neuron of each row.
    conditions : list of str
        The condition of each trial.
    divisors : float32 tensor, shape (row,)
        The divisor of each row, in units of the signal.
    window : Window
    device : torch.device
        The device of all tensors.
    traces : Traces
    length, n_baseline, n_response, n_f0 : int
        Frames of a window, of its baseline, of its response, and of F0.
    unusable, unknown : int
        How many observations were left out because a value is missing in the window or F0 is too small, and how many because the neuron or the
        stimulus has no token.

    Raises
    ------
    QfError
        If no observation is usable, or a session can't be read.

    Examples
    --------
    >>> neurons, conditions = trials.neurons, sorted(set(trials.table["condition"]))
    >>> bank = Bank(trials, {n: i for i, n in enumerate(neurons)}, {c: i for i, c in enumerate(conditions)}, "cpu")
    >>> len(bank), tuple(bank.batch(torch.tensor([0, 5])).x.shape), tuple(bank.population(torch.tensor([1])).x.shape)
    (238, (2, 1, 50), (1, 14, 50))
    """

    def __init__(
        self, trials: Trials, neurons: dict, stimuli: dict, device: torch.device | str, scale: dict | None = None, traces: Traces | None = None
    ):
        self.window, self.device, self._stimuli = trials.window, torch.device(device), dict(stimuli)
        self.n_baseline, self.n_response, self.n_f0 = trials.window.frames(trials.rate_hz)
        self.length = self.n_baseline + self.n_response
        self.traces = Traces([trials], device) if traces is None else traces
        self.keys, self.conditions, self.unknown, self.unusable = [], [], 0, 0
        self._spans = {}  # {session: (its first row, one past its last row)}
        rows, shown, index, frames = [], [], [], 0
        for session in trials.sessions:
            header, position = trials.source.header(session), self.traces.sessions.index(session)
            known, mine = self._rows_of(trials, session, neurons, scale or {}, self.traces.is_dff[position])
            mine |= {"session": np.full(len(known), position), "begin": frames + np.arange(len(known)) * header.sizes["frame"]}
            frames += len(known) * header.sizes["frame"]
            table = trials.table[trials.table["session"] == session]
            token = table["condition"].map({c: token_id(stimuli, c) for c in table["condition"].unique()})
            self.unknown += len(table) * len(trials.rows[session]) - int(token.notna().sum()) * len(known)
            table, token = table[token.notna()], token[token.notna()].to_numpy(dtype=np.int64)
            n_score = trials.window.score_frames(float(header.attrs["rate_hz"]), table["stimulus"].tolist())
            start = table["onset_frame"].to_numpy(dtype=np.int64) - self.n_baseline
            shown.append({"session": np.full(len(table), position), "condition": token, "start": start, "n_score": n_score})
            row, trial = np.arange(len(known)) + len(self.keys), np.arange(len(table)) + len(self.conditions)
            index.append({"row": np.tile(row, len(table)).astype(np.int32), "trial": np.repeat(trial, len(known)).astype(np.int32)})
            self._spans[position] = len(self.keys), len(self.keys) + len(known)
            rows.append(mine)
            self.keys += known
            self.conditions += table["condition"].tolist()
        self._of_row, self._of_trial = _joined(rows, self.device), _joined(shown, self.device)
        self._session_of_trial = self._of_trial["session"].tolist()  # on the host, which must know the rows of a batch
        self.row, self.trial = _joined(index, self.device).values()
        self.divisors = self._of_row["scale"]
        self._keep_usable()

    @staticmethod
    def _rows_of(trials, session, neurons, scale, is_dff):
        """The keys of a session's neurons that are in the model's table, and the columns of the table of rows for them, {name: array (row,)}."""
        ds, keys = trials.source.header(session), trials.neurons_of(session)
        mean, sd = np.zeros(len(keys), np.float32), np.ones(len(keys), np.float32)
        if trials.window.signal == "zscore":
            mean, sd = trials.scale_of(session)
            mean = mean + np.float32(is_dff)  # the traces are 1 + dF/F
        known = np.array([k in neurons for k in keys], bool)
        keys = [k for k in keys if k in neurons]
        found = {"place": trials.rows[session][known].astype(np.int64), "neuron": np.array([neurons[k] for k in keys], np.int64)}
        found |= {"floor": np.full(len(keys), ds.attrs["f0_floor"], np.float32), "mean": mean[known], "sd": sd[known]}
        return keys, found | {"scale": np.array([scale.get(k, 1.0) for k in keys], np.float32)}

    def __len__(self):
        return len(self.row)

    @property
    def nbytes(self) -> int:
        """Bytes of the index and of the tables; the traces have their own `nbytes`."""
        tables = (*self._of_row.values(), *self._of_trial.values())
        return sum(v.nbytes for v in (self.row, self.trial, self.active, self.gain, *tables))

    def neuron(self, at: torch.Tensor) -> torch.Tensor:
        """Positions of the observations' neurons in the model's token table, long (b,), for `at`, long (b,)."""
        return self._of_row["neuron"][self.row[at].long()]

    def condition(self, at: torch.Tensor) -> torch.Tensor:
        """Positions of the observations' stimulus tokens, long (b,), for `at`, long (b,)."""
        return self._of_trial["condition"][self.trial[at].long()]

    def session(self, at: torch.Tensor) -> torch.Tensor:
        """Positions of the observations' sessions in `traces.sessions`, long (b,), for `at`, long (b,)."""
        return self._of_trial["session"][self.trial[at].long()]

    def n_score(self, at: torch.Tensor) -> torch.Tensor:
        """How many frames from the onset on are labelled and scored, long (b,), for `at`, long (b,)."""
        return self._of_trial["n_score"][self.trial[at].long()]

    def divisor(self, at: torch.Tensor) -> torch.Tensor:
        """Divisors of the observations, float32 (b,) in units of the signal, for `at`, long (b,)."""
        return self.divisors[self.row[at].long()]

    def digest(self) -> str:
        """A hash of the windows' positions, labels, gains, tokens, divisors and z-scores. It leaves out the traces, which sessions' fingerprints cover."""
        found = hashlib.blake2b(digest_size=12)
        each = {
            "first": lambda at: self._of_row["begin"][self.row[at].long()] + self._of_trial["start"][self.trial[at].long()],
            "neuron": self.neuron, "active": lambda at: self.active[at].float(), "gain": lambda at: self.gain[at],
        }  # fmt: skip
        for values in each.values():
            for at in self.chunks():
                found.update(values(at).cpu().numpy().tobytes())
        for name in ("scale", "mean", "sd"):
            found.update(self._of_row[name].cpu().numpy().tobytes())
        # tokens enter by key: if they are made of features, their positions depend on the conditions that the model has met before
        names = {i: k for k, i in self._stimuli.items()}
        used = self._of_trial["condition"][self.trial.unique().long()].unique()
        keys = [names[i] for i in used.tolist()]
        found.update("\n".join(sorted(keys)).encode())
        rank = np.argsort(np.argsort(keys))
        for at in self.chunks():
            found.update(rank[torch.searchsorted(used, self.condition(at)).cpu().numpy()].tobytes())
        return found.hexdigest()

    def _keep_usable(self):
        n = len(self)
        keep, self.active = (torch.zeros(n, dtype=torch.bool, device=self.device) for _ in range(2))
        self.gain = torch.zeros(n, device=self.device)
        for at in self.chunks():
            windows, row = self._windows(at), self.row[at].long()
            # the label is always a gain of fluorescence, whatever signal is forecast
            dff, has_f0 = window_dff(windows, self.n_baseline, self.n_f0, self._of_row["floor"][row])
            gain = response_gain(dff[:, self.n_baseline :], self.n_score(at), self.window)
            self.active[at] = is_active(gain, self.window) & has_f0
            self.gain[at] = torch.where(has_f0, gain, 0.0)
            x, usable = self._signal(windows, row)
            keep[at] = self._valid(x, usable).all(1)
        self.row, self.trial, self.active, self.gain = (v[keep] for v in (self.row, self.trial, self.active, self.gain))
        self.unusable = n - len(self)
        if not len(self):
            raise QfError(
                f"trials: no observation is left in one part of the split ({self.unusable} with values missing or F0 too small, {self.unknown} of a "
                "neuron or stimulus without a token, since the training part has none of it). Look at the recording with `qf info`; where every "
                'trial is a condition of its own, take stim_token="category" (--stim-token category) or "features".'
            )

    def _windows(self, at):
        """Windows of fluorescence, float32 (b, T), of the observations `at`."""
        row, trial = self.row[at].long(), self.trial[at].long()
        return self.traces.gather(self._of_row["session"][row], self._of_row["place"][row], self._of_trial["start"][trial], self.length)

    def _signal(self, windows, row):
        """Turn fluorescence (..., T) into the window's signal, in place. Returns it and which windows have an F0, bool (...); under z-scores, which need
        no F0, the latter is None."""
        if self.window.signal == "zscore":
            windows.sub_(self._of_row["mean"][row][..., None]).div_(self._of_row["sd"][row][..., None])
            return windows, None
        f0, usable = window_f0(windows, self.n_baseline, self.n_f0, self._of_row["floor"][row])
        return windows.sub_(f0[..., None]).div_(f0[..., None]), usable

    def _valid(self, x, usable):
        """Which frames of the signal (..., T) count, bool (..., T). No frame of a window without F0 counts; under z-scores, none without a whole
        baseline."""
        finite = torch.isfinite(x)
        return finite & (finite[..., : self.n_baseline].all(-1) if usable is None else usable)[..., None]

    def signal(self, at: torch.Tensor) -> torch.Tensor:
        """Windows of the observations `at`, long (b,), as float32 (b, T) in units of the window's signal (dF/F as a fraction, or z-scores)."""
        return self._signal(self._windows(at), self.row[at].long())[0]

    def batch(self, at: torch.Tensor) -> Batch:
        """The observations `at`, long (b,), as a Batch with B = b and N = 1.

        Returns
        -------
        Batch
            x is float32 (b, 1, T), divided by each neuron's divisor; all frames are valid.

        Raises
        ------
        QfError
            If the traces are read from a file, and the file can't be read or has changed.
        """
        x = self.signal(at).div_(self.divisor(at)[:, None])[:, None]
        return Batch(x, torch.ones_like(x, dtype=torch.bool), self.neuron(at)[:, None], self.condition(at), self.session(at))

    def rows_of(self, trials: torch.Tensor, most: int = 0) -> torch.Tensor:
        """The rows of the neurons of the trials' session that are in the model's table.

        Parameters
        ----------
        trials : long tensor, shape (B,)
            Positions in `conditions`, all of one session; on the host, as `trial_batches` and `trial_chunks` return them.
        most : int
            If the session has more neurons than this, draw so many of them with torch's generator; 0 takes all.

        Returns
        -------
        long tensor, shape (N,)
            Positions in `keys`, on the device.
        """
        row = torch.arange(*self._spans[self._session_of_trial[int(trials[0])]])
        if 0 < most < len(row):
            row = row[torch.randperm(len(row))[:most]]
        return row.to(self.device)

    def population(self, trials: torch.Tensor, rows: torch.Tensor | None = None) -> Batch:
        """Trials of one session as a Batch of several of its neurons.

        Parameters
        ----------
        trials : long tensor, shape (B,)
            Positions in `conditions`, all of one session. The tensor lies on the host, as `trial_batches` and `trial_chunks` return it, so that
            nothing waits for the device.
        rows : long tensor, shape (N,), optional
            Rows of that session, as `rows_of` returns them; all of them if it is None.

        Returns
        -------
        Batch
            x is float32 (B, N, T), divided by each neuron's divisor. `valid` is False and x is 0 where a value is missing, where F0 is too small,
            or, under signal="zscore", where the baseline is not whole.

        Raises
        ------
        QfError
            If the traces are read from a file, and the file can't be read or has changed.
        """
        session = self._session_of_trial[int(trials[0])]
        row, trials = self.rows_of(trials) if rows is None else rows, trials.to(self.device)
        start = self._of_trial["start"][trials]
        x, usable = self._signal(self.traces.gather(session, self._of_row["place"][row], start[:, None], self.length), row)
        valid = self._valid(x, usable)
        x = torch.where(valid, x, 0.0).div_(self.divisors[row, None])
        neuron = self._of_row["neuron"][row].expand(len(trials), -1)
        return Batch(x, valid, neuron, self._of_trial["condition"][trials], self._of_trial["session"][trials])

    @cached_property
    def _order(self):
        """A number for each observation that grows with its position, long (n,)."""
        return self.trial.long() * len(self.keys) + self.row

    def observations(self, trials: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The positions of the observations of a `population`, for example to look up their labels in `active`.

        Parameters
        ----------
        trials : long tensor, shape (B,)
        rows : long tensor, shape (N,)

        Returns
        -------
        long tensor, shape (B, N)
            -1 where the bank has no usable observation.
        """
        wanted = trials.to(self.device)[:, None] * len(self.keys) + rows
        at = torch.searchsorted(self._order, wanted).clamp(max=len(self) - 1)
        return torch.where(self._order[at] == wanted, at, -1)

    def trial_batches(self, size: int | Callable[[int], int]) -> list[torch.Tensor]:
        """One epoch of batches for `population`, in random order. They hold all trials that have a usable observation.

        Parameters
        ----------
        size : int or callable
            Trials per batch, or a function that gives them for a session's number of neurons; a session's last batch may have fewer.

        Returns
        -------
        list of long tensors
            Positions in `conditions`, all of one session per tensor; on the host.
        """
        parts = [
            part
            for mine in self.trials_by_session()
            for part in mine[torch.randperm(len(mine))].split(size if isinstance(size, int) else size(self._width(mine)))
        ]
        return [parts[i] for i in torch.randperm(len(parts)).tolist()]

    def trial_chunks(self) -> list[torch.Tensor]:
        """The trials of `trial_batches` in their order, each tensor with about CHUNK observations of one session: list of long tensors, on the host."""
        return [part for mine in self.trials_by_session() for part in mine.split(max(1, CHUNK // self._width(mine)))]

    def _width(self, trials):
        """How many neurons the session of these trials has in the model's table."""
        first, end = self._spans[self._session_of_trial[int(trials[0])]]
        return end - first

    def trials_by_session(self) -> tuple[torch.Tensor, ...]:
        """The trials of `trial_batches` in their order, a long tensor for each session, on the host."""
        used = self.trial.unique().long().cpu()
        _, counts = torch.tensor(self._session_of_trial)[used].unique_consecutive(return_counts=True)
        return used.split(counts.tolist())

    def chunks(self) -> tuple[torch.Tensor, ...]:
        """Positions of all observations, as long tensors of at most CHUNK."""
        return torch.arange(len(self), device=self.device).split(CHUNK)

    def beta(self, most: float = 100.0) -> float:
        """The number of inactive observations over that of active ones (paper 3.3), at most `most`; finite even if no observation is active."""
        actives = float(self.active.sum())
        return min((len(self) - actives) / max(actives, 1.0), most)

    def spread(self) -> tuple[np.ndarray, np.ndarray]:
        """The spread of each row's signal over its windows.

        The sums are float64 and therefore made on the host: Apple's GPUs have no float64.

        Returns
        -------
        spread : float32 array, shape (row,)
            Standard deviation, in units of the signal; 0 for a row without windows.
        count : float64 array, shape (row,)
            Number of frames in all windows of the row.
        """
        total, squares, count = (np.zeros(len(self.keys)) for _ in range(3))
        for at in self.chunks():
            x, row = self.signal(at).cpu().numpy().astype(np.float64), self.row[at].cpu().numpy()
            np.add.at(total, row, x.sum(1))
            np.add.at(squares, row, np.square(x).sum(1))
            np.add.at(count, row, x.shape[1])
        filled = np.maximum(count, 1)
        return np.sqrt(np.maximum(squares / filled - np.square(total / filled), 0)).astype(np.float32), count


def token_id(ids: dict, condition: str) -> int | None:
    """The position of a condition's token in `ids`, {key: position}: its own, else that of its category, else None."""
    own = ids.get(condition)
    return ids.get(category_of(condition)) if own is None else own


def _joined(parts, device):
    """Join the tables of several sessions, each {name: array}, into one, {name: tensor on the device}."""
    return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])).to(device) for name in parts[0]}
