"""One notebook in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from impsamp.errors import DataUnavailable, MissingExtra, RecordError, UnknownName
from impsamp.reproduce.notebook import (
    Execution,
    execute,
    expire,
    finish,
    first_ready,
    start,
)


@pytest.fixture
def path(project):
    "start(body) needs a notebook x of the project."

    def write(body):
        project.notebook("experiment", body)
        return project.root / "nbs/experiments/x.ipynb", project.root / "_runs" / "x.ipynb"

    return write


def fake(code, limit=None):
    "An execution whose child is any Python code; `answer` is the descriptor that it may write to."
    answer, theirs = os.pipe()
    command = [sys.executable, "-c", f"import os; answer = {theirs}\n{code}"]
    process = subprocess.Popen(command, pass_fds=[theirs], start_new_session=True)
    os.close(theirs)
    return Execution(Path("x.ipynb"), Path("nowhere"), process, answer, limit)


def test_a_notebook_runs_with_its_parameters_in_the_project(project, path):
    notebook, copy = path("import os; open('out', 'w').write(f'{runs} {os.getcwd()}')")
    execute(notebook, {"runs": 5}, copy)
    assert (project.root / "out").read_text() == f"5 {project.root}"
    assert copy.is_file()


def test_an_undeclared_parameter_starts_nothing(path):
    notebook, copy = path("pass")
    with pytest.raises(UnknownName, match="declares no parameter rusn"):
        start(notebook, {"rusn": 5}, copy)
    assert not copy.parent.exists()


def test_a_failure_names_the_copy(path):
    notebook, copy = path("raise ValueError('no such thing')")
    with pytest.raises(RecordError) as raised:
        execute(notebook, {}, copy)
    first, second = str(raised.value).splitlines()
    assert first == "x.ipynb failed: ValueError: no such thing"
    assert second.endswith(str(copy))


@pytest.mark.parametrize(
    "answer, kind, words",
    [
        ('{"error": "DataUnavailable", "message": "MNIST: nowhere"}', DataUnavailable, "^MNIST"),
        ('{"error": "ChecksumError", "message": "altered"}', RecordError, "ChecksumError: altered"),
        ("", RecordError, "x.ipynb failed: its process ended: with status 0"),
    ],
)
def test_an_answer_is_an_error_of_its_kind(answer, kind, words):
    execution = fake(f"os.write(answer, {answer.encode()!r})")
    assert first_ready([execution], 20) == [execution]
    with pytest.raises(kind, match=words):
        finish(execution)


def test_a_child_that_is_killed_is_told():
    execution = fake("os.kill(os.getpid(), 9)")
    assert first_ready([execution], 20) == [execution]
    with pytest.raises(RecordError, match="its process ended: with status -9"):
        finish(execution)


def test_an_empty_answer_is_success():
    execution = fake("os.write(answer, b'{}')")
    assert first_ready([execution], 20) == [execution]
    finish(execution)


def test_who_is_late_is_ready_and_can_be_stopped():
    late = fake("import time; time.sleep(60)", limit=0.2)
    other = fake("import time; time.sleep(60)")
    began = time.monotonic()
    assert first_ready([other, late]) == [late]
    assert 0.1 < time.monotonic() - began < 30
    sentence = r"x.ipynb was stopped: its time limit of 0\.2 s is over"
    assert sentence.replace("\\", "") in str(expire(late))
    assert not psutil.pid_exists(late.process.pid)
    other.stop()


def test_waiting_has_an_end_of_its_own():
    execution = fake("import time; time.sleep(60)")
    assert first_ready([execution], 0.1) == []
    execution.stop()


def test_without_papermill_it_is_said(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)
    notebook, copy = path("pass")
    with pytest.raises(MissingExtra, match=r"papermill .*impsamp\[reproduce\]"):
        start(notebook, {}, copy)


def test_a_copy_that_cannot_be_written_is_a_sentence(project, path):
    notebook, copy = path("pass")
    copy.parent.write_text("a file where the folder should be")
    with pytest.raises(RecordError, match=r"cannot write .*_runs"):
        start(notebook, {}, copy)
