"""Every page of help, and every status: one table each, and a test that walks it."""

import json
import os
import pty
import select
import subprocess
import sys
import termios
from pathlib import Path

import click
import pytest
from click.shell_completion import get_completion_class

import impsamp
from impsamp.reproduce.command import main
from impsamp.reproduce.subcommands import STATUSES, commands

ROOT = Path(__file__).parents[2]


def walk(command=commands, path=()):
    "(path, command) of a group and all below it."
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, (*path, name))


PAGES = list(walk())
# what a page must say besides its options
PROMISED = {
    (): "Exit status:",
    ("assess",): "better than uniform",
    ("completion",): 'eval "$(impsamp completion bash)"',
    ("data",): "impsamp data fetch mnist",
    ("data", "fetch"): "Status 1 if one cannot be had or is wrong",
    ("data", "list"): "nothing is read",
    ("data", "verify"): "Status 1 if one is wrong",
    ("figures",): "impsamp figures",
    ("info",): "report of a fault",
    ("list",): "profiles and minutes",
    ("probe",): "(model, loss_fn, loader)",
    ("reproduce",): "impsamp reproduce --profile smoke",
    ("run",): "impsamp reproduce --profile smoke",
}


def test_the_table_has_every_page():
    assert {path for path, _ in PAGES} == set(PROMISED)


def name_of(part):
    return " ".join(part) or "impsamp" if isinstance(part, tuple) else ""


@pytest.mark.parametrize("path, command", PAGES, ids=name_of)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_a_page_of_help(path, command, flag, capsys):
    assert main([*path, flag]) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"Usage: {' '.join(['impsamp', *path])}")
    assert " ".join(PROMISED[path].split()) in " ".join(page.split())
    assert max(map(len, page.splitlines())) <= 100
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert all(option.help for option in options)
    for option in options:
        assert option.opts[-1] in page


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with modules of one's own, an empty folder of data, and no way out."
    (tmp_path / "leaves_at_once.py").write_text("import sys; sys.exit(0)")
    (tmp_path / "leaves_later.py").write_text(
        "import sys\n"
        "from impsamp.schemes import Uniform\n"
        "class Leaves(Uniform):\n"
        "    def shape(self, scores): sys.exit(0)\n"
        "    def probabilities(self, scores=None): sys.exit(0)\n"
        "def task(): sys.exit(0)\n"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "splice").write_text("+1 1:2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("IMPSAMP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    for name in ("leaves_at_once", "leaves_later"):
        sys.modules.pop(name, None)


UNIFORM = "impsamp.schemes:Uniform"
PROBED = "impsamp.reproduce.tasks:probed_mnist01"
# what is typed -> (status, where it is said, what)
TABLE = [
    ("--version", 0, "out", f"impsamp, version {impsamp.__version__}"),
    ("info", 0, "out", "torch"),
    ("data list mnist01", 0, "out", "comes with impsamp"),
    ("data verify mnist01", 0, "out", "right"),
    ("data verify", 1, "out", "wrong"),
    ("data verify w8a", 1, "out", "absent"),
    ("data list nothing", 1, "err", "unknown data set 'nothing'"),
    (f"assess {UNIFORM} --steps 5 --quiet", 0, "out", "# Assessment of"),
    (f"assess {UNIFORM} --steps 5 --strict", 1, "out", "It is uniform sampling"),
    ("assess leaves_at_once:X", 1, "err", "impsamp assess: module 'leaves_at_once' ends Python"),
    ("assess leaves_later:Leaves --steps 5", 1, "err", "ends Python by itself"),
    ("assess impsamp.schemes:Loos", 1, "err", "did you mean 'Loss'"),
    (f"probe {PROBED} --seconds 0.2", 0, "out", "# Probe: "),
    (f"probe {PROBED} --seconds 0.2 --strict", 1, "out", "# Probe: do not bother"),
    (f"probe {PROBED} --seconds nan", 1, "err", "seconds must be a positive number"),
    ("probe leaves_later:task", 1, "err", "impsamp probe: leaves_later:task ends Python"),
    ("run --profile papre", 1, "err", "unknown profile"),
    ("reproduce --dry-run nothing", 1, "err", "unknown experiment or result"),
    ("", 2, "err", "Usage: impsamp"),
    ("asess", 2, "err", "No such command 'asess'"),
    ("assess", 2, "err", "Missing argument 'MODULE:SCHEME'"),
    (f"assess {UNIFORM} --steps many", 2, "err", "'many' is not a valid integer"),
    (f"assess {UNIFORM} --setps 3", 2, "err", "No such option"),
    ("data fetch", 2, "err", "Missing argument 'NAME...'"),
    ("completion tcsh", 2, "err", "'tcsh' is not one of"),
]


@pytest.mark.parametrize("typed, status, stream, words", TABLE, ids=lambda x: str(x)[:40])
def test_a_status(here, capsys, monkeypatch, typed, status, stream, words):
    if "papre" in typed or "--dry-run" in typed:
        monkeypatch.chdir(ROOT)
    assert main(typed.split()) == status
    said = capsys.readouterr()
    assert words in getattr(said, stream)
    assert "Traceback" not in said.err


def test_the_table_has_every_status_that_the_help_names():
    assert {status for _, status, _, _ in TABLE} | {130} == set(STATUSES)


def test_information_is_json_where_asked(capsys):
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["impsamp"]["version"] == impsamp.__version__


def test_a_probe_writes_its_page_table_and_picture(here, capsys):
    assert main(["probe", PROBED, "--seconds", "0.2", "--out", "page"]) == 0
    out = capsys.readouterr().out
    assert (here / "page" / "page.md").read_text().strip() == out.strip()
    assert (here / "page" / "table.csv").read_text().startswith("scheme,pool,")
    assert (here / "page" / "plot.png").stat().st_size > 1000


def test_a_log_gets_lines_and_quiet_is_quiet(here, capsys):
    assert main(["assess", UNIFORM, "--steps", "10"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1].split(" in ")[0] for line in lines[-2:]] == ["90%", "100%"]
    assert main(["assess", UNIFORM, "--steps", "10", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script(shell, capsys):
    if shell == "bash" and not any(
        Path(folder, "bash").exists() for folder in os.environ["PATH"].split(os.pathsep)
    ):
        pytest.skip("bash is not here")
    assert main(["completion", shell]) == 0
    assert "_IMPSAMP_COMPLETE" in capsys.readouterr().out


def completions(line):
    "What bash is told of `line`."
    *words, start = line.split(" ")[1:]
    found = get_completion_class("bash")(commands, {}, "impsamp", "_IMPSAMP_COMPLETE")
    return [item.value for item in found.get_completions(words, start)]


def test_commands_ids_and_sets_are_completed(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert completions("impsamp rep") == ["reproduce"]
    assert "lahire_anchor" in completions("impsamp reproduce lahire_a")
    assert completions("impsamp reproduce --profile s") == ["smoke"]
    assert completions("impsamp data fetch austr") == ["australian"]
    monkeypatch.chdir(tmp_path)
    assert completions("impsamp reproduce lahire_a") == []


def said_on(terminal):
    "All that stands on a terminal by now."
    shown = b""
    while select.select([terminal], [], [], 0.2)[0]:
        shown += os.read(terminal, 1 << 16)
    return shown.decode()


@pytest.mark.full
def test_a_terminal_gets_a_bar(tmp_path):
    "A real terminal: progress is drawn on one line, and the page follows on standard output."
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    done = subprocess.run(
        [sys.executable, "-m", "impsamp", "probe", PROBED, "--seconds", "5"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=child,
        text=True,
    )
    shown = said_on(parent)
    os.close(child)
    os.close(parent)
    assert done.returncode == 0
    assert "# Probe: " in done.stdout
    assert "probe:" in shown and "\r" in shown
