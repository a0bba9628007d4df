"""The traces of sessions, from which windows are gathered. They are held on the device, or read from the sessions' files on use."""

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
    """Traces of the neurons of some Trials, each session once: fluorescence, or 1 + dF/F for a session that has only dF/F.

    Parameters
    ----------
    parts : sequence of Trials
        The parts of a split, all of one source.
    device : torch.device or str
        The device on which `gather` returns windows.
    memory_mb : float, optional
        If the traces take more MB (2**20 bytes) than this, they are not held on the device and windows are read on use, with the same results. If a
        session's file holds plain numbers, as a store writes them, single windows are read from it. If the file is packed, the source reads the
        whole session; a store keeps the last few of them. None holds all traces.

    Attributes
    ----------
    sessions : list of str
        Keys of the sessions; `gather` takes their positions.
    nbytes : int
        Bytes of all traces, float32, whether they are held or not.
    held : bool
        Whether the device holds the traces.
    is_dff : list of bool
        For each session, whether its traces are 1 + dF/F.
    device : torch.device

    Raises
    ------
    QfError
        If memory_mb is out of range, or a session can't be read.

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
            # where each neuron's trace begins; a neuron that isn't held has an impossible position
            begins = np.full(ds.sizes["neuron"], -(2**62))
            begins[mine] = end + np.arange(len(mine)) * traces.shape[1]
            before.append(sum(map(len, first)))
            first.append(begins)
            self.is_dff.append(signal_of(ds) == "dff")
            end += traces.numel()
        self._before, self._first = torch.tensor(before, device=self.device), torch.from_numpy(np.concatenate(first)).to(self.device)

    def gather(self, session: int | torch.Tensor, neurons: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
        """Gather windows of the traces. `session`, `neurons` and `starts` are broadcast together.

        Parameters
        ----------
        session : int or long tensor
            Positions in `sessions`.
        neurons : long tensor
            Rows of the sessions, among those that the Trials choose.
        starts : long tensor
            First frame of each window. Each window must lie inside the recording.
        length : int
            Frames of a window.

        Returns
        -------
        float32 tensor, shape (..., length)
            A copy on the device, which the caller may change.

        Raises
        ------
        QfError
            If a session is read from its file, and the file can't be read or has changed.
        """
        if self.held:
            return self._cut(self._first[self._before[session] + neurons] + starts, length)
        which = torch.broadcast_tensors(*(torch.as_tensor(v).cpu() for v in (session, neurons, starts)))
        read = torch.from_numpy(self._read(*(v.flatten().numpy() for v in which), length))
        return read.to(self.device).reshape(*which[0].shape, length)

    def _read(self, session, neurons, starts, length):
        """Read windows, float32 (n, length), one session after the other."""
        out = np.empty((len(session), length), np.float32)
        order = np.argsort(session, kind="stable")
        found, first = np.unique(session[order], return_index=True)
        for i, here in zip(found, np.split(order, first[1:]), strict=True):
            out[here] = self._files[i].read(neurons[here], starts[here], length)
        return out

    def _cut(self, first, length):
        """Windows of the flat traces that begin at the positions `first`."""
        if self.device.type == "cpu":  # torch copies rows of an overlapping view as blocks, ten times as fast as single numbers
            windows = self._flat.as_strided((len(self._flat) - length + 1, length), (1, 1))
            return windows.index_select(0, first.flatten()).reshape(*first.shape, length)
        return self._flat[first[..., None] + torch.arange(length, device=self.device)]


class _OnUse:
    """A session whose windows are read on use: from its file if that holds plain numbers, else from the source, which keeps the last few sessions."""

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
        except DamagedFileError:  # the source has warned already, and returned the previous version of the session
            return None

    def _equals(self, values):
        """Whether the file holds exactly these numbers, to the bit."""
        start = np.zeros(1, int)
        return all(self._from_file(np.array([i]), start, self.frames).tobytes() == row.tobytes() for i, row in enumerate(values))

    def read(self, neurons, starts, length):
        """Windows, float32 (n, length), on the scale of `as_fluorescence`."""
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
        """Raise QfError if the file was cut short, or is not the one that was there at the start."""
        if not whole or _version(found) != self.version:
            raise QfError(
                f"{self.path}: expected the file as it was when the training began, found it changed. Start again, and leave it alone meanwhile."
            )


def _version(found):
    """The values of `os.stat` that differ between a file and one that was written later."""
    return found.st_mtime_ns, found.st_size, found.st_ino
