"""Finished runs: whole or absent, found again, equal whoever computes them, and safe to kill."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from impsamp.errors import InvalidArgument, RecordError
from impsamp.reproduce import store
from impsamp.reproduce.lahire import paper_run

ROOT = Path(__file__).parents[2]
CONFIGS = [
    dict(optimizer="sgd", scheme=s, seed=seed, steps=3, eval_every=1, test=False)
    for seed in range(3)
    for s in ("u", "gn")
]


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(Path(folder).rglob("*.npz"))}


def test_the_number_of_workers_does_not_matter(tmp_path):
    one = store.run_all(paper_run, CONFIGS, experiment="x", jobs=1, root=tmp_path / "one")
    two = store.run_all(paper_run, CONFIGS, experiment="x", jobs=2, root=tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(
        contents(tmp_path / "one")
    ) == len(CONFIGS)
    for a, b in zip(one, two):
        np.testing.assert_array_equal(a["train_loss"], b["train_loss"])


def test_finished_runs_are_not_computed_again(tmp_path, monkeypatch):
    store.run_all(paper_run, CONFIGS[:2], experiment="x", jobs=1, root=tmp_path)
    monkeypatch.setattr(store, "_finish", lambda *a: pytest.fail("computed again"))
    store.run_all(paper_run, CONFIGS[:2], experiment="x", jobs=1, root=tmp_path)


def test_another_code_version_is_another_run(tmp_path, monkeypatch):
    store.run_all(paper_run, CONFIGS[:1], experiment="x", jobs=1, root=tmp_path)
    monkeypatch.setattr(store, "code_version", lambda module: "changed")
    store.run_all(paper_run, CONFIGS[:1], experiment="x", jobs=1, root=tmp_path)
    assert len(contents(tmp_path)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b"not a zip",
        lambda b: b[:60] + b"\xff" * 20 + b[80:],
    ],
)
def test_a_damaged_file_is_a_missing_run(tmp_path, damage):
    store.run_all(paper_run, CONFIGS[:1], experiment="x", jobs=1, root=tmp_path)
    (path,) = tmp_path.rglob("*.npz")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.warns(UserWarning, match="damaged"):
        store.run_all(paper_run, CONFIGS[:1], experiment="x", jobs=1, root=tmp_path)
    assert path.read_bytes() == whole


def test_disk_full_leaves_nothing_behind(tmp_path, monkeypatch):
    real = os.fsync

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(RecordError, match="No space left.*finished runs are kept"):
        store.run_all(paper_run, CONFIGS[:1], experiment="x", jobs=1, root=tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]
    monkeypatch.setattr(store.os, "fsync", real)
    assert len(store.run_all(paper_run, CONFIGS[:1], experiment="x", jobs=1, root=tmp_path)) == 1


def test_two_at_once_are_refused(tmp_path):
    from filelock import FileLock

    (tmp_path / "x").mkdir()
    with FileLock(tmp_path / "x" / ".lock"), pytest.raises(RecordError, match="another process"):
        store.run_all(paper_run, CONFIGS[:1], experiment="x", jobs=1, root=tmp_path)


@pytest.mark.parametrize("bad", [{"a": object()}, {"a": float("nan")}, {"a": np.arange(3)}])
def test_configurations_are_plain_values(bad):
    with pytest.raises(InvalidArgument, match="plain"):
        store.run_name(bad, "v")


def test_a_run_that_raises_is_reported_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="unknown optimizer"):
        store.run_all(
            paper_run, [dict(CONFIGS[0], optimizer="sdg")], experiment="x", jobs=1, root=tmp_path
        )
    assert contents(tmp_path) == {}


SCRIPT = """
import sys
from impsamp.reproduce.store import run_all
from impsamp.reproduce.lahire import paper_run
run_all(paper_run, [dict(optimizer="sgd", scheme=s, seed=k, steps=15, eval_every=5, test=False) for k in range(6) for s in ("u", "gn")], experiment="x", jobs=2, root=sys.argv[1])
"""


def kill_tree(process):
    "SIGKILL to a process and all below it, children of children and workers first seen."
    parent = psutil.Process(process.pid)
    for p in [*parent.children(recursive=True), parent]:
        with contextlib.suppress(psutil.NoSuchProcess):
            p.kill()
    process.wait()


def test_killed_trees_resume_to_the_same_bytes(tmp_path):
    command = [sys.executable, "-c", SCRIPT]
    for wanted in (1, 5):
        process = subprocess.Popen(
            [*command, str(tmp_path / "killed")], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(contents(tmp_path / "killed")) < wanted:
            time.sleep(0.02)
        kill_tree(process)
    assert 5 <= len(contents(tmp_path / "killed")) <= 12
    for name in ("killed", "whole"):
        subprocess.run(
            [*command, str(tmp_path / name)], cwd=ROOT, check=True, stderr=subprocess.DEVNULL
        )
    assert (
        contents(tmp_path / "killed") == contents(tmp_path / "whole")
        and len(contents(tmp_path / "whole")) == 12
    )
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_killed_worker_costs_only_its_own_run(tmp_path):
    code = SCRIPT.replace("jobs=2", "jobs=2").replace("range(6)", "range(20)")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and len(contents(tmp_path)) < 2:
        time.sleep(0.02)
    workers = [
        p
        for p in psutil.Process(process.pid).children(recursive=True)
        if "LokyProcess" in " ".join(p.cmdline())
    ]
    assert workers, "no worker to kill"
    workers[0].kill()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0 and "a worker was killed" in err
    assert len(contents(tmp_path)) == 40


@pytest.mark.full
def test_a_dask_cluster_gives_the_same_bytes(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    store.run_all(paper_run, CONFIGS, experiment="x", jobs=1, root=tmp_path / "here")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        monkeypatch.setenv("IMPSAMP_DASK", cluster.scheduler_address)
        store.run_all(paper_run, CONFIGS, experiment="x", root=tmp_path / "there")
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_provenance_holds_what_was_run(tmp_path, monkeypatch):
    from impsamp.reproduce.runner import check_provenance, write_provenance

    monkeypatch.setenv("IMPSAMP_OUTPUT", str(tmp_path))
    (tmp_path / "data" / "records").mkdir(parents=True)
    out = tmp_path / "data" / "records" / "x.csv"
    out.write_text("a\n1\n")
    write_provenance("x", {"runs": 3}, ["data/records/x.csv"])
    assert json.loads((tmp_path / "data/records/x.json").read_text())["parameters"] == {"runs": 3}
    check_provenance("x", {"runs": 3}, ["data/records/x.csv"])
    with pytest.raises(RecordError, match="differs from what was asked"):
        check_provenance("x", {"runs": 4}, ["data/records/x.csv"])
    out.write_text("a\n2\n")
    with pytest.raises(RecordError, match="not the file"):
        check_provenance("x", {"runs": 3}, ["data/records/x.csv"])
    with pytest.raises(RecordError, match="no provenance"):
        check_provenance("y", {}, [])
