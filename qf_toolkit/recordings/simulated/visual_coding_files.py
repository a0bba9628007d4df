"""Simulated sessions in the layout of the Allen Brain Observatory's Visual Coding files (NWB 1.0), to try and to test the whole way from such a file.

The neurons are made as in `simulate`. The files also hold movies (which drive no neuron), running speed and masks, so that a reader has to cope with
them as in real files.
"""

from pathlib import Path

import numpy as np

from ..._files import atomic_path
from ...errors import QfError
from .cortex import SUBTRACTED, Physiology, _neurons, _rng, check_protocol, record, soma_and_neuropil
from .options import SESSIONS

PIPELINE = "processing/brain_observatory_pipeline"
FIRST_S = 5.0  # seconds on the file's clock at which the two-photon frames start
MASK_PIXELS = 512
FEATURES = {  # columns of a stimulus' data, in the file's order
    "drifting_gratings": ("temporal_frequency", "orientation", "blank_sweep"),
    "static_gratings": ("orientation", "spatial_frequency", "phase"),
}


def write_visual_coding(
    path, *, demixed, neuropil, r, timestamps, cell_specimen_ids, stimuli, session_type, experiment_id, container_id, raw=None, dff=None,
    running=None, centres=None, metadata=None, pipeline="3.0", compression=None,
):  # fmt: skip
    """Write one session file in the layout of the Allen Institute's pipeline.

    Parameters
    ----------
    path : str or Path
    demixed, neuropil : float arrays, shape (cell, frame)
        Fluorescence, arbitrary units; corrected = demixed - r * neuropil.
    r : float array, shape (cell,)
    timestamps : float array, shape (frame,)
        Seconds.
    cell_specimen_ids : sequence of int, or None
        None leaves them out, as in a session whose cells were not matched.
    stimuli : mapping of str to (data, frame_duration)
        For each stimulus, the data of its n presentations and their first and last frames (n, 2). The data of gratings have one column per feature.
    session_type : str
        three_session_A, B, C or C2.
    experiment_id, container_id : int
    raw, dff : float arrays, shape (cell, frame), optional
        Extracted fluorescence and dF/F. If None, `raw` is `demixed`, and `dff` is corrected / its median - 1.
    running : (speed, timestamps), optional
        Speed in cm/s and its times in seconds; the first time is one of `timestamps`.
    centres : int array, shape (cell, 2), optional
        Column and row of each ROI's centre, pixels.
    metadata : mapping of str to str, optional
        {path in the file: text}; replaces the defaults.
    pipeline : str
        Version of the pipeline that the file names.
    compression : str, optional
        The compression of the traces, as `h5py.Group.create_dataset` takes it.

    Raises
    ------
    QfError
        If the file can't be written.
    """
    import h5py

    n = len(demixed)
    if dff is None:
        corrected = demixed - np.asarray(r)[:, None] * neuropil
        dff = (corrected / np.median(corrected, 1, keepdims=True) - 1).astype(np.float32)
    text = {
        "general/subject/age": "104 days", "general/subject/sex": "female",
        "general/subject/genotype": "Cux2-CreERT2/wt;Camk2a-tTA/wt;Ai93(TITL-GCaMP6f)/Ai93(TITL-GCaMP6f)",
        "general/optophysiology/imaging_plane_1/imaging depth": "175 microns",
        "general/optophysiology/imaging_plane_1/location": "VISp",
        "general/optophysiology/imaging_plane_1/excitation_lambda": "910 nanometers",
        "general/optophysiology/imaging_plane_1/indicator": "GCaMP6f",
        "general/session_id": str(experiment_id), "general/experiment_container_id": str(container_id),
        "general/session_type": session_type, "general/specimen_name": f"Cux2-CreERT2;Camk2a-tTA;Ai93-{container_id}",
        "general/fov": "400x400 microns (512 x 512 pixels)",
        "general/devices/2-photon microscope": "Nikon A1R-MP multiphoton microscope. CAM2P.2 Please see the documentation.",
        "session_start_time": "Thu Feb 18 11:38:34 2016", **(metadata or {}),
    }  # fmt: skip
    with atomic_path(path) as tmp, h5py.File(tmp, "w") as f:
        for where, value in text.items():
            if value is not None:
                f[where] = np.bytes_(value)
        f["general/generated_by"] = np.array([b"brain_observatory_pipeline", b"version", pipeline.encode()])
        f["nwb_version"] = np.bytes_("NWB-1.0.5")

        def traces(where, x):
            f.create_dataset(where, data=x, compression=compression)

        light = f"{PIPELINE}/Fluorescence/imaging_plane_1"
        traces(f"{light}/data", demixed if raw is None else raw)
        f[f"{light}/timestamps"] = timestamps
        traces(f"{light}_demixed_signal/data", demixed)
        traces(f"{light}_neuropil_response/data", neuropil)
        f[f"{light}_neuropil_response/r"] = np.asarray(r, np.float64)
        traces(f"{PIPELINE}/DfOverF/imaging_plane_1/data", dff)
        f[f"{PIPELINE}/DfOverF/imaging_plane_1/timestamps"] = timestamps
        _write_rois(f, n, cell_specimen_ids, centres, experiment_id)
        if running is not None:
            f[f"{PIPELINE}/BehavioralTimeSeries/running_speed/data"], f[f"{PIPELINE}/BehavioralTimeSeries/running_speed/timestamps"] = running
        f.require_group("stimulus/presentation")
        for name, (data, frame_duration) in stimuli.items():
            where = f"stimulus/presentation/{name}_stimulus"
            f[f"{where}/data"], f[f"{where}/frame_duration"] = data, frame_duration
            if name in FEATURES:
                f[f"{where}/features"] = np.array(FEATURES[name], "S")


def _write_rois(f, n, cell_specimen_ids, centres, experiment_id):
    where = f"{PIPELINE}/ImageSegmentation"
    if cell_specimen_ids is not None:
        f[f"{where}/cell_specimen_ids"] = np.asarray(cell_specimen_ids)
    f[f"{where}/roi_ids"] = 10_000 * (experiment_id % 100_000) + np.arange(n)
    names = [f"roi_{i:03d}" for i in range(n)]
    f[f"{where}/imaging_plane_1/roi_list"] = np.array(names, "S")
    y, x = np.ogrid[:MASK_PIXELS, :MASK_PIXELS]
    for i, name in enumerate(names):
        column, row = centres[i] if centres is not None else (20 + 20 * (i % 24), 20 + 20 * (i // 24 % 24))
        mask = ((x - column) ** 2 + (y - row) ** 2 <= 36).astype(np.uint8)
        f.create_dataset(f"{where}/imaging_plane_1/{name}/img_mask", data=mask, chunks=mask.shape, compression="gzip", compression_opts=1)


def simulate_container(
    folder, *, container_id=900000001, sessions=("A", "B", "C"), n_neurons=20, shared=0.7, repeats=12, directions=4, temporal_frequencies=2, images=10,
    orientations=3, spatial_frequencies=2, phases=2, image_repeats=12, noise_frames=600, gap_s=20.0, rate_hz=30.0, seed=0, compression=None,
):  # fmt: skip
    """Record a simulated mouse and write its container: one Visual Coding file per session.

    Between the blocks of a session lie movies and spontaneous activity.

    Parameters
    ----------
    folder : str or Path
        Made if missing; files are named `{experiment id}.nwb`.
    container_id : int
        Another container is another mouse.
    sessions : sequence of {"A", "B", "C", "C2"}
    n_neurons : int
        How many neurons each session has.
    shared : float
        Share of each session's neurons that every session has; each other neuron is in one session only.
    repeats, directions, temporal_frequencies, images, orientations, spatial_frequencies, phases, image_repeats, noise_frames, gap_s, rate_hz, seed
        As in `simulate`.
    compression : str, optional
        The compression of the traces, as `h5py.Group.create_dataset` takes it.

    Returns
    -------
    list of Path
        The files, in the order of `sessions`.

    Raises
    ------
    QfError
        If an argument is out of range, or the folder can't be written.
    """
    if not 0 <= shared <= 1 or not gap_s >= 12:
        raise QfError(f"shared, gap_s: expected 0 to 1 and at least 12 s, found {shared} and {gap_s}.")
    counts = {
        "n_neurons": n_neurons, "repeats": repeats, "directions": directions, "temporal_frequencies": temporal_frequencies, "images": images, "orientations": orientations,
        "spatial_frequencies": spatial_frequencies, "phases": phases, "noise_frames": noise_frames, "image_repeats": image_repeats,
    }  # fmt: skip
    sessions = check_protocol(counts, sessions, gap_s, rate_hz, seed)
    common = round(shared * n_neurons)
    phys, subject = Physiology(), str(container_id)
    everyone = _neurons(common + len(sessions) * (n_neurons - common), rate_hz, phys, _rng(seed, subject, "neurons"))
    ids = 517_000_000 + _rng(seed, subject, "ids").permutation(100_000)[: len(everyone["peak"])]  # in no order, as in real files
    paths = []
    for i, letter in enumerate(sessions):
        own = common + i * (n_neurons - common) + np.arange(n_neurons - common)
        found = _rng(seed, subject, f"order {letter}").permutation(np.concatenate([np.arange(common), own]))
        params = {k: v[found] if v.shape[:1] == everyone["peak"].shape and k != "shared_keep" else v for k, v in everyone.items()}
        table, truth = record(letter, counts, params, gap_s=gap_s, rate_hz=rate_hz, phys=phys, subject=subject, seed=seed)
        n_frames = len(truth["rate"])
        soma, neuropil = (np.empty((n_neurons, n_frames), np.float32) for _ in range(2))
        for a, b, x, y in soma_and_neuropil(truth, params, rate_hz, _rng(seed, subject, f"shot noise {letter}")):
            soma[:, a:b], neuropil[:, a:b] = x.T, y.T
        timestamps = FIRST_S + np.arange(n_frames) / rate_hz
        stimuli = {name: _shown(name, rows) for name, rows in table.groupby("stimulus", sort=False)}
        stimuli |= _between(table, n_frames, rate_hz)
        experiment = container_id + 100 + SESSIONS.index(letter)
        path = Path(folder) / f"{experiment}.nwb"
        speed = np.abs(np.cumsum(_rng(seed, subject, f"running {letter}").normal(0, 0.3, n_frames - 5)))
        write_visual_coding(
            path, demixed=soma, neuropil=neuropil, r=np.full(n_neurons, SUBTRACTED), timestamps=timestamps, cell_specimen_ids=ids[found],
            stimuli=stimuli, session_type=f"three_session_{letter}", experiment_id=experiment, container_id=container_id,
            running=(speed, timestamps[3:-2]), compression=compression,
            metadata={"general/optophysiology/imaging_plane_1/indicator": "GCaMP6f (simulated)",
                      "general/optophysiology/imaging_plane_1/location": "VISp (simulated)"},
        )  # fmt: skip
        paths.append(path)
    return paths


def _shown(name, rows):
    """The arrays that a file holds for a stimulus: data, and frame_duration (first and last frame of each presentation)."""
    rows = rows.sort_values("onset_frame")
    blank = (rows["code"] < 0).to_numpy()
    when = np.stack([rows["onset_frame"], rows["offset_frame"] - 1], 1)
    if name in FEATURES:
        columns = [blank.astype(float) if c == "blank_sweep" else rows[c].to_numpy(float) for c in FEATURES[name]]
        return np.stack(columns, 1), when
    return rows["code"].to_numpy(), when  # the index of the image, or -1 for a blank


def _between(table, n_frames, rate_hz):
    """Make spontaneous activity and a natural movie of the first two grey stretches between blocks."""
    blocks = table.groupby(["block", "stimulus"]).agg(first=("onset_frame", "min"), last=("offset_frame", "max")).sort_values("first")
    margin = round(4 * rate_hz)
    gaps = [(int(a) + margin, int(b) - margin) for a, b in zip(blocks["last"][:-1], blocks["first"][1:], strict=True)]
    first, last = gaps[0]
    out = {"spontaneous": (np.array([1, -1], np.int8), np.array([[first, first], [last, last]]))}
    if len(gaps) > 1:
        start, stop = gaps[1]
        frames = max(1, (stop - start) // 3)  # three repeats of a movie that shows one of its frames per two-photon frame
        at = start + np.arange(3 * frames)
        out["natural_movie_one"] = np.tile(np.arange(frames), 3), np.stack([at, at], 1)
    return out
