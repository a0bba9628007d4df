"""Small NWB files, written by pynwb part by part."""

from datetime import UTC, datetime

import numpy as np
import pytest

pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
from pynwb.epoch import TimeIntervals  # noqa: E402
from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, RoiResponseSeries  # noqa: E402

T, N, RATE = 400, 3, 10.0


def f_data(seed=0, n=N, t=T):
    return np.random.default_rng(seed).uniform(90, 110, (t, n)).astype(np.float32)


def dff_data(seed=0, n=N, t=T):
    return np.random.default_rng(seed).normal(0, 0.1, (t, n)).astype(np.float32)


class Writer:
    """A small NWB file, part by part."""

    def __init__(self, subject="m1", session="d1"):
        self.file = pynwb.NWBFile("test", "id", datetime(2020, 1, 1, tzinfo=UTC), session_id=session)
        if subject:
            self.file.subject = pynwb.file.Subject(subject_id=subject, species="Mus musculus")
        self.module = self.file.create_processing_module("ophys", "traces")
        self.segmentation = ImageSegmentation()
        self.module.add(self.segmentation)
        self.device = self.file.create_device("scope")
        self.containers = {}

    def plane(self, name="plane_a", n=N, first_id=10):
        channel = OpticalChannel(name="green", description="d", emission_lambda=520.0)
        optical = self.file.create_imaging_plane(
            name=name, optical_channel=channel, description="d", device=self.device, excitation_lambda=920.0, indicator="GCaMP6f", location="V1",
            imaging_rate=RATE,
        )  # fmt: skip
        table = self.segmentation.create_plane_segmentation(name=f"rois_{name}", description="d", imaging_plane=optical)
        for i in range(n):
            table.add_roi(pixel_mask=[(0, i, 1.0)], id=first_id + i)
        return table

    def series(self, kind, table, data, name="RoiResponseSeries", container=None, **options):
        if not {"rate", "timestamps"} & set(options):
            options["rate"] = RATE
        container = container or kind.__name__
        if container not in self.containers:
            self.containers[container] = kind(name=container)
            self.module.add(self.containers[container])
        region = table.create_roi_table_region(region=list(range(len(table))), description="all")
        options.setdefault("unit", "n.a.")
        self.containers[container].add_roi_response_series(RoiResponseSeries(name=name, data=data, rois=region, **options))
        return self

    def trials(self, starts, stops=None, **columns):
        for name in columns:
            self.file.add_trial_column(name, name)
        for i, start in enumerate(starts):
            stop = start + 1 if stops is None else stops[i]
            self.file.add_trial(start_time=float(start), stop_time=float(stop), **{k: v[i] for k, v in columns.items()})
        return self

    def intervals(self, name, starts, stops=None, **columns):
        table = TimeIntervals(name=name, description="d")
        for c in columns:
            table.add_column(c, c)
        for i, start in enumerate(starts):
            stop = float(start) + 1 if stops is None else float(stops[i])
            table.add_row(start_time=float(start), stop_time=stop, **{k: v[i] for k, v in columns.items()})
        self.file.add_time_intervals(table)
        return self

    def write(self, path):
        with pynwb.NWBHDF5IO(str(path), "w") as io:
            io.write(self.file)
        return path


def simple(path, kind=DfOverF, data=None, **options):
    w = Writer()
    return w.series(kind, w.plane(), dff_data() if data is None else data, **options).trials([5, 15], condition=["go", "nogo"]).write(path)
