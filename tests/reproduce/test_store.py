"""Finished runs: whole or absent, found again, equal whoever computes them, and safe to kill."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from impsamp.errors import InvalidArgument, RecordError
from impsamp.reproduce import extras, store
from impsamp.reproduce.lahire import paper_run
from tests.reproduce.kill_reproduce import kill_tree

ROOT = Path(__file__).parents[2]
CONFIGS = [
    dict(optimizer="sgd", scheme=scheme, seed=seed, steps=3, eval_every=1, test=False)
    for seed in range(3)
    for scheme in ("u", "gn")
]


def contents(folder):
    "Bytes of the finished runs below `folder`, by file name."
    return {path.name: path.read_bytes() for path in sorted(Path(folder).rglob("*.npz"))}


def run_all(configs, root, jobs=1):
    return store.run_all(paper_run, configs, experiment="x", jobs=jobs, root=root)


# --- the code version


@pytest.fixture
def copy(tmp_path):
    "A copy of the package whose modules may be changed."
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "impsamp", tmp_path / "impsamp", ignore=ignored)
    return tmp_path


def append(copy, module):
    "Change a module of the copy without changing what it does."
    with open(copy / "impsamp" / module, "a") as file:
        file.write("\n# changed\n")


def test_the_version_of_a_copy_is_that_of_the_package(copy):
    assert store._version("impsamp.training", copy) == store.code_version("impsamp.training")


@pytest.mark.parametrize(
    "module",
    [
        "reproduce/lahire.py",  # itself
        "training.py",  # imported by name
        "samplers/__init__.py",  # a package that is imported from
        "samplers/sumtree.py",  # reached through that package's __init__ alone
        "checks.py",  # at the bottom of it all
    ],
)
def test_a_change_below_a_module_changes_its_version(copy, module):
    before = store._version("impsamp.reproduce.lahire", copy)
    append(copy, module)
    assert store._version("impsamp.reproduce.lahire", copy) != before


@pytest.mark.parametrize("module", ["reproduce/figures.py", "reproduce/horvath.py", "__init__.py"])
def test_a_change_elsewhere_does_not(copy, module):
    before = store._version("impsamp.reproduce.lahire", copy)
    append(copy, module)
    assert store._version("impsamp.reproduce.lahire", copy) == before


def small_package(folder, **modules):
    "A package `impsamp` of modules `dotted__name`=source."
    for name, source in modules.items():
        path = folder / "impsamp" / name.replace("__", "/")
        path = path / "__init__.py" if name in ("parts", "deep") else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


SMALL = {
    "top": "from impsamp.parts import wheel\n",
    "parts": "from .wheels import wheel\n",
    "parts__wheels": "import numpy\nfrom ..deep.metal import iron\nwheel = iron\n",
    "deep": "",
    "deep__metal": "def smelt():\n    from impsamp.deep import ore\n\niron = 1\n",
    "deep__ore": "kind = 'red'\n",
    "aside": "from impsamp import top\n",
}


@pytest.mark.parametrize(
    "changed, matters",
    [
        ("top", True),
        ("parts", True),
        ("parts__wheels", True),  # only the package's __init__ names it
        ("deep__metal", True),  # a relative import, from where it stands
        ("deep__ore", True),  # a module as a name, inside a function
        ("aside", False),  # imports top, which does not import it
    ],
)
def test_what_a_small_package_reads(tmp_path, changed, matters):
    small_package(tmp_path, **SMALL)
    before = store._version("impsamp.top", tmp_path)
    small_package(tmp_path, **{changed: SMALL[changed] + "x = 1\n"})
    assert (store._version("impsamp.top", tmp_path) != before) == matters


def test_a_module_that_does_not_exist_has_no_version():
    with pytest.raises(InvalidArgument, match=r"no module 'impsamp\.nothing'"):
        store.code_version("impsamp.nothing")
    with pytest.raises(InvalidArgument, match="no module 'numpy'"):
        store.code_version("numpy")


# --- names


def test_a_name_is_made_of_what_matters():
    name = store.run_name(dict(a=1, b=2), "v")
    assert name == store.run_name(dict(b=2, a=1), "v")
    assert name != store.run_name(dict(a=1, b=3), "v")
    assert name != store.run_name(dict(a=1, b=2), "w")


@pytest.mark.parametrize("bad", [{"a": object()}, {"a": float("nan")}, {"a": np.arange(3)}])
def test_configurations_are_plain_values(bad):
    with pytest.raises(InvalidArgument, match="plain"):
        store.run_name(bad, "v")


# --- files


def test_a_run_comes_back_as_it_was(tmp_path):
    config = dict(seed=1, scheme="u", lr=0.1, test=False, subset=None)
    store.save_run(tmp_path / "a.npz", config, dict(x=np.arange(3), y=2.5, z=[True]))
    found, arrays = store.load_run(tmp_path / "a.npz")
    assert found == config
    assert {name: values.tolist() for name, values in arrays.items()} == {
        "x": [0, 1, 2],
        "y": 2.5,
        "z": [True],
    }


def test_a_text_and_a_table_keep_their_line_ends_and_six_digits(tmp_path):
    table = pd.DataFrame({"a": [1, 2], "b": [1 / 3, 1e-9]})
    text = store.csv_text(table)
    assert text == "a,b\n1,0.333333\n2,1e-09\n"
    store.write_text(tmp_path / "new" / "é.csv", text)
    assert (tmp_path / "new" / "é.csv").read_bytes() == text.encode()


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    store.write_text(path, "old")

    def half(file):
        file.write(b"ne")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.write_atomic(path, half)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def truncated(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def replaced(content):
    return b"not a zip"


def scratched(content):
    return content[:60] + b"\xff" * 20 + content[80:]


@pytest.mark.parametrize("damage", [truncated, emptied, replaced, scratched])
def test_a_damaged_file_is_a_missing_run(tmp_path, damage):
    run_all(CONFIGS[:1], tmp_path)
    (path,) = tmp_path.rglob("*.npz")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.warns(UserWarning, match="damaged"):
        run_all(CONFIGS[:1], tmp_path)
    assert path.read_bytes() == whole


def test_disk_full_leaves_nothing_behind(tmp_path, monkeypatch):
    real = os.fsync

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(RecordError, match=r"No space left.*finished runs are kept"):
        run_all(CONFIGS[:1], tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]
    monkeypatch.setattr(store.os, "fsync", real)
    assert len(run_all(CONFIGS[:1], tmp_path)) == 1


# --- all runs of an experiment


def test_the_number_of_workers_does_not_matter(tmp_path):
    one = run_all(CONFIGS, tmp_path / "one", jobs=1)
    two = run_all(CONFIGS, tmp_path / "two", jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == len(CONFIGS)
    for a, b in zip(one, two):
        np.testing.assert_array_equal(a["train_loss"], b["train_loss"])


def test_finished_runs_are_not_computed_again(tmp_path, monkeypatch):
    run_all(CONFIGS[:2], tmp_path)
    monkeypatch.setattr(store, "_finish", lambda *a: pytest.fail("computed again"))
    run_all(CONFIGS[:2], tmp_path)


def test_another_code_version_is_another_run(tmp_path, monkeypatch):
    run_all(CONFIGS[:1], tmp_path)
    monkeypatch.setattr(store, "code_version", lambda module: "changed")
    run_all(CONFIGS[:1], tmp_path)
    assert len(contents(tmp_path)) == 2


def test_runs_of_another_code_version_are_computed_again_and_never_mixed(tmp_path, monkeypatch):
    "Results left by older code are wrong here; none of them comes back."
    current = store.code_version(paper_run.__module__)
    monkeypatch.setattr(store, "code_version", lambda module: "older")
    wrong = {"train_loss": np.full(4, -1.0)}
    for config in CONFIGS:
        stale = tmp_path / "x" / f"{store.run_name(config, 'older')}.npz"
        store.save_run(stale, config, wrong)
    assert all((run["train_loss"] == -1).all() for run in run_all(CONFIGS, tmp_path))

    monkeypatch.setattr(store, "code_version", lambda module: current)
    fresh = run_all(CONFIGS, tmp_path)
    assert all((run["train_loss"] > 0).all() for run in fresh)
    assert len(contents(tmp_path)) == 2 * len(CONFIGS)


def test_two_at_once_are_refused(tmp_path):
    from filelock import FileLock

    (tmp_path / "x").mkdir()
    with FileLock(tmp_path / "x" / ".lock"), pytest.raises(RecordError, match="another process"):
        run_all(CONFIGS[:1], tmp_path)


def test_a_run_that_raises_is_reported_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="unknown optimizer"):
        run_all([dict(CONFIGS[0], optimizer="sdg")], tmp_path)
    assert contents(tmp_path) == {}


def test_without_joblib_it_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(extras.MissingExtra, match=r"joblib .*impsamp\[reproduce\]"):
        run_all(CONFIGS[:1], tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- killed


SCRIPT = """
import sys
from impsamp.reproduce.store import run_all
from impsamp.reproduce.lahire import paper_run

common = dict(optimizer="sgd", steps=15, eval_every=5, test=False)
configs = [dict(scheme=s, seed=k, **common) for k in range(int(sys.argv[2])) for s in ("u", "gn")]
run_all(paper_run, configs, experiment="x", jobs=2, root=sys.argv[1])
"""


def command(folder, seeds):
    "A process that computes twice as many runs as `seeds` with two workers."
    return [sys.executable, "-c", SCRIPT, str(folder), str(seeds)]


def wait_for_runs(process, folder, wanted):
    while process.poll() is None and len(contents(folder)) < wanted:
        time.sleep(0.02)


def test_killed_trees_resume_to_the_same_bytes(tmp_path):
    killed = tmp_path / "killed"
    whole = tmp_path / "whole"
    quiet = dict(cwd=ROOT, stderr=subprocess.DEVNULL)
    for wanted in (1, 5):
        process = subprocess.Popen(command(killed, 6), **quiet)
        wait_for_runs(process, killed, wanted)
        kill_tree(process)
    assert 5 <= len(contents(killed)) <= 12
    for folder in (killed, whole):
        subprocess.run(command(folder, 6), check=True, **quiet)
    assert contents(killed) == contents(whole)
    assert len(contents(whole)) == 12
    assert not list(tmp_path.rglob("*.tmp"))


def workers_of(process):
    tree = psutil.Process(process.pid).children(recursive=True)
    return [child for child in tree if "LokyProcess" in " ".join(child.cmdline())]


def test_a_killed_worker_costs_only_its_own_run(tmp_path):
    process = subprocess.Popen(command(tmp_path, 20), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for_runs(process, tmp_path, 2)
    workers = workers_of(process)
    assert workers, "no worker to kill"
    workers[0].kill()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0
    assert "a worker was killed" in err
    assert len(contents(tmp_path)) == 40


@pytest.mark.full
def test_a_dask_cluster_gives_the_same_bytes(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    run_all(CONFIGS, tmp_path / "here")
    options = dict(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with distributed.LocalCluster(**options) as cluster:
        monkeypatch.setenv("IMPSAMP_DASK", cluster.scheduler_address)
        run_all(CONFIGS, tmp_path / "there", jobs=2)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
