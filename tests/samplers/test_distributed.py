"""Under torchrun with gloo: the union over ranks is the single-process stream.

Also after a rank was killed and fewer ranks went on."""

import numpy as np
import pytest
import torch

import impsamp.samplers.distributed
from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.gradnorms import grad_norms
from impsamp.samplers import DistributedGradNorm, DistributedImportanceBatchSampler
from impsamp.samplers.distributed import agree, digest, gather_rows, ranks_of
from tests.samplers import torchrun_worker as worker
from tests.samplers.helpers import rng
from tests.samplers.torchrun import ROOT, reports_of, torchrun


# ---- many processes --------------------------------------------------------------------------
def union(reports):
    "step -> (items, weights / ranks) of all ranks in rank order."
    steps = {}
    for parts in zip(*(r["seen"] for r in reports), strict=True):
        (step,) = {step for step, _, _ in parts}
        items = [i for _, items, _ in parts for i in items]
        weights = np.concatenate([weights for _, _, weights in parts])
        steps[step] = items, weights / len(reports)
    return steps


def assert_same_stream(steps, stream):
    for step, items, weights in stream:
        if step in steps:
            assert steps[step][0] == items
            assert np.allclose(steps[step][1], weights, rtol=1e-9)


@pytest.fixture(scope="module")
def single():
    return worker.single()


def test_two_ranks_see_the_single_process_stream_and_learn_the_same(tmp_path, single):
    stream, weight = single
    done = torchrun(2, "torchrun_worker.py", tmp_path, -1, -1)
    assert done.returncode == 0, done.stderr[-2000:]
    reports = reports_of(tmp_path, 2)
    steps = union(reports)
    assert sorted(steps) == list(range(worker.STEPS))
    assert_same_stream(steps, stream)
    assert np.allclose(reports[0]["weight"], weight, rtol=1e-9)
    assert reports[0]["weight"] == reports[1]["weight"]
    refused = [r["disagreement"] for r in reports if r["disagreement"] is not None]
    assert refused
    assert all("build the sampler alike on all ranks" in words for words in refused)
    assert all(r["norm error"] < 1e-12 for r in reports)
    assert all(abs(r["p sum"] - 1) < 1e-12 for r in reports)
    assert sum(r["shard"] for r in reports) == worker.N


def test_a_killed_rank_and_a_restart_with_fewer_ranks_keep_stream_and_result(tmp_path, single):
    stream, weight = single
    killed = torchrun(3, "torchrun_worker.py", tmp_path, 1, 7)
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr or "-9" in killed.stderr
    steps = union(reports_of(tmp_path, 3))
    assert max(steps) == 7
    assert min(steps) == 0
    assert_same_stream(steps, stream)
    done = torchrun(2, "torchrun_worker.py", tmp_path, -1, -1)
    assert done.returncode == 0, done.stderr[-2000:]
    reports = reports_of(tmp_path, 2)
    steps = union(reports)
    # the checkpoint of step 5: steps 6 and 7 are made again
    assert sorted(steps) == list(range(6, worker.STEPS))
    assert_same_stream(steps, stream)
    assert np.allclose(reports[0]["weight"], weight, rtol=1e-9)


@pytest.mark.full
def test_the_example_trains_on_two_ranks_and_goes_on_with_one(tmp_path):
    example = ROOT / "examples" / "train_torchrun.py"
    args = (example, "--checkpoint", tmp_path / "run.pt", "--steps", 40)
    first = torchrun(2, *args)
    assert first.returncode == 0, first.stderr[-2000:]
    lines = [line for line in first.stdout.splitlines() if line.startswith("step")]
    losses = [float(line.split()[-1]) for line in lines]
    assert len(losses) == 4
    assert losses[-1] < losses[0] < 0.7
    again = torchrun(1, *args)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "resumed after step 39 with 1 ranks" in again.stdout, again.stderr[-2000:]
    assert "step 79" in again.stdout


# ---- one process -----------------------------------------------------------------------------
def test_without_torchrun():
    assert ranks_of() == (0, 1)
    with pytest.raises(InvalidArgument, match="start with torchrun"):
        DistributedImportanceBatchSampler([1.0], 1, steps=1, generator=rng())
    with pytest.raises(InvalidShape, match="agreed on at most 2"):
        gather_rows(torch.ones(3, 1), 2)
    assert gather_rows(torch.ones(3, 1), 3).shape == (3, 1)


def test_the_scorer_of_one_process_is_grad_norms():
    x, y = worker.problem()
    model = worker.linear()
    scorer = DistributedGradNorm(worker.loss_fn, x, y, method="loop", chunk_size=5)
    assert torch.allclose(scorer(model), grad_norms(model, worker.loss_fn, x, y), rtol=1e-12)
    assert "rank 0 of 1: 41 of 41 items" in repr(scorer)
    with pytest.raises(InvalidShape, match="41 samples but y has 40"):
        DistributedGradNorm(worker.loss_fn, x, y[:-1])


# ---- ranks that compare notes ----------------------------------------------------------------
def test_the_digest_sees_every_bit_kind_and_order():
    p = rng().dirichlet(np.ones(50))
    close = p.copy()
    close[7] = np.nextafter(close[7], 1)
    arrays = [p, close, p[::-1], p.reshape(5, 10), p.astype(np.float32)]
    others = [[p, p], {"a": p}, {"b": p}, None, "a", [1, 23], [12, 3]]
    seen = [digest(x) for x in arrays + others]
    assert len(set(seen)) == len(seen)
    assert digest(torch.from_numpy(p)) == seen[0]
    assert all(0 <= s < 2**48 for s in seen)


def test_a_rank_that_differs_is_told_in_what(monkeypatch):
    def another_rank(rows, size, group):
        return torch.cat([rows, rows + torch.tensor([0, 1])])

    monkeypatch.setattr(impsamp.samplers.distributed, "gather_rows", another_rank)
    with pytest.raises(InvalidArgument, match="differ in p = 1 here, 2 there: build"):
        agree(n=4, p=1)
