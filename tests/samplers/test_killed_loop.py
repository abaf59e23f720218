"""Looks, breaks, skips, overflows, two workers, SIGKILL and resume: the calm run's draws."""

import json
import subprocess
import sys

import pytest

from tests.samplers.killed_loop import Training
from tests.samplers.torchrun import HERE, ROOT


def draws_in(folder):
    "step -> the draw; every draw made twice must be the same twice."
    draws = {}
    for line in (folder / "draws.jsonl").read_text().splitlines():
        step, *draw = json.loads(line)
        assert draws.setdefault(step, draw) == draw
    return draws


def killed_and_resumed(folder, total, kills):
    "The exit statuses of a training that is killed at each of `kills` and started again."
    codes = []
    for kill_at in (*kills, -1):
        command = [sys.executable, str(HERE / "killed_loop.py"), folder, total, 2, kill_at]
        done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, timeout=500)
        codes.append(done.returncode)
        assert done.returncode in (0, -9), done.stderr[-2000:]
    return codes


@pytest.mark.filterwarnings("ignore:ImportanceBatchSampler")
@pytest.mark.parametrize(
    "total, kills",
    [(60, (37,)), pytest.param(500, (36, 180, 181, 407), marks=pytest.mark.full)],
)
def test_the_draws_of_a_run_that_suffers_everything_are_those_of_a_calm_one(tmp_path, total, kills):
    calm = tmp_path / "calm"
    wild = tmp_path / "wild"
    calm.mkdir()
    wild.mkdir()
    training = Training(calm, total)
    training.run(workers=0, disturbed=False)
    assert killed_and_resumed(wild, total, kills) == [-9] * len(kills) + [0]
    wanted = draws_in(calm)
    assert sorted(wanted) == list(range(total))
    assert draws_in(wild) == wanted
    assert training.skips
    assert training.spoils
    assert training.breaks
    weight = training.model.weight.detach().ravel().tolist()
    assert json.loads((wild / "weight.json").read_text()) == weight
