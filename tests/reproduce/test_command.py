"""The command `impsamp`: what a user types, and how a refusal reads."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from impsamp.reproduce import subcommands
from impsamp.reproduce.command import main
from impsamp.reproduce.tally import Job, Outcome, Report

ROOT = Path(__file__).parents[2]


# --- assess


MINE = """
import numpy as np

class Root:
    "Ten lines: p proportional to the square root of the norm."
    needs = "norm"
    def init(self, n): self.n = n
    def probabilities(self, scores=None):
        s = np.sqrt(np.asarray(scores, dtype=float))
        return s / s.sum()

class Needy:
    def __init__(self, a): pass

class Unlucky:
    def __init__(self): raise ValueError("no luck")

class Forgetful(Root):
    def probabilities(self): return self.n

class Lost(Root): scope = "everything"

p = np.full(100, .01)
instance = Root()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with modules of one's own, in which we stand."
    (tmp_path / "my_schemes_of_today.py").write_text(MINE)
    (tmp_path / "crash_of_today.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["Root", "instance"])
def test_the_command_certifies_a_scheme_of_ones_own(here, capsys, name):
    spec = f"my_schemes_of_today:{name}"
    assert main(["assess", spec, "--steps", "30", "--every", "10", "--out", "certificate"]) == 0
    out = capsys.readouterr().out
    assert f"# Assessment of {spec}" in out
    assert "**Yes**" in out
    folder = here / "certificate"
    assert (folder / "page.md").read_text().strip() == out.strip()
    assert len((folder / "table.csv").read_text().splitlines()) == 5
    for picture in ("histograms.png", "evolution.png"):
        assert (folder / picture).stat().st_size > 1000


@pytest.mark.parametrize(
    "spec,words",
    [
        ("my_schemes_of_today:Needy", "name an instance instead"),
        ("my_schemes_of_today:Roof", "did you mean 'Root'"),
        ("no_such_module:X", "cannot be imported"),
        ("just_a_name", "module:Scheme"),
        ("crash_of_today:X", "fails when it is imported: ZeroDivisionError"),
        ("my_schemes_of_today:Unlucky", "fails when it is made: ValueError: no luck"),
        ("my_schemes_of_today.py:Root", "as Python imports it, my_schemes_of_today:Root"),
        ("./sub/mine.py:Root", "sub.mine:Root"),
        ("my_schemes_of_today:Forgetful", "Forgetful was stopped by TypeError"),
        ("my_schemes_of_today:Lost", "unknown scope 'everything'"),
        ("my_schemes_of_today:p", "impsamp.schemes.Lipschitz(p)"),
        ("my_schemes_of_today:np", "got module"),
    ],
)
def test_the_command_refuses_with_a_reason(here, capsys, spec, words):
    assert main(["assess", spec]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "options,words",
    [
        (["--lr", "nan"], "lr must be finite"),
        (["--lr", "0"], "above 0"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--lr", "1e9", "--every", "10"], "lower the learning rate"),
        (["--out", "my_schemes_of_today.py"], "name a folder"),
    ],
)
def test_the_command_refuses_bad_options_in_a_sentence(here, capsys, options, words):
    assert main(["assess", "impsamp.schemes:GradNorm", "--steps", "40", *options]) == 1
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


def test_the_command_refuses_bad_numbers(capsys):
    assert main(["assess", "impsamp.schemes:Uniform", "--task", "cifar"]) == 1
    assert "unknown task" in capsys.readouterr().err
    assert main(["assess", "impsamp.schemes:Uniform", "--sample-size", "1000", "--steps", "2"]) == 1
    assert "at most 100" in capsys.readouterr().err


def test_assess_is_a_command_of_impsamp(capsys):
    assert main(["assess", "impsamp.schemes:Uniform", "--task", "cifar"]) == 1
    assert capsys.readouterr().err.startswith("impsamp assess: unknown task")


# --- run, figures, list


def test_records_do_not_depend_on_the_number_of_cores(project, monkeypatch):
    """One thread unless the caller says otherwise.

    The order of a sum is part of what a record is."""
    monkeypatch.setenv("IMPSAMP_JOBS", "1")
    said_threads = '__import__("os").environ["OMP_NUM_THREADS"]'
    project.notebook("experiment", project.body.replace('f"{runs}"', said_threads))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert main(["run"]) == 0
    assert project.record == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert main(["run"]) == 0
    assert project.record == "2"


def test_a_failing_notebook_is_one_sentence(project, capsys, monkeypatch):
    monkeypatch.setenv("IMPSAMP_JOBS", "1")
    project.notebook("experiment", "raise ValueError('no such thing')")
    assert main(["run"]) == 1
    err = capsys.readouterr().err
    assert "x.ipynb failed: ValueError: no such thing" in err
    assert "Traceback" not in err


def test_no_jobs_is_refused(capsys):
    assert main(["figures", "--jobs", "0"]) == 1
    assert "jobs must be at least 1" in capsys.readouterr().err


def remember(calls, report):
    "A stand-in for `run` that notes what it is asked, and the environment it is asked in."

    def run(*args, **options):
        names = ("IMPSAMP_JOBS", "IMPSAMP_DASK", "IMPSAMP_FORCE", "OMP_NUM_THREADS", "NUMBA_OPT")
        calls.append((args, options, {name: os.environ.get(name) for name in names}))
        return report

    return run


@pytest.fixture
def report():
    "A run of nothing, which a test may fill."
    return Report("paper", [])


@pytest.fixture
def calls(project, monkeypatch, report):
    "What `run` was asked; the environment is as it was afterwards."
    found = []
    for name in ("IMPSAMP_JOBS", "IMPSAMP_DASK", "IMPSAMP_FORCE", "OMP_NUM_THREADS", "NUMBA_OPT"):
        monkeypatch.setenv(name, "unset")
        monkeypatch.delenv(name)
    monkeypatch.setattr(subcommands, "run", remember(found, report))
    return found


BOTH = ["experiment", "result"]


def test_run_hands_on_what_was_typed(calls, project, capsys):
    typed = ["run", "x", "--jobs", "4", "--only", "y", "--dask", "tcp://host:1", "--timeout", "9"]
    assert main(typed) == 0
    ((args, options, environment),) = calls
    assert args == ("paper", ["x", "y"], BOTH)
    assert options == {"jobs": 4, "timeout": 9.0}
    assert environment["IMPSAMP_JOBS"] == "4"
    assert environment["IMPSAMP_DASK"] == "tcp://host:1"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["IMPSAMP_FORCE"] is None
    assert environment["NUMBA_OPT"] is None
    assert f"== done: 0 files below {project.root}" in capsys.readouterr().out


def test_smoke_has_no_workers(calls):
    assert main(["run", "--profile", "smoke"]) == 0
    ((args, options, environment),) = calls
    assert args == ("smoke", [], BOTH)
    assert options == {"jobs": 2, "timeout": None}
    assert environment["IMPSAMP_JOBS"] == "1"
    assert environment["NUMBA_OPT"] == "0"


def test_figures_draws_results_alone(calls):
    assert main(["figures", "y"]) == 0
    ((args, options, _),) = calls
    assert args == ("paper", ["y"], ["result"])
    assert options == {"jobs": 3, "timeout": None}


@pytest.mark.parametrize("command", ["run", "figures"])
def test_force_tells_the_time_before_which_runs_do_not_count(calls, command):
    began = time.time()
    assert main([command, "--force"]) == 0
    assert began <= float(calls[0][2]["IMPSAMP_FORCE"]) <= time.time()


@pytest.mark.parametrize("typed", [["run", "--dry-run"], ["figures", "--dry-run"]])
def test_a_dry_run_runs_nothing(calls, project, capsys, typed):
    assert main(typed) == 0
    assert calls == []
    said = capsys.readouterr().out.split()
    assert ("x" in said) == (typed[0] == "run")
    assert not (project.root / "_runs").exists()


def test_a_dry_run_refuses_a_wrong_name(calls, capsys):
    assert main(["run", "--dry-run", "y"]) == 1
    assert "unknown experiment or result 'y'" in capsys.readouterr().err


# --- how it ended


def outcome(name, state, **more):
    return Outcome(Job("experiment", {"id": name, "outputs": []}, {}), state, **more)


KEPT = {"a": "computed", "b": "kept from committed records, because 'b' cannot be had"}


def test_what_was_kept_is_counted_and_is_no_failure_unless_strict(calls, report, capsys):
    report.outcomes += [outcome("x", "partly", settings=KEPT), outcome("y", "computed")]
    assert main(["run"]) == 0
    out = capsys.readouterr().out
    assert "b: kept from committed records, because 'b' cannot be had" in out
    assert "1 computed, 0 finished, 1 partly" in out
    assert "1 computed, 1 kept from committed records" in out
    assert main(["run", "--strict"]) == 1
    assert "--strict: 1 settings were kept" in capsys.readouterr().err


def test_strict_has_nothing_against_a_whole_run(calls, report):
    report.outcomes += [outcome("x", "computed", settings={"a": "computed"})]
    assert main(["run", "--strict"]) == 0


def test_failures_are_told_and_end_with_one(calls, report, capsys):
    report.outcomes += [
        outcome("x", "failed", why="x.ipynb failed: no\n  the copy"),
        outcome("y", "computed"),
    ]
    assert main(["run"]) == 1
    said = capsys.readouterr()
    assert "impsamp: x: x.ipynb failed: no\n  the copy\n" in said.err
    assert "1 computed, 0 finished, 0 partly, 0 kept, 1 failed" in said.out


def test_an_interrupted_run_still_shows_its_table(calls, report, capsys):
    report.interrupted = True
    report.outcomes += [outcome("x", "computed"), outcome("y", "not started")]
    assert main(["run"]) == 130
    said = capsys.readouterr()
    assert "1 computed, 0 finished, 0 partly, 0 kept, 0 failed, 1 not started" in said.out
    assert "the same command goes on from there" in said.err


def test_what_the_profile_does_not_compute_is_said(calls, project, capsys):
    project.manifest('[[experiment]]\nid = "z"\nnotebook = "z.ipynb"\noutputs = []\nfull = {}\n')
    assert main(["run"]) == 0
    assert "the profile paper draws from committed records: z" in capsys.readouterr().out


def test_an_interrupted_command_says_that_it_can_go_on(calls, monkeypatch, capsys):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(subcommands, "run", interrupted)
    assert main(["figures"]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize("typed", [["list"], ["run", "--list"]])
def test_list_shows_experiments_with_profiles_and_results_with_outputs(project, capsys, typed):
    project.manifest(
        """
        [[experiment]]
        id = "x"
        notebook = "x.ipynb"
        outputs = []
        reproduces = "Figure 2"
        minutes = 1.5
        smoke = {}
        paper = {}

        [[result]]
        id = "y"
        notebook = "y.ipynb"
        outputs = ["figures/a.svg", "figures/b.svg"]
        """
    )
    assert main(typed) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert " ".join(first.split()) == "x smoke, paper, full 1.5 min Figure 2"
    assert " ".join(second.split()) == "y drawn from records figures/a.svg, figures/b.svg"


# --- without the extras


EXTRAS = ["matplotlib", "seaborn", "papermill", "joblib", "psutil", "ipykernel", "filelock"]

BLOCKED = """
import sys


class Block:
    "A meta-path finder that knows of modules that are not there."

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Block())
from impsamp.reproduce.command import main

sys.exit(main({argv!r}))
"""


def without(blocked, *argv, cwd=ROOT):
    "The command `argv` in a Python without the modules `blocked`."
    code = BLOCKED.format(blocked=set(blocked), argv=list(argv))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_the_command_starts_without_any_extra():
    done = without(EXTRAS, "list")
    assert done.returncode == 0, done.stderr
    assert "lahire_anchor" in done.stdout


def test_a_scheme_is_judged_without_any_extra(tmp_path):
    done = without(EXTRAS, "assess", "impsamp.schemes:Uniform", "--steps", "5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "# Assessment of impsamp.schemes:Uniform" in done.stdout


@pytest.mark.parametrize(
    "argv, blocked, sentence",
    [
        (
            ["figures"],
            ["papermill"],
            "impsamp: papermill cannot be imported: pip install 'impsamp[reproduce]'",
        ),
        (
            ["run", "--profile", "smoke"],
            ["joblib", "filelock"],
            "impsamp: joblib and filelock cannot be imported: pip install 'impsamp[reproduce]'",
        ),
        (
            ["figures"],
            ["matplotlib"],
            "impsamp: matplotlib cannot be imported: pip install 'impsamp[plots]'",
        ),
        (
            ["assess", "impsamp.schemes:Uniform", "--out", "page"],
            ["matplotlib"],
            "impsamp assess: matplotlib cannot be imported: pip install 'impsamp[plots]'",
        ),
    ],
)
def test_a_missing_extra_is_refused_with_what_to_install(project, argv, blocked, sentence):
    done = without(blocked, *argv, cwd=project.root)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [sentence]
    assert not (project.root / "_runs").exists()
