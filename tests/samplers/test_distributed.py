"""Under torchrun with gloo: the union over ranks is the single-process stream, also after a rank was killed and fewer ranks went on."""

import json

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.gradnorms import grad_norms
from impsamp.samplers import DistributedGradNorm, DistributedImportanceBatchSampler
from impsamp.samplers.distributed import gather_rows
from tests.samplers import torchrun_worker as worker
from tests.samplers.torchrun import ROOT, torchrun


def union(folder, ranks):
    "step -> (items, weights / ranks) of all ranks in rank order, and one rank's report."
    reports = [json.loads((folder / f"rank{r}.json").read_text()) for r in range(ranks)]
    steps = {}
    for t in range(len(reports[0]["seen"])):
        parts = [r["seen"][t] for r in reports]
        assert len({p[0] for p in parts}) == 1
        steps[parts[0][0]] = (
            sum((p[1] for p in parts), []),
            np.concatenate([p[2] for p in parts]) / ranks,
        )
    return steps, reports


def assert_same_stream(steps, single):
    for step, items, weights in single:
        if step in steps:
            assert steps[step][0] == items and np.allclose(steps[step][1], weights, rtol=1e-9)


@pytest.fixture(scope="module")
def single():
    return worker.single()


def test_two_ranks_see_the_single_process_stream_and_learn_the_same(tmp_path, single):
    done = torchrun(2, "torchrun_worker.py", tmp_path, -1, -1)
    assert done.returncode == 0, done.stderr[-2000:]
    steps, reports = union(tmp_path, 2)
    assert sorted(steps) == list(range(worker.STEPS))
    assert_same_stream(steps, single[0])
    assert (
        np.allclose(reports[0]["weight"], single[1], rtol=1e-9)
        and reports[0]["weight"] == reports[1]["weight"]
    )
    for r in reports:
        assert (
            "build the sampler alike on all ranks" in r["disagreement"] or r["disagreement"] is None
        )
        assert r["norm error"] < 1e-12 and abs(r["p sum"] - 1) < 1e-12
    assert any(r["disagreement"] for r in reports) and sum(r["shard"] for r in reports) == worker.N


def test_a_killed_rank_and_a_restart_with_fewer_ranks_keep_stream_and_result(tmp_path, single):
    killed = torchrun(3, "torchrun_worker.py", tmp_path, 1, 7)
    assert killed.returncode != 0 and ("SIGKILL" in killed.stderr or "-9" in killed.stderr)
    steps, _ = union(tmp_path, 3)
    assert max(steps) == 7 and min(steps) == 0
    assert_same_stream(steps, single[0])
    done = torchrun(2, "torchrun_worker.py", tmp_path, -1, -1)
    assert done.returncode == 0, done.stderr[-2000:]
    steps, reports = union(tmp_path, 2)
    assert sorted(steps) == list(
        range(6, worker.STEPS)
    )  # the checkpoint of step 5: steps 6 and 7 are made again
    assert_same_stream(steps, single[0])
    assert np.allclose(reports[0]["weight"], single[1], rtol=1e-9)


@pytest.mark.full
def test_the_example_trains_on_two_ranks_and_goes_on_with_one(tmp_path):
    args = (ROOT / "examples" / "train_torchrun.py", "--checkpoint", tmp_path / "run.pt")
    first = torchrun(2, *args, "--steps", 40)
    assert first.returncode == 0, first.stderr[-2000:]
    losses = [
        float(line.split()[-1]) for line in first.stdout.splitlines() if line.startswith("step")
    ]
    assert len(losses) == 4 and losses[-1] < losses[0] < 0.7
    again = torchrun(1, *args, "--steps", 40)
    assert again.returncode == 0 and "resumed after step 39 with 1 ranks" in again.stdout, (
        again.stderr[-2000:]
    )
    assert "step 79" in again.stdout


# ---- one process ---------------------------------------------------------------------------------------------------
def test_without_torchrun():
    with pytest.raises(InvalidArgument, match="start with torchrun"):
        DistributedImportanceBatchSampler([1.0], 1, steps=1, generator=np.random.default_rng(0))
    x, y = worker.problem()
    model = worker.start(worker.linear())
    scorer = DistributedGradNorm(worker.loss_fn, x, y, method="loop", chunk_size=5)
    assert torch.allclose(scorer(model), grad_norms(model, worker.loss_fn, x, y), rtol=1e-12)
    with pytest.raises(InvalidShape, match="41 samples but y has 40"):
        DistributedGradNorm(worker.loss_fn, x, y[:-1])
    with pytest.raises(InvalidShape, match="agreed on at most 2"):
        gather_rows(torch.ones(3, 1), 2)
    assert gather_rows(torch.ones(3, 1), 3).shape == (3, 1)
