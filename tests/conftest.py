import sys

import pytest
from helpers import toy_session
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)  # a failure must fail again on the next run
settings.load_profile("repeatable")


@pytest.fixture
def toy():
    """The builder of small recordings, `toy(seed=0, ...)`; see helpers.toy_session."""
    return toy_session


@pytest.fixture(autouse=True)
def figures_closed():
    yield
    if plt := sys.modules.get("matplotlib.pyplot"):
        plt.close("all")


@pytest.fixture
def no_figure_left():
    yield
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == [], "a figure stays open"


@pytest.fixture(scope="module")
def s():
    """The study of small_study, trained once a process."""
    from small_study import study

    return study()


@pytest.fixture
def site(monkeypatch):
    """A download_site.Site behind a local server."""
    from download_site import serve

    with serve(monkeypatch) as it:
        yield it
