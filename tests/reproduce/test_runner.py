"""The runner: what it runs, what it refuses, and that everything runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from impsamp.errors import RecordError, UnknownName
from impsamp.reproduce import runner as reproduce
from impsamp.reproduce.command import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project of one experiment and one result, outside of the real one."
    for folder in ("nbs/experiments", "nbs/results", "data/records"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "settings.ini").write_text("lib_name = impsamp\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPSAMP_OUTPUT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def notebook(kind, body, parameters="runs = 1  # how many"):
        nb = nbformat.v4.new_notebook()
        nb.cells = [
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(body),
        ]
        nbformat.write(nb, tmp_path / "nbs" / f"{kind}s" / "x.ipynb")

    def manifest(text):
        (tmp_path / "nbs/experiments/experiments.toml").write_text(text)

    manifest(
        '[[experiment]]\nid = "x"\nnotebook = "x.ipynb"\noutputs = ["data/records/x.csv"]\nsmoke = {}\npaper = { runs = 2 }\n'
    )
    return notebook, manifest, tmp_path


BODY = """from pathlib import Path
from impsamp.reproduce.runner import write_provenance
Path("data/records/x.csv").write_text(f"{runs}")
write_provenance("x", dict(runs=runs), ["data/records/x.csv"])"""


def test_parameters_reach_the_record_and_the_files_are_listed(project, capfd):
    notebook, _, root = project
    notebook("experiment", BODY)
    assert reproduce.run("paper") == ["data/records/x.csv", "data/records/x.json"]
    assert (
        root / "data/records/x.csv"
    ).read_text() == "2" and "new        data/records/x.csv" in capfd.readouterr().out
    reproduce.run("paper")
    assert "unchanged  data/records/x.csv" in capfd.readouterr().out
    assert (root / "_runs/paper/x.ipynb").is_file() and not list((root / "nbs").rglob("_*"))


def test_records_do_not_depend_on_the_number_of_cores(project, monkeypatch):
    "One thread unless the caller says otherwise: the order of a sum is part of what a record is."
    notebook, _, root = project
    monkeypatch.setenv("IMPSAMP_JOBS", "1")
    notebook("experiment", BODY.replace('f"{runs}"', '__import__("os").environ["OMP_NUM_THREADS"]'))
    for said, used in ((None, "1"), ("2", "2")):
        monkeypatch.setenv("OMP_NUM_THREADS", said) if said else monkeypatch.delenv(
            "OMP_NUM_THREADS", raising=False
        )
        assert main(["run"]) == 0
        assert (root / "data/records/x.csv").read_text() == used


def test_an_undeclared_parameter_is_refused(project):
    notebook, manifest, _ = project
    notebook("experiment", BODY)
    manifest('[[experiment]]\nid = "x"\nnotebook = "x.ipynb"\noutputs = []\npaper = { rusn = 2 }\n')
    with pytest.raises(UnknownName, match="declares no parameter rusn; it has runs"):
        reproduce.run("paper")


def test_a_declared_output_that_is_missing_is_refused(project):
    notebook, _, _ = project
    notebook("experiment", "pass")
    with pytest.raises(RecordError, match="not written: data/records/x.csv"):
        reproduce.run("paper")


def test_provenance_with_other_parameters_is_refused(project):
    notebook, _, _ = project
    notebook("experiment", BODY.replace("dict(runs=runs)", "dict(runs=7)"))
    with pytest.raises(RecordError, match="differs from what was asked"):
        reproduce.run("paper")


def test_a_failing_notebook_is_one_sentence(project, capsys, monkeypatch):
    notebook, _, _ = project
    monkeypatch.setenv("IMPSAMP_JOBS", "1")
    notebook("experiment", "raise ValueError('no such thing')")
    assert main(["run"]) == 1
    err = capsys.readouterr().err
    assert "x.ipynb failed: ValueError: no such thing" in err and "Traceback" not in err


@pytest.mark.parametrize(
    "text, message",
    [
        ("[[experiment]]\nid = 'x'\n", "has keys"),
        ("nonsense = [", "experiments.toml"),
        (
            "[[result]]\nid='a'\nnotebook='a'\noutputs=[]\n[[result]]\nid='a'\nnotebook='a'\noutputs=[]\n",
            "occurs twice",
        ),
    ],
)
def test_a_bad_manifest_is_refused(project, text, message):
    project[1](text)
    with pytest.raises(RecordError, match=message):
        reproduce.load_manifest()


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordError, match="inside a checkout"):
        reproduce.load_manifest()


def test_unknown_names():
    with pytest.raises(UnknownName, match="profile 'papre'.*did you mean 'paper'"):
        reproduce.run("papre")
    with pytest.raises(UnknownName, match="experiment or result"):
        reproduce.run("smoke", ["nothing"])


def test_no_jobs_is_refused(capsys):
    assert (
        main(["figures", "--jobs", "0"]) == 1
        and "jobs must be at least 1" in capsys.readouterr().err
    )


def test_the_manifest_fits_the_notebooks():
    manifest = reproduce.load_manifest(ROOT / "nbs/experiments/experiments.toml")
    for kind in ("experiment", "result"):
        for entry in manifest[kind]:
            notebook = ROOT / "nbs" / f"{kind}s" / entry["notebook"]
            assert notebook.is_file(), entry["id"]
            for profile in reproduce.PROFILES if kind == "experiment" else ():
                assert set(
                    reproduce.entry_parameters(entry, profile) or {}
                ) <= reproduce.declared_parameters(notebook), (entry["id"], profile)
        known = {e["notebook"] for e in manifest[kind]}
        assert {p.name for p in (ROOT / "nbs" / f"{kind}s").glob("*.ipynb")} == known, (
            f"a notebook in nbs/{kind}s without an entry"
        )


def test_smoke_runs_everything(tmp_path):
    "Every experiment and every result, by papermill, with the notebooks' own defaults; nothing that is committed changes."
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    done = subprocess.run(
        [sys.executable, "-m", "impsamp.reproduce", "run", "--profile", "smoke"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = reproduce.load_manifest(ROOT / "nbs/experiments/experiments.toml")
    experiments = [
        e for e in manifest["experiment"] if reproduce.entry_parameters(e, "smoke") is not None
    ]
    assert {e["notebook"] for e in experiments} == {
        e["notebook"] for e in manifest["experiment"]
    }, "a notebook that no smoke run executes"
    for entry in [*experiments, *manifest["result"]]:
        assert f"== {entry['id']}:" in done.stdout
    assert (
        subprocess.run(
            ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        == before
    )


def test_committed_provenance_describes_the_committed_records():
    manifest = reproduce.load_manifest(ROOT / "nbs/experiments/experiments.toml")
    for entry in manifest["experiment"]:
        provenance = json.loads((ROOT / "data/records" / f"{entry['id']}.json").read_text())
        for output, digest in provenance["outputs"].items():
            assert reproduce._digest(ROOT / output) == digest, output
        asked = reproduce.entry_parameters(entry, "full") or {}
        assert {k: provenance["parameters"].get(k) for k in asked} == asked, (
            f"{entry['id']}: the committed record is not the manifest's"
        )


def test_what_needs_the_machine_runs_alone_and_the_rest_side_by_side(project, monkeypatch):
    "With two jobs: the unshared experiment has no neighbour, the shared ones do, results come after every experiment."
    from threading import Lock
    from time import sleep

    _, manifest, _ = project
    entry = '[[{0}]]\nid = "{1}"\nnotebook = "x.ipynb"\noutputs = []\n'
    manifest(
        "".join(
            entry.format("experiment", i)
            + f"shared = {'false' if i == 'alone' else 'true'}\npaper = {{}}\n"
            for i in ("a", "alone", "b")
        )
        + entry.format("result", "c")
        + entry.format("result", "d")
    )
    lock, running, met, order = Lock(), set(), {}, []

    def fake(kind, entry, parameters, copies):
        with lock:
            order.append(entry["id"])
            running.add(entry["id"])
            for i in running:
                met.setdefault(i, set()).update(running)
        sleep(0.2)
        with lock:
            running.discard(entry["id"])
        return []

    monkeypatch.setattr(reproduce, "_run_entry", fake)
    reproduce.run("paper", jobs=2)
    assert (
        met["alone"] == {"alone"}
        and met["a"] == met["b"] == {"a", "b"}
        and met["c"] == met["d"] == {"c", "d"}
    )
    assert sorted(order) == ["a", "alone", "b", "c", "d"] and set(order[-2:]) == {"c", "d"}


def test_what_shares_the_machine_has_no_workers_and_judges_no_clock():
    manifest = reproduce.load_manifest(ROOT / "nbs/experiments/experiments.toml")
    for entry in manifest["experiment"]:
        text = (ROOT / "nbs/experiments" / entry["notebook"]).read_text()
        assert not (
            entry.get("shared")
            and ("run_all" in text or "data/timings" in text + str(entry["outputs"]))
        ), entry["id"]
