"""What each rank runs in test_distributed.py: trains a linear model, may kill itself.

Every batch that it saw goes to a file."""

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

N = 41
BATCH = 7
STEPS = 12
LAG = 2
SPOILT = 4  # the step whose scores are not finite


# ---- the problem -----------------------------------------------------------------------------
def problem():
    g = np.random.default_rng(0)
    x = torch.from_numpy(g.normal(size=(N, 3)) * g.pareto(2, size=(N, 1)))
    truth = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    return x, x @ truth + torch.from_numpy(g.normal(size=(N, 1)))


def loss_fn(out, y):
    return ((out - y) ** 2).sum(1)


def linear():
    model = torch.nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(0.1)
    return model


def weight_of(model):
    return model.weight.detach().ravel().tolist()


# ---- one step, one training ------------------------------------------------------------------
def step(model, x, y, draw, average=lambda grads: grads):
    "Plain SGD on the weighted sum; the scores of its items, which depend on all drawn before."
    model.zero_grad()
    losses = loss_fn(model(x), y)
    (draw.weight * losses).sum().backward()
    grads = average([p.grad for p in model.parameters()])
    with torch.no_grad():
        for p, grad in zip(model.parameters(), grads):
            p -= 0.02 * grad
    scores = 0.1 + losses.detach().sqrt()
    return scores * float("inf") if draw.step == SPOILT else scores


def train(sampler, model, each, average=lambda grads: grads):
    "`each(draw, sampler)` after every step."
    x, y = problem()
    for batch in sampler:
        d = batch.draw
        scores = step(model, x[d.idx], y[d.idx], d, average)
        sampler.update(d, scores)
        each(d, sampler)


def seen_in(draw):
    return draw.step, draw.idx.tolist(), draw.weight.tolist()


def single():
    "The stream and the final parameters of one process."
    model = linear()
    seen = []
    law = SumTree(np.ones(N))
    generator = np.random.default_rng(5)
    sampler = ImportanceBatchSampler(law, BATCH, steps=STEPS, generator=generator, lag=LAG)
    train(sampler, model, lambda d, _: seen.append(seen_in(d)))
    return seen, weight_of(model)


# ---- on many ranks ---------------------------------------------------------------------------
def averaged(grads):
    for g in grads:
        dist.all_reduce(g)
        g /= dist.get_world_size()
    return grads


def refusal(make):
    "What `make()` raises, in words, or None."
    try:
        make()
    except InvalidArgument as e:
        return str(e)


def static_sampler(law, seed):
    generator = np.random.default_rng(seed)
    return DistributedImportanceBatchSampler(law, BATCH, steps=1, generator=generator)


def facts(rank, model):
    "What else a rank reports: refusals, and exact gradient norms."
    x, y = problem()
    scorer = DistributedGradNorm(loss_fn, x, y)
    error = scorer(model) - grad_norms(model, loss_fn, x, y)
    return {
        "disagreement": refusal(lambda: static_sampler(np.full(N, 1 / N), rank)),
        "shard": len(scorer.x),
        "norm error": float(error.abs().max()),
        "p sum": float(scorer.probabilities(model).sum()),
    }


def tree_sampler(seed):
    law = SumTree(np.ones(N))
    generator = np.random.default_rng(seed)
    return DistributedImportanceBatchSampler(law, BATCH, steps=STEPS, generator=generator, lag=LAG)


def load(saved, sampler, model):
    state = torch.load(saved, weights_only=True)
    sampler.load_state_dict(state["sampler"])
    model.load_state_dict(state["model"])


def main(folder, kill_rank, kill_step):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    saved = folder / "checkpoint.pt"
    model = linear()
    report = facts(rank, model)
    sampler = tree_sampler(77 if saved.exists() else 5)
    if kill_rank < 0 and saved.exists():
        load(saved, sampler, model)
    seen = []

    def each(d, sampler):
        seen.append(seen_in(d))
        content = {"seen": seen, "weight": weight_of(model), **report}
        (folder / f"rank{rank}.json").write_text(json.dumps(content))
        if rank == 0 and kill_rank >= 0 and d.step <= kill_step - 2:
            state = {"sampler": sampler.state_dict(), "model": model.state_dict()}
            torch.save(state, saved)
        dist.barrier()
        if rank == kill_rank and d.step == kill_step:
            os.kill(os.getpid(), signal.SIGKILL)

    train(sampler, model, each, averaged)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
