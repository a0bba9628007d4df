import pytest
from helpers import toy_session
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)  # a failure must fail again on the next run
settings.load_profile("repeatable")


@pytest.fixture
def toy():
    """The builder of small recordings, `toy(seed=0, ...)`; see helpers.toy_session."""
    return toy_session
