"""The traces of sessions, from which windows are gathered: held on the device, or read from the sessions' files on use."""

import os
from collections.abc import Sequence

import numpy as np
import torch

from ..errors import DamagedFileError, QfError
from ..models.options import check_options
from ..recordings.hdf5 import refused
from ..recordings.schema import signal_of
from ..recordings.session_file import rows_offset
from ..recordings.trials import Trials
from ..recordings.window import as_fluorescence
from .options import RunConfig


class Traces:
    """Fluorescence (or 1 + dF/F where only that exists) of the neurons of some Trials, each session once.

    Parameters
    ----------
    parts : sequence of Trials
        The parts of a split, of one source.
    device : torch.device or str
        Where windows are wanted.
    memory_mb : float, optional
        Traces of more MB (2**20 bytes) are not held on the device: their windows are read on use, with the same results. Of a session of which a
        file holds the numbers as they are, as a store writes them, single windows are read. One that is packed is taken from the source as a
        whole: a store keeps the last few of them. None holds all.

    Attributes
    ----------
    sessions : list of str
        Keys; their positions are what `gather` takes.
    nbytes : int
        What they take, or would.
    held : bool
        Whether they lie on the device.
    is_dff : list of bool
        For each session, whether its traces are 1 + dF/F.

    Raises
    ------
    QfError
        If memory_mb is out of range, or a session can't be read or changes meanwhile.

    Examples
    --------
    >>> import pandas as pd
    >>> from qf_toolkit.recordings.session import new_session
    >>> from qf_toolkit.recordings.trials import cut
    >>> shown = pd.DataFrame({"onset_frame": [40], "offset_frame": [60], "stimulus": ["grating"]})
    >>> fluorescence = np.arange(200, dtype=np.float32).reshape(2, 100)
    >>> session = new_session(fluorescence, subject="mouse", session="A", rate_hz=10, trials=shown)
    >>> traces = Traces([cut(session)])
    >>> traces.gather(0, torch.tensor([0, 1]), torch.tensor([10]), 3)
    tensor([[ 10.,  11.,  12.],
            [110., 111., 112.]])
    """

    def __init__(self, parts: Sequence[Trials], device: torch.device | str = "cpu", memory_mb: float | None = None):
        memory_mb = check_options(RunConfig, {"memory_mb": memory_mb})["memory_mb"]
        self.device = torch.device(device)
        sources = {session: trials.source for trials in parts for session in trials.sessions}
        rows = {s: np.unique(np.concatenate([t.rows[s] for t in parts if s in t.rows])) for s in sources}
        self.sessions = list(sources)
        self.nbytes = 4 * sum(len(rows[s]) * source.header(s).sizes["frame"] for s, source in sources.items())
        self.held = memory_mb is None or self.nbytes <= memory_mb * 2**20
        if self.held:
            self._hold(sources, rows)
        else:
            self._files = [_OnUse(source, session) for session, source in sources.items()]
            self.is_dff = [file.signal == "dff" for file in self._files]

    def _hold(self, sources, rows):
        self._flat = torch.empty(self.nbytes // 4, dtype=torch.float32, device=self.device)
        self.is_dff, first, before, end = [], [], [], 0
        for session, source in sources.items():
            ds, mine = source[session], rows[session]
            traces = torch.from_numpy(np.ascontiguousarray(as_fluorescence(ds)[0][mine]))
            self._flat[end : end + traces.numel()] = traces.flatten().to(self.device)
            # where each neuron of the session begins; one that isn't held has no place
            begins = np.full(ds.sizes["neuron"], -(2**62))
            begins[mine] = end + np.arange(len(mine)) * traces.shape[1]
            before.append(sum(map(len, first)))
            first.append(begins)
            self.is_dff.append(signal_of(ds) == "dff")
            end += traces.numel()
        self._before, self._first = torch.tensor(before, device=self.device), torch.from_numpy(np.concatenate(first)).to(self.device)

    def gather(self, session: int | torch.Tensor, neurons: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
        """Windows of the traces.

        Parameters
        ----------
        session : int or long tensor
            Positions in `sessions`.
        neurons : long tensor
            Rows of the sessions, among those that the Trials choose.
        starts : long tensor
            First frame of each window, which must lie inside the recording; session, neurons and starts are broadcast together.
        length : int
            Frames of a window.

        Returns
        -------
        float tensor, shape (..., length)
            On the device, the caller's own.

        Raises
        ------
        QfError
            If a session is read from its file, and that can't be read or has changed.
        """
        if self.held:
            return self._cut(self._first[self._before[session] + neurons] + starts, length)
        which = torch.broadcast_tensors(*(torch.as_tensor(v).cpu() for v in (session, neurons, starts)))
        read = torch.from_numpy(self._read(*(v.flatten().numpy() for v in which), length))
        return read.to(self.device).reshape(*which[0].shape, length)

    def _read(self, session, neurons, starts, length):
        """Windows (n, length) from where the sessions lie, one session after the other."""
        out = np.empty((len(session), length), np.float32)
        order = np.argsort(session, kind="stable")
        found, first = np.unique(session[order], return_index=True)
        for i, here in zip(found, np.split(order, first[1:]), strict=True):
            out[here] = self._files[i].read(neurons[here], starts[here], length)
        return out

    def _cut(self, first, length):
        """Windows of the flat traces from these positions on."""
        if self.device.type == "cpu":  # rows of an overlapping view are copied as blocks, ten times as fast as single numbers
            windows = self._flat.as_strided((len(self._flat) - length + 1, length), (1, 1))
            return windows.index_select(0, first.flatten()).reshape(*first.shape, length)
        return self._flat[first[..., None] + torch.arange(length, device=self.device)]


class _OnUse:
    """A session whose windows are read when they are wanted: from its file, or else from the source, which keeps the last few sessions."""

    def __init__(self, source, session):
        self.source, self.session = source, session
        self.path = source.file(session) if hasattr(source, "file") else None  # sessions in memory have none
        self.version = None if self.path is None else _version(self._stat())
        ds = source[session]
        self.signal, values = signal_of(ds), ds[signal_of(ds)].values
        self.frames, self.offset = values.shape[1], None if self.path is None else self._offset()
        if self.offset is not None and not self._equals(values):
            self.offset = None

    def _stat(self):
        try:
            return os.stat(self.path)
        except OSError as e:
            raise refused(self.path, e) from e

    def _offset(self):
        try:
            return rows_offset(self.path, self.signal)
        except DamagedFileError:  # the source has warned, and gave the version before it
            return None

    def _equals(self, values):
        """Whether the file holds these numbers, to the bit."""
        start = np.zeros(1, int)
        return all(self._from_file(np.array([i]), start, self.frames).tobytes() == row.tobytes() for i, row in enumerate(values))

    def read(self, neurons, starts, length):
        """Windows (n, length) on the scale of `as_fluorescence`."""
        if self.offset is not None:
            x = self._from_file(neurons, starts, length)
        else:
            if self.path is not None:
                self._check(self._stat())
            traces = self.source[self.session][self.signal].values
            x = traces[neurons[:, None], starts[:, None] + np.arange(length)]
        return x + np.float32(1) if self.signal == "dff" else x

    def _from_file(self, neurons, starts, length):
        x = np.empty((len(neurons), length), "<f4")
        begins = self.offset + 4 * (neurons * self.frames + starts)
        try:
            with open(self.path, "rb", buffering=0) as f:
                for begin, row in zip(begins.tolist(), x, strict=True):
                    f.seek(begin)
                    whole = f.readinto(row) == row.nbytes
                    if not whole:
                        break
                self._check(os.fstat(f.fileno()), whole)
        except OSError as e:
            raise refused(self.path, e) from e
        return x

    def _check(self, found, whole=True):
        """Refuse the file where it is another than at first."""
        if not whole or _version(found) != self.version:
            raise QfError(
                f"{self.path}: expected the file as it was when the training began, found it changed. Start again, and leave it alone meanwhile."
            )


def _version(found):
    """What tells a file from one that was written later, of its `os.stat`."""
    return found.st_mtime_ns, found.st_size, found.st_ino
