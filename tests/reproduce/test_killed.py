"""Killed at random moments, again and again: the records come out as if nothing had happened."""

import os
import random
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.reproduce.kill_reproduce import kill_tree

ROOT = Path(__file__).parents[2]
TIMES = 20
IDS = ["lahire_anchor", "lahire_beyond", "stale_mnist", "assess_mnist01", "horvath_sampling"]
RUN = [sys.executable, "-m", "impsamp.reproduce", "run", "--profile", "smoke", *IDS]


def environment(folder):
    quiet = {name: value for name, value in os.environ.items() if name != "IMPSAMP_RUN"}
    return quiet | {"IMPSAMP_OUTPUT": str(folder), "PYTHONPATH": str(ROOT)}


def finish(folder):
    "Run to the end; the bytes of every record, by name."
    done = subprocess.run(RUN, cwd=ROOT, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    records = folder / "_runs" / "smoke" / "output" / "data" / "records"
    return {path.name: path.read_bytes() for path in records.iterdir()}


def kill(process, whole_tree):
    "Kill the runner with all that it started, or alone; then nothing of it may be left."
    tree = psutil.Process(process.pid).children(recursive=True)
    if whole_tree:
        kill_tree(process)
    else:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert alive == []
    return len(tree)


@pytest.mark.full
def test_twenty_random_kills_leave_the_records_equal(tmp_path):
    "Every second kill takes the runner alone: kernels and workers must follow by themselves."
    generator = random.Random(0)
    killed = []
    for k in range(TIMES):
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        command = dict(cwd=ROOT, env=environment(tmp_path / "killed"))
        process = subprocess.Popen(RUN, **command, **quiet)
        try:
            process.wait(generator.uniform(1, 30))
        except subprocess.TimeoutExpired:
            killed.append(kill(process, whole_tree=k % 2 == 0))
    assert len(killed) >= TIMES / 2, "most runs ended before they could be killed"
    assert max(killed) > 2, "no kernel was ever killed"
    records = finish(tmp_path / "killed")
    assert records == finish(tmp_path / "whole")
    assert len(records) >= 2 * len(IDS)
    assert not list(tmp_path.rglob("*.tmp"))
