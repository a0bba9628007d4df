"""Options of the demo, the tables and the page of figures. This file does not import torch, so that the command line starts fast."""

from dataclasses import dataclass

from ..models.options import Options, option

REPORT_SAMPLES = 19  # of each forecast on the page of a recording: the fewest of which the ends of a 90 % interval are quantiles


@dataclass(frozen=True)
class Seeded(Options):
    """What is drawn at random."""

    seed: int = option(0, "whole", least=0, most=2**32 - 1, help="of the simulation and of the trainings")


@dataclass(frozen=True)
class DemoOptions(Seeded):
    """What the demo does."""

    size: str = option("full", "text", known=("full", "small", "tiny"), help="full: at most 5 minutes on 2 cores; small: under 2; tiny: seconds")
    data: str = option("simulated", "text", known=("simulated", "allen"), help="allen: four stimuli, from Visual Coding files of a simulated mouse")
    device: str = option("auto", "text", help="auto, cpu, cuda...")


@dataclass(frozen=True)
class TablesOptions(Options):
    """What is written beside a table."""

    figures: str | None = option(None, "path", optional=True, help="folder for forecasts beside the truth, svg and png")
    bootstrap: bool = option(False, "flag", help="how sure each difference to the naive rows is: animals, sessions and blocks of trials are drawn")


@dataclass(frozen=True)
class FiguresOptions(Seeded):
    """Which notebooks are run, and on what."""

    notebooks: str = option("notebooks", "path", help="folder of the .ipynb files")
    only: tuple | None = option(
        None, "text", optional=True, several=True, help="beginnings of their names, 06 07 say; the others' figures stay on the page"
    )
    fast: bool = option(True, "flag", off="full", help="small models, minutes on a CPU; full: the paper's sizes and lengths, for a GPU")
    store: str | None = option(None, "path", optional=True, help="the recordings (a simulated mouse)")
    study: str | None = option(
        None, "path", optional=True, help="models that the notebooks share, trained where missing (study_fast or study_full in --out)"
    )
