"""Options of the simulation. This module does not import numpy, so that the command line starts fast."""

from dataclasses import dataclass

from ...models.options import Options, option

SESSIONS = ("A", "B", "C", "C2")
MOST_NEURONS, MOST_SHOWN = 10_000, 100_000
MANY = {"kind": "whole", "least": 1, "most": MOST_SHOWN}


def _seed():
    """The option that every kind of simulation has."""
    return option(0, "whole", least=0, most=2**32 - 1, help="the same seed gives the same bits")


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
    seed: int = _seed()


@dataclass(frozen=True)
class NetworkOptions(Options):
    """Simulated animals whose neurons form chaotic networks, and how they are recorded."""

    n_neurons: int = option(300, "whole", least=2, most=MOST_NEURONS, flag="neurons", help="of each animal; networks of fewer than 200 often settle")
    subjects: int = option(4, "whole", least=1, most=1000, help="animals, each with one session")
    seconds: float = option(205.0, least=10, most=86400, noun="seconds", help="length of a session")
    own: float = option(0.5, least=0, most=1, noun="a share", help="how much of an animal's connections is its own; 0: none, 1: all")
    cue_every_s: float = option(5.0, least=0, most=3600, noun="seconds", flag="cue-every", help="from a cue to the next; 0: no cues, no trials")
    rate_hz: float = option(20.0, least=1, most=50, noun="frames a second", flag="rate", help="frames a second")
    seed: int = _seed()


SIMULATED = {"cortex": SimulateOptions, "network": NetworkOptions}  # the kinds of `qf simulate --kind`
