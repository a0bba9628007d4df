"""Options of the simulation. This module does not import numpy, so that the command line starts fast."""

from dataclasses import dataclass

from ...models.options import Options, option

SESSIONS = ("A", "B", "C", "C2")
MOST_NEURONS, MOST_SHOWN = 10_000, 100_000
MANY = {"kind": "whole", "least": 1, "most": MOST_SHOWN}


@dataclass(frozen=True)
class SimulateOptions(Options):
    """What a simulated mouse is shown, and how it is recorded; the defaults are the real protocol's."""

    sessions: tuple = option(
        ("A",), "text", known=SESSIONS, several=True, help="A drifting gratings; B images, static gratings; C noise, C2 of two grids"
    )
    n_neurons: int = option(60, "whole", least=1, most=MOST_NEURONS, flag="neurons", help="how many")
    repeats: int = option(15, **MANY, help="repeats of a drifting grating")
    directions: int = option(8, **MANY, help="directions of the drifting gratings")
    temporal_frequencies: int = option(5, **MANY, help="temporal frequencies of the drifting gratings")
    images: int = option(118, **MANY, help="natural scenes")
    orientations: int = option(6, **MANY, help="orientations of the static gratings")
    spatial_frequencies: int = option(5, **MANY, help="spatial frequencies of the static gratings")
    phases: int = option(4, **MANY, help="phases of the static gratings")
    noise_frames: int = option(9000, **MANY, help="frames of sparse noise")
    image_repeats: int = option(50, **MANY, help="repeats of an image or static grating")
    gap_s: float = option(60.0, least=0, most=3600, noun="seconds", flag="gap", help="seconds of grey before, between and after the blocks")
    rate_hz: float = option(30.0, least=0.1, most=1000, noun="frames a second", flag="rate", help="frames a second")
    subject: str = option("sim1", "text", help="another name is another mouse")
    seed: int = option(0, "whole", least=0, most=2**32 - 1, help="the same seed gives the same bits")
