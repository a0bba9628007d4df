"""Options of importing, one dataclass for each kind of source.

This module imports neither numpy nor the libraries of the formats, so that the command line starts fast.
"""

from dataclasses import dataclass

from ...models.options import Options, option

SIGNALS = ("fluorescence", "dff")
TRACES = ("corrected", "raw", "demixed", "dff")
ORIENTATIONS, SWEEPS = ("neuron,frame", "frame,neuron"), "trial,neuron,time"
TYPES = ("A", "B", "C", "C2")
MOST_WORKERS = 1024
LIST = {"optional": True, "several": True}
RATE = {"least": 0.001, "most": 100_000, "noun": "frames a second", "flag": "rate", "help": "frames a second"}


@dataclass(frozen=True)
class Names(Options):
    """What the recording is called."""

    subject: str | None = option(None, "text", optional=True, help="name of the animal")
    session: str | None = option(None, "text", optional=True, help="name of the recording")


@dataclass(frozen=True)
class Table(Names):
    """Its trials."""

    trials: str | None = option(None, "path", optional=True, help="CSV file, a row a trial, onset_frame or onset_s")
    condition_columns: tuple | None = option(None, "text", **LIST, help="columns of the trial table that make the condition (all but counters)")


@dataclass(frozen=True)
class Place(Options):
    """Where it was recorded, and with what."""

    indicator: str = option("unknown", "text", help="calcium indicator")
    area: str = option("unknown", "text", help="brain area")


@dataclass(frozen=True)
class Stimulus(Options):
    """What was shown."""

    stimulus: str | None = option(None, "text", optional=True, help="stimulus category of all trials")


@dataclass(frozen=True)
class Plane(Options):
    """Which plane."""

    plane: str | None = option(None, "text", optional=True, help="one of several planes")


@dataclass(frozen=True)
class External(Options):
    """What a file may lead to."""

    allow_external: bool = option(False, "flag", help="read data that a file keeps in other files")


@dataclass(frozen=True)
class NwbOptions(External, Plane, Stimulus, Names):
    """NWB 2 files."""

    signal: str | None = option(None, "text", known=SIGNALS, optional=True, help="which traces, where both are there")
    trials: str | None = option(None, "text", optional=True, off="no-trials", help="name of the table of trials, where there are several; "
                                "no: a continuous recording, whatever tables there are")  # fmt: skip
    condition_columns: tuple | None = option(None, "text", **LIST, help="columns of the trial table that make the condition")
    matched: bool | None = option(None, "flag", optional=True, help="an ROI of that name is the same cell in every session")
    behaviour: tuple | None = option(None, "text", **LIST, off="no-behaviour", help="series of behaviour to bring in (all that can be)")


@dataclass(frozen=True)
class Suite2pOptions(Place, Plane, Table):
    """suite2p folders."""

    rate_hz: float | None = option(None, **RATE, optional=True)
    iscell: bool = option(True, "flag", off="all-rois", help="keep only what iscell.npy calls cells; all-rois: all of them")
    neuropil: float = option(0.7, least=0, most=10, noun="a factor", help="the trace is F less this times Fneu")


@dataclass(frozen=True)
class ArraysOptions(Place, Stimulus, Table):
    """Arrays in .npy or .npz files."""

    rate_hz: float | None = option(None, **RATE, optional=True)
    signal: str = option("fluorescence", "text", known=SIGNALS, help="what they are")
    key: str | None = option(None, "text", optional=True, help="name of the array inside an .npz file")
    orientation: str | None = option(None, "text", optional=True, help="order of the dims, neuron,frame or frame,neuron (the longer one is taken for "
                                     "frames); of sweeps trial,neuron,time in any order")  # fmt: skip
    sweep_frames: int | None = option(None, "whole", least=1, most=10**9, optional=True, help="frames of each cut trial (sweep), where they stand one "
                                      "after another")  # fmt: skip
    sweep_onset: float | str | None = option(None, least=-1e6, most=1e6, noun="seconds", texts=True, optional=True, help="seconds from the beginning of "
                                             "a sweep to its onset, or the array of an .npz file that holds the seconds of its frames")  # fmt: skip
    frame_time: str | None = option(None, "path", optional=True, help="seconds of the frames: an array of the .npz file, or a .npy or CSV file")
    behaviour: tuple | None = option(None, "text", **LIST, help="arrays of the .npz file that hold behaviour, one value a frame")
    matched: bool = option(False, "flag", help="a cell of that name is the same cell in every session")


@dataclass(frozen=True)
class AllenOptions(External, Names):
    """Visual Coding session files."""

    traces: str = option("corrected", "text", known=TRACES, help="corrected for neuropil, as extracted, demixed, or the pipeline's dF/F")


@dataclass(frozen=True)
class AllenChoice(Options):
    """Which containers and sessions of Visual Coding; all where left out."""

    container: tuple | None = option(None, "whole", **LIST, help="experiment containers")
    types: tuple | None = option(None, "text", **LIST, known=TYPES, flag="type", help="sessions of these types")
    area: tuple | None = option(None, "text", **LIST, help="visual areas, for example VISp")
    cre_line: tuple | None = option(None, "text", **LIST, help="driver lines, for example Cux2-CreERT2")
    depth_um: tuple | None = option(None, "whole", **LIST, flag="depth", help="imaging depths, micrometres")
    paper: bool = option(False, "flag", help="the 11 containers of the QuantFormer paper")


@dataclass(frozen=True)
class AllenPlace(Options):
    """Where its tables and files are."""

    cache: str | None = option(None, "path", optional=True, help="folder in which downloads are kept (data/allen)")
    manifest: str | None = option(None, "path", optional=True, help="manifest.json of an existing cache: nothing is asked of the network")
    url: str | None = option(None, "text", optional=True, help="another server than the Allen Institute's, for example a mirror")


@dataclass(frozen=True)
class ManyOptions(Options):
    """How several recordings are imported."""

    overwrite: bool = option(False, "flag", help="replace sessions that are in the store")
    workers: int | None = option(None, "whole", least=1, most=MOST_WORKERS, noun="a whole number of processes", optional=True, help="processes that "
                                 "import side by side (as many as there are cores, for many files)")  # fmt: skip
    scheduler: str | None = option(
        None, "text", optional=True, bare="local", help="a Dask cluster instead, tcp://...; without an address one of its own"
    )
