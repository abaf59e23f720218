"""Trees that end, and folders that one process has to itself."""

import os
import subprocess
import sys

import pytest

from impsamp.errors import MissingExtra, RecordError
from impsamp.reproduce.processes import alone, kill_tree

TREE = """
import subprocess, sys
inner = "print('up', flush=True); input()"
subprocess.run([sys.executable, "-c", inner], start_new_session=True)
"""


def test_a_tree_ends_whatever_session_it_is_in():
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", TREE], **pipes)
    assert process.stdout.readline() == b"up\n"
    assert kill_tree(process.pid) == 2
    assert process.stdout.read() == b""
    assert process.wait() == -9
    assert kill_tree(process.pid) == 0


def test_the_second_is_told_who_is_first(tmp_path):
    with alone(tmp_path / "new", "running"):
        sentence = f"process {os.getpid()} is running in .*new: wait for it or end it"
        with pytest.raises(RecordError, match=sentence), alone(tmp_path / "new", "running"):
            pass
    with alone(tmp_path / "new", "running"):
        pass


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from impsamp.reproduce.processes import alone\n"
        "with alone(Path(sys.argv[1]), 'running'): print('in', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process = subprocess.Popen(command, **pipes)
    assert process.stdout.readline() == b"in\n"
    with pytest.raises(RecordError, match=f"process {process.pid} is"), alone(tmp_path, "running"):
        pass
    process.kill()
    process.wait()
    with alone(tmp_path, "running"):
        assert (tmp_path / ".pid").read_text() == str(os.getpid())


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    sentence = pytest.raises(RecordError, match=r"cannot write below .*file.*IMPSAMP_OUTPUT")
    with sentence, alone(tmp_path / "file" / "runs", "running"):
        pass


def test_an_error_within_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), alone(tmp_path, "running"):
        raise ZeroDivisionError
    with alone(tmp_path, "running"):
        pass


def test_without_filelock_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(MissingExtra, match="filelock"), alone(tmp_path, "running"):
        pass
