"""What each rank runs in test_samplers_distributed.py: trains a linear model, writes every batch it saw, may kill itself."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from impsamp.errors import InvalidArgument
from impsamp.gradnorms import grad_norms
from impsamp.samplers import (
    DistributedGradNorm,
    DistributedImportanceBatchSampler,
    ImportanceBatchSampler,
    SumTree,
)

N, BATCH, STEPS, LAG = 41, 7, 12, 2


def problem():
    g = np.random.default_rng(0)
    x = torch.from_numpy(g.normal(size=(N, 3)) * g.pareto(2, size=(N, 1)))
    return x, x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) + torch.from_numpy(
        g.normal(size=(N, 1))
    )


def loss_fn(out, y):
    return ((out - y) ** 2).sum(1)


def train(make, model, each, average=lambda grads: grads):
    "`make(law)` -> sampler; `each(draw, sampler)` after every step. Scores: the per-sample losses of the batch, which depend on all that was drawn before."
    x, y = problem()
    sampler = make(SumTree(np.ones(N)))
    for batch in sampler:
        d = batch.draw
        model.zero_grad()
        losses = loss_fn(model(x[d.idx]), y[d.idx])
        (d.weight * losses).sum().backward()
        with torch.no_grad():
            for p, grad in zip(model.parameters(), average([p.grad for p in model.parameters()])):
                p -= 0.02 * grad
        sampler.update(d.idx, 0.1 + losses.detach().sqrt(), step=d.step)
        each(d, sampler)


def linear():
    return torch.nn.Linear(3, 1, bias=False).double()


def start(model):
    with torch.no_grad():
        model.weight.fill_(0.1)
    return model


def single():
    "The stream and the final parameters of one process."
    model, seen = start(linear()), []
    train(
        lambda law: ImportanceBatchSampler(
            law, BATCH, steps=STEPS, generator=np.random.default_rng(5), lag=LAG
        ),
        model,
        lambda d, s: seen.append((d.step, d.idx.tolist(), d.weight.tolist())),
    )
    return seen, model.weight.detach().numpy().ravel().tolist()


def averaged(grads):
    for g in grads:
        dist.all_reduce(g)
        g /= dist.get_world_size()
    return grads


def disagreement(rank):
    try:
        DistributedImportanceBatchSampler(
            np.full(N, 1 / N), BATCH, steps=1, generator=np.random.default_rng(rank)
        )
    except InvalidArgument as e:
        return str(e)


def main(folder, kill_rank, kill_step):
    dist.init_process_group("gloo")
    rank, folder = dist.get_rank(), Path(folder)
    model, saved, seen = start(linear()), folder / "checkpoint.pt", []
    x, y = problem()
    scorer = DistributedGradNorm(loss_fn, x, y)
    report = {
        "disagreement": disagreement(rank),
        "shard": len(scorer.x),
        "norm error": float((scorer(model) - grad_norms(model, loss_fn, x, y)).abs().max()),
        "p sum": float(scorer.probabilities(model).sum()),
    }

    def make(law):
        s = DistributedImportanceBatchSampler(
            law,
            BATCH,
            steps=STEPS,
            generator=np.random.default_rng(5 if not saved.exists() else 77),
            lag=LAG,
        )
        if kill_rank < 0 and saved.exists():
            state = torch.load(saved, weights_only=True)
            s.load_state_dict(state["sampler"])
            model.load_state_dict(state["model"])
        return s

    def each(d, sampler):
        seen.append((d.step, d.idx.tolist(), d.weight.tolist()))
        (folder / f"rank{rank}.json").write_text(
            json.dumps({"seen": seen, "weight": model.weight.detach().ravel().tolist(), **report})
        )
        if rank == 0 and kill_rank >= 0 and d.step <= kill_step - 2:
            torch.save({"sampler": sampler.state_dict(), "model": model.state_dict()}, saved)
        dist.barrier()
        if rank == kill_rank and d.step == kill_step:
            os.kill(os.getpid(), signal.SIGKILL)

    train(make, model, each, averaged)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
