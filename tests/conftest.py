"""What all tests share."""

import os
import signal
import threading

import pytest
from hypothesis import settings

from impsamp.data.fetch import resolve_data_env

# A relative IMPSAMP_DATA means: from where the tests were started. Fixed once, because tests
# change folders.
resolve_data_env()

# The same examples every time, so that a change is judged by what it changed;
# HYPOTHESIS_PROFILE=search looks for new ones, and for more of them.
settings.register_profile("repeat", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("search", deadline=None, max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_on():
    "A command in the background has Ctrl-C switched off; the tests of Ctrl-C need it."
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
