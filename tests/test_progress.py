"""How far it is: on a terminal a bar, in a log lines where they are asked for, else nothing."""

import io
import sys
from contextlib import redirect_stderr

import pytest

from impsamp.errors import InvalidArgument
from impsamp.progress import check_verbose, is_watched, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def walk(steps=40, stream=None, **options):
    "A whole way, told into `stream`; returns what stands there."
    stream = io.StringIO() if stream is None else stream
    with redirect_stderr(stream), progress(steps, "walk", **options) as told:
        for step in range(steps + 1):
            told.to(step, f"at {step}")
    return stream.getvalue()


@pytest.mark.parametrize("verbose", [None, False])
def test_a_log_stays_empty_unless_asked(verbose):
    assert walk(verbose=verbose) == ""


def test_a_log_gets_ten_plain_lines():
    log = walk(verbose=True)
    lines = log.splitlines()
    assert [line.split(" in ")[0] for line in lines] == [f"walk: {10 * k}%" for k in range(1, 11)]
    assert lines[0].endswith("at 4")
    assert "\r" not in log


def test_a_long_step_is_one_line(capsys):
    with progress(10, "walk", verbose=True) as told:
        told.to(7)
        told.to(7)
        told.to(25)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" in ")[0] for line in lines] == ["walk: 70%", "walk: 100%"]


def test_a_terminal_gets_a_bar():
    shown = walk(stream=Terminal(), verbose=True)
    assert "walk: 100%" in shown
    assert "at 40" in shown
    assert "\r" in shown


def test_a_short_wait_shows_no_bar():
    assert walk(stream=Terminal()).strip() == ""


def test_false_is_silence_on_a_terminal_too():
    assert walk(stream=Terminal(), verbose=False) == ""


def test_a_bar_does_not_pass_its_end():
    stream = Terminal()
    with redirect_stderr(stream), progress(10, "walk", verbose=True) as told:
        told.to(99)
        assert told.bar.n == 10


@pytest.mark.parametrize("verbose", [1, 2, "yes"])
def test_other_levels_are_refused(verbose):
    with pytest.raises(InvalidArgument, match="verbose must be"):
        check_verbose(verbose)


def test_an_error_closes_the_bar_and_passes():
    with redirect_stderr(Terminal()):
        with pytest.raises(ZeroDivisionError), progress(10, "walk", verbose=True) as told:
            told.to(1 / 0)
        with progress(10, "again", verbose=True) as told:
            assert told.bar.pos == 0  # the first line: nothing is left above it


def test_a_stream_without_isatty_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert not is_watched()
