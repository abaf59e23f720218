"""Somebody's code by name: what it may be, and that no way out of it looks like success."""

import sys

import pytest

from impsamp.errors import InvalidArgument, UnknownName
from impsamp.reproduce.named import find_named, foreign_code, load_scheme, load_task, split_spec
from impsamp.schemes import Loss

MINE = """
import sys
from impsamp.schemes import Loss

def make(): return Loss()
def needy(a): return Loss()
def leave(): sys.exit(0)
class Leaves:
    def __init__(self): raise SystemExit
def task(): return "model", "loss", "loader"
def pair(): return 1, 2
ready = Loss()
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A folder with modules of one's own, in which we stand."
    (tmp_path / "named_of_today.py").write_text(MINE)
    (tmp_path / "leaves_of_today.py").write_text("import sys; sys.exit(0)")
    (tmp_path / "asks_of_today.py").write_text("import no_such_module_of_today")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("named_of_today", "leaves_of_today", "asks_of_today"):
        sys.modules.pop(name, None)


def test_a_name_is_split_at_its_colon():
    assert split_spec("a.b:C") == ("a.b", "C")


@pytest.mark.parametrize("spec", ["a", "a:", ":b", "", "a.py:B", "a/b:C"])
def test_what_is_no_name_is_refused(spec):
    with pytest.raises(InvalidArgument, match=r"module:Scheme|is a file"):
        split_spec(spec)


@pytest.mark.parametrize("name", ["make", "ready", "Loss"])
def test_a_scheme_is_an_instance_or_what_a_class_or_function_makes(mine, name):
    assert isinstance(load_scheme(f"named_of_today:{name}"), Loss)


def test_a_function_with_arguments_is_refused(mine):
    with pytest.raises(InvalidArgument, match=r"my_scheme = needy\(\.\.\.\)"):
        load_scheme("named_of_today:needy")


@pytest.mark.parametrize("spec", ["leaves_of_today:X", "named_of_today:leave"])
def test_leaving_python_is_a_failure_whatever_its_status(mine, spec):
    with pytest.raises(InvalidArgument, match=r"ends Python by itself \(SystemExit, status 0\)"):
        load_scheme(spec)
    with pytest.raises(InvalidArgument, match="ends Python by itself"):
        load_task(spec)


def test_a_class_that_leaves_python_is_a_failure(mine):
    with pytest.raises(InvalidArgument, match="ends Python by itself"):
        load_scheme("named_of_today:Leaves")


def test_a_module_that_wants_another_says_which(mine):
    with pytest.raises(UnknownName, match="no_such_module_of_today"):
        find_named("asks_of_today:X", "scheme")


def test_a_task_is_three_things(mine):
    assert load_task("named_of_today:task") == ("model", "loss", "loader")
    with pytest.raises(InvalidArgument, match="it returned tuple of 2"):
        load_task("named_of_today:pair")
    for name in ("needy", "ready"):
        with pytest.raises(InvalidArgument, match="must be a function without arguments"):
            load_task(f"named_of_today:{name}")


class Rude(BaseException):
    "Not even an Exception."


@pytest.mark.parametrize("error", [ValueError("no"), Rude("no"), GeneratorExit("no")])
def test_whatever_is_raised_ends_as_a_sentence(error, capsys):
    words = f"mine was stopped by {type(error).__name__}: no\nadvice"
    with pytest.raises(InvalidArgument, match=words), foreign_code("mine", "advice"):
        raise error
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [UnknownName("x"), KeyboardInterrupt()])
def test_refusals_and_interruptions_pass(error):
    with pytest.raises(type(error)) as passed, foreign_code("mine"):
        raise error
    assert passed.value is error


def test_what_a_task_is_called_is_shown_as_a_task():
    with pytest.raises(InvalidArgument, match=r"module:factory, such as my_task:make; got 'mine'"):
        load_task("mine")
    with pytest.raises(InvalidArgument, match="mine:make"):
        load_task("mine.py")


def test_only_what_a_module_defines_is_offered(mine):
    with pytest.raises(UnknownName) as refused:
        load_task("named_of_today:nope")
    assert str(refused.value).endswith("choose from Leaves, leave, make, needy, pair, task")
    with pytest.raises(UnknownName) as refused:
        load_scheme("named_of_today:nope")
    assert str(refused.value).endswith("Leaves, leave, make, needy, pair, ready, task")
    (mine / "named_of_today.py").write_text("import sys")
    del sys.modules["named_of_today"]
    with pytest.raises(UnknownName, match="named_of_today defines none"):
        load_task("named_of_today:nope")
