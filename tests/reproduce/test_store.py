"""Finished runs: whole or absent, found again, equal whoever computes them, and safe to kill."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from impsamp.errors import InvalidArgument, MissingExtra, RecordError
from impsamp.reproduce import store
from impsamp.reproduce.lahire import paper_run
from impsamp.reproduce.processes import alone
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
    found, made, arrays = store.load_run(tmp_path / "a.npz")
    assert found == config
    assert made == {}
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


@pytest.mark.parametrize("what", ["code", "torch", "numpy", "data"])
def test_other_code_libraries_or_data_are_another_run(tmp_path, monkeypatch, what):
    run_all(CONFIGS[:1], tmp_path)
    made = store.made_by(paper_run)
    monkeypatch.setattr(store, "made_by", lambda function: {**made, what: "changed"})
    run_all(CONFIGS[:1], tmp_path)
    assert len(contents(tmp_path)) == 2


def test_runs_of_another_code_version_are_computed_again_and_never_mixed(tmp_path, monkeypatch):
    "Results left by older code are wrong here; none of them comes back."
    current = store.made_by(paper_run)
    older = {**current, "code": "older"}
    monkeypatch.setattr(store, "made_by", lambda function: older)
    wrong = {"train_loss": np.full(4, -1.0)}
    for config in CONFIGS:
        stale = tmp_path / "x" / f"{store.run_name(config, older)}.npz"
        store.save_run(stale, config, wrong, older)
    assert all((run["train_loss"] == -1).all() for run in run_all(CONFIGS, tmp_path))

    monkeypatch.setattr(store, "made_by", lambda function: current)
    fresh = run_all(CONFIGS, tmp_path)
    assert all((run["train_loss"] > 0).all() for run in fresh)
    assert len(contents(tmp_path)) == 2 * len(CONFIGS)


# --- a file is what it says


def test_exchanged_files_are_noticed_and_computed_again(tmp_path):
    before = run_all(CONFIGS[:2], tmp_path)
    whole = contents(tmp_path)
    one, two = sorted(tmp_path.rglob("*.npz"))
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    with pytest.warns(UserWarning, match="holds another run"):
        after = run_all(CONFIGS[:2], tmp_path)
    assert contents(tmp_path) == whole
    for a, b in zip(before, after):
        np.testing.assert_array_equal(a["train_loss"], b["train_loss"])


def test_a_file_that_says_it_was_made_by_other_code_is_computed_again(tmp_path):
    run_all(CONFIGS[:1], tmp_path)
    (path,) = tmp_path.rglob("*.npz")
    whole = path.read_bytes()
    run = store.load_run(path)
    store.save_run(path, run.config, run.arrays, {**run.made, "numpy": "1.0"})
    with pytest.warns(UserWarning, match="holds another run"):
        run_all(CONFIGS[:1], tmp_path)
    assert path.read_bytes() == whole


FEW_DESCRIPTORS = """
import os, resource, sys
from impsamp.errors import RecordError
from impsamp.reproduce import store
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    store.load_run(sys.argv[1])
except RecordError as e:
    print(e)
"""


def test_a_process_out_of_descriptors_deletes_nothing(tmp_path):
    store.save_run(tmp_path / "a.npz", dict(seed=1), dict(x=[1.0]))
    command = [sys.executable, "-c", FEW_DESCRIPTORS, str(tmp_path / "a.npz")]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    assert "Too many open files; it is kept" in told
    assert store.load_run(tmp_path / "a.npz").config == dict(seed=1)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError("no memory")])
def test_a_system_that_cannot_read_deletes_nothing(tmp_path, monkeypatch, error):
    store.save_run(tmp_path / "a.npz", dict(seed=1), dict(x=[1.0]))

    def fail(content):
        raise error

    monkeypatch.setattr(store, "_parsed", fail)
    with pytest.raises(RecordError, match="it is kept"):
        store.load_run(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").is_file()


def test_a_file_of_another_format_is_replaced(tmp_path):
    "A whole `.npz` without the words of this store, as an older edition wrote it."
    run_all(CONFIGS[:1], tmp_path)
    (path,) = tmp_path.rglob("*.npz")
    whole = path.read_bytes()
    np.savez(path, config=np.frombuffer(json.dumps({}).encode(), np.uint8))
    with pytest.warns(UserWarning, match="damaged"):
        run_all(CONFIGS[:1], tmp_path)
    assert path.read_bytes() == whole


def test_force_computes_finished_runs_again(tmp_path, monkeypatch):
    run_all(CONFIGS[:2], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    whole = contents(tmp_path)
    monkeypatch.setenv("IMPSAMP_FORCE", str(time.time()))
    run_all(CONFIGS[:2], tmp_path)
    assert all(path.stat().st_mtime_ns > was for path, was in before.items())
    assert contents(tmp_path) == whole
    monkeypatch.setattr(store, "_finish", lambda *a: pytest.fail("computed again"))
    run_all(CONFIGS[:2], tmp_path)  # newer than the command: once is enough


def test_a_tuple_in_a_configuration_is_a_list_when_it_is_read(tmp_path, monkeypatch):
    made = store.made_by(paper_run)
    config = dict(pair=(1, 2))
    store.save_run(tmp_path / "a.npz", config, {}, made)
    assert store._current(store._Todo(config, tmp_path / "a.npz"), made) is not None


def test_an_array_may_not_take_the_configurations_place(tmp_path):
    with pytest.raises(InvalidArgument, match="'run'"):
        store.save_run(tmp_path / "a.npz", {}, dict(run=[1]))


def test_two_at_once_are_refused(tmp_path):
    sentence = f"process {os.getpid()} is running 'x'"
    with alone(tmp_path / "x", "running 'x'"), pytest.raises(RecordError, match=sentence):
        run_all(CONFIGS[:1], tmp_path)


def test_a_run_that_raises_is_reported_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="unknown optimizer"):
        run_all([dict(CONFIGS[0], optimizer="sdg")], tmp_path)
    assert contents(tmp_path) == {}


def test_without_joblib_it_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(MissingExtra, match=r"joblib .*impsamp\[reproduce\]"):
        run_all(CONFIGS[:1], tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- killed


SCRIPT = """
import sys
from impsamp.reproduce.store import run_all
from impsamp.reproduce.lahire import paper_run
from impsamp.reproduce.processes import alone

common = dict(optimizer="sgd", steps=15, eval_every=5, test=False)
configs = [dict(scheme=s, seed=k, **common) for k in range(int(sys.argv[2])) for s in ("u", "gn")]
run_all(paper_run, configs, experiment="x", jobs=int(sys.argv[3]), root=sys.argv[1])
"""


def command(folder, seeds, jobs=2):
    "A process that computes twice as many runs as `seeds`, by default with two workers."
    return [sys.executable, "-c", SCRIPT, str(folder), str(seeds), str(jobs)]


def wait_for_runs(process, folder, wanted):
    while process.poll() is None and len(contents(folder)) < wanted:
        time.sleep(0.02)


@pytest.mark.parametrize("kills", [(3,), pytest.param((1, 5, 9), marks=pytest.mark.full)])
def test_killed_trees_resume_to_the_same_bytes(tmp_path, kills):
    "Killed after so many runs, each time by two workers; the whole is computed by one process."
    killed = tmp_path / "killed"
    whole = tmp_path / "whole"
    quiet = dict(cwd=ROOT, stderr=subprocess.DEVNULL)
    for wanted in kills:
        process = subprocess.Popen(command(killed, 6), **quiet)
        wait_for_runs(process, killed, wanted)
        kill_tree(process)
    assert kills[-1] <= len(contents(killed)) <= 12
    for folder, jobs in ((killed, 2), (whole, 1)):
        subprocess.run(command(folder, 6, jobs), check=True, **quiet)
    assert contents(killed) == contents(whole)
    assert len(contents(whole)) == 12
    assert not list(tmp_path.rglob("*.tmp"))


def workers_of(process):
    tree = psutil.Process(process.pid).children(recursive=True)
    return [child for child in tree if "LokyProcess" in " ".join(child.cmdline())]


def test_a_killed_worker_costs_only_its_own_run(tmp_path):
    process = subprocess.Popen(command(tmp_path, 10), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for_runs(process, tmp_path, 2)
    workers = workers_of(process)
    assert workers, "no worker to kill"
    workers[0].kill()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0
    assert "a worker was killed" in err
    assert len(contents(tmp_path)) == 20


@pytest.mark.full
def test_a_dask_cluster_gives_the_same_bytes(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    run_all(CONFIGS, tmp_path / "here")
    options = dict(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with distributed.LocalCluster(**options) as cluster:
        monkeypatch.setenv("IMPSAMP_DASK", cluster.scheduler_address)
        run_all(CONFIGS, tmp_path / "there", jobs=2)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
