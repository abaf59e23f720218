"""The runner: what it runs, what it refuses, and that everything runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Lock
from time import sleep

import nbformat
import pytest

from impsamp.errors import RecordError, UnknownName
from impsamp.reproduce import extras, runner

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest():
    "The manifest of this project."
    return runner.load_manifest(ROOT / "nbs/experiments/experiments.toml")


# --- one project of one experiment


def test_parameters_reach_the_record_and_the_files_are_listed(project, capfd):
    project.notebook("experiment", project.body)
    assert runner.run("paper") == ["data/records/x.csv", "data/records/x.json"]
    assert project.record == "2"
    assert "new        data/records/x.csv" in capfd.readouterr().out
    runner.run("paper")
    assert "unchanged  data/records/x.csv" in capfd.readouterr().out
    assert (project.root / "_runs/paper/x.ipynb").is_file()
    assert not list((project.root / "nbs").rglob("_*"))


def test_a_file_with_other_bytes_is_called_changed(project, capfd):
    project.notebook("experiment", project.body)
    (project.root / "data/records/x.csv").write_text("older")
    runner.run("paper")
    assert "changed    data/records/x.csv" in capfd.readouterr().out


def test_an_undeclared_parameter_is_refused(project):
    project.notebook("experiment", project.body)
    project.manifest(
        '[[experiment]]\nid = "x"\nnotebook = "x.ipynb"\noutputs = []\npaper = { rusn = 2 }\n'
    )
    with pytest.raises(UnknownName, match="declares no parameter rusn; it has runs"):
        runner.run("paper")


def test_a_declared_output_that_is_missing_is_refused(project):
    project.notebook("experiment", "pass")
    with pytest.raises(RecordError, match=r"not written: data/records/x\.csv"):
        runner.run("paper")


def test_provenance_with_other_parameters_is_refused(project):
    project.notebook("experiment", project.body.replace("dict(runs=runs)", "dict(runs=7)"))
    with pytest.raises(RecordError, match="differs from what was asked"):
        runner.run("paper")


def test_a_failing_notebook_is_an_error_with_the_cells_own(project):
    project.notebook("experiment", "raise ValueError('no such thing')")
    with pytest.raises(RecordError, match=r"x.ipynb failed: ValueError: no such thing\n.*_runs"):
        runner.run("paper")


TWICE = """
[[result]]
id = "a"
notebook = "a"
outputs = []

[[result]]
id = "a"
notebook = "a"
outputs = []
"""


@pytest.mark.parametrize(
    "text, message",
    [
        ("[[experiment]]\nid = 'x'\n", "has keys"),
        ("nonsense = [", "experiments.toml"),
        (TWICE, "occurs twice"),
        (TWICE.replace("outputs", "outptus"), "has keys"),
    ],
)
def test_a_bad_manifest_is_refused(project, text, message):
    project.manifest(text)
    with pytest.raises(RecordError, match=message):
        runner.load_manifest()


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordError, match="inside a checkout"):
        runner.load_manifest()


def test_unknown_names():
    with pytest.raises(UnknownName, match=r"profile 'papre'.*did you mean 'paper'"):
        runner.run("papre")
    with pytest.raises(UnknownName, match="experiment or result"):
        runner.run("smoke", ["nothing"])


def test_without_papermill_nothing_is_started(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)
    project.notebook("experiment", project.body)
    with pytest.raises(extras.MissingExtra, match=r"papermill .*impsamp\[reproduce\]"):
        runner.run("paper")
    assert not (project.root / "_runs").exists()


def test_full_falls_back_to_the_papers_parameters():
    entry = {"paper": {"runs": 2}}
    assert runner.entry_parameters(entry, "paper") == {"runs": 2}
    assert runner.entry_parameters(entry, "full") == {"runs": 2}
    assert runner.entry_parameters(entry, "smoke") is None
    assert runner.entry_parameters({**entry, "full": {}}, "full") == {}


def test_declared_parameters_are_those_of_the_tagged_cell(tmp_path):
    nb = nbformat.v4.new_notebook()
    tagged = {"tags": ["parameters"]}
    nb.cells = [
        nbformat.v4.new_code_cell("x = 1"),
        nbformat.v4.new_code_cell("runs = 1  # how many\nsteps = sizes = 2", metadata=tagged),
    ]
    nbformat.write(nb, tmp_path / "x.ipynb")
    assert runner.declared_parameters(tmp_path / "x.ipynb") == {"runs", "steps", "sizes"}


# --- provenance


def test_provenance_holds_what_was_run(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPSAMP_OUTPUT", str(tmp_path))
    (tmp_path / "data" / "records").mkdir(parents=True)
    out = tmp_path / "data" / "records" / "x.csv"
    out.write_text("a\n1\n")
    runner.write_provenance("x", {"runs": 3}, ["data/records/x.csv"])
    written = json.loads((tmp_path / "data/records/x.json").read_text())
    assert written["parameters"] == {"runs": 3}
    runner.check_provenance("x", {"runs": 3}, ["data/records/x.csv"])
    with pytest.raises(RecordError, match="differs from what was asked"):
        runner.check_provenance("x", {"runs": 4}, ["data/records/x.csv"])
    out.write_text("a\n2\n")
    with pytest.raises(RecordError, match="not the file"):
        runner.check_provenance("x", {"runs": 3}, ["data/records/x.csv"])
    with pytest.raises(RecordError, match="no provenance"):
        runner.check_provenance("y", {}, [])


def test_seconds_are_no_part_of_provenance(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPSAMP_OUTPUT", str(tmp_path))
    timings = tmp_path / "data" / "timings" / "x.csv"
    timings.parent.mkdir(parents=True)
    timings.write_text("seconds\n1\n")
    runner.write_provenance("x", {}, ["data/timings/x.csv"])
    timings.write_text("seconds\n2\n")
    runner.check_provenance("x", {}, ["data/timings/x.csv"])
    assert json.loads((tmp_path / "data/records/x.json").read_text())["outputs"] == {}


# --- who runs beside whom


ENTRY = """
[[{kind}]]
id = "{name}"
notebook = "x.ipynb"
outputs = []
"""


def experiment(name, shared):
    entry = ENTRY.format(kind="experiment", name=name)
    return f"{entry}shared = {'true' if shared else 'false'}\npaper = {{}}\n"


class Watched:
    "Stands for the running of an entry; remembers who ran beside whom, and in which order."

    def __init__(self):
        self.lock = Lock()
        self.running = set()
        self.met = {}
        self.order = []

    def __call__(self, kind, entry, parameters, copies):
        name = entry["id"]
        with self.lock:
            self.order.append(name)
            self.running.add(name)
            for other in self.running:
                self.met.setdefault(other, set()).update(self.running)
        sleep(0.2)
        with self.lock:
            self.running.discard(name)
        return []


def test_what_needs_the_machine_runs_alone_and_the_rest_side_by_side(project, monkeypatch):
    """With two jobs: the unshared experiment has no neighbour, the shared ones do.

    Results come after every experiment."""
    experiments = [experiment("a", True), experiment("alone", False), experiment("b", True)]
    results = [ENTRY.format(kind="result", name=name) for name in "cd"]
    project.manifest("".join([*experiments, *results]))
    watched = Watched()
    monkeypatch.setattr(runner, "_run_entry", watched)
    runner.run("paper", jobs=2)
    met = watched.met
    assert met["alone"] == {"alone"}
    assert met["a"] == met["b"] == {"a", "b"}
    assert met["c"] == met["d"] == {"c", "d"}
    assert sorted(watched.order) == ["a", "alone", "b", "c", "d"]
    assert set(watched.order[-2:]) == {"c", "d"}


def test_what_shares_the_machine_has_no_workers_and_judges_no_clock(manifest):
    for entry in manifest["experiment"]:
        if not entry.get("shared"):
            continue
        text = (ROOT / "nbs/experiments" / entry["notebook"]).read_text()
        assert "run_all" not in text, entry["id"]
        assert "data/timings" not in text + str(entry["outputs"]), entry["id"]


# --- this project


def test_the_manifest_fits_the_notebooks(manifest):
    for kind in ("experiment", "result"):
        folder = ROOT / "nbs" / f"{kind}s"
        known = {entry["notebook"] for entry in manifest[kind]}
        there = {path.name for path in folder.glob("*.ipynb")}
        assert there == known, f"a notebook in nbs/{kind}s without an entry, or an entry without"


def test_the_manifests_parameters_are_declared(manifest):
    for entry in manifest["experiment"]:
        notebook = ROOT / "nbs" / "experiments" / entry["notebook"]
        assert notebook.is_file(), entry["id"]
        declared = runner.declared_parameters(notebook)
        for profile in runner.PROFILES:
            asked = set(runner.entry_parameters(entry, profile) or {})
            assert asked <= declared, (entry["id"], profile)


def git_status():
    command = ["git", "status", "--porcelain"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_smoke_runs_everything(manifest):
    """Every experiment and every result, by papermill, with the notebooks' own defaults.

    Nothing that is committed changes."""
    before = git_status()
    done = subprocess.run(
        [sys.executable, "-m", "impsamp.reproduce", "run", "--profile", "smoke"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    experiments = [
        entry
        for entry in manifest["experiment"]
        if runner.entry_parameters(entry, "smoke") is not None
    ]
    executed = {entry["notebook"] for entry in experiments}
    every = {entry["notebook"] for entry in manifest["experiment"]}
    assert executed == every, "a notebook that no smoke run executes"
    for entry in [*experiments, *manifest["result"]]:
        assert f"== {entry['id']}:" in done.stdout
    assert git_status() == before


def test_committed_provenance_describes_the_committed_records(manifest):
    for entry in manifest["experiment"]:
        name = entry["id"]
        provenance = json.loads((ROOT / "data/records" / f"{name}.json").read_text())
        for output, digest in provenance["outputs"].items():
            assert runner._digest(ROOT / output) == digest, output
        asked = runner.entry_parameters(entry, "full") or {}
        recorded = {key: provenance["parameters"].get(key) for key in asked}
        assert recorded == asked, f"{name}: the committed record is not the manifest's"
