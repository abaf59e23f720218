"""What each rank runs in test_sharded.py: owns its shard of data and scores, may stop early.

Every batch that it saw goes to a file."""

import json
import sys
from collections import deque
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torchrun_worker import (
    BATCH,
    LAG,
    STEPS,
    N,
    averaged,
    linear,
    load,
    problem,
    refusal,
    seen_in,
    static_sampler,
    step,
    weight_of,
)

from impsamp.samplers import ShardedImportanceBatchSampler


def shard(rank, world):
    return slice(N * rank // world, N * (rank + 1) // world)


def sharded_sampler(items, seed, steps=STEPS, **options):
    weights = np.ones(items.stop - items.start)
    generator = np.random.default_rng(seed)
    return ShardedImportanceBatchSampler(
        weights, BATCH, steps=steps, generator=generator, **options
    )


def refusals(rank, items):
    "Ranks with another p, and ranks with another seed."
    uniform = np.full(N, 1 / N)
    tilted = np.r_[0.5 / N, 1.5 / N, np.full(N - 2, 1 / N)]
    return {
        "p": refusal(lambda: static_sampler(uniform if rank == 0 else tilted, 5)),
        "seed": refusal(lambda: sharded_sampler(items, rank, steps=1)),
    }


def train(sampler, model, items, each):
    """As a DataLoader does, with LAG batches drawn ahead, which a checkpoint must carry.

    `each(draw)` after every step, True to stop."""
    x, y = (t[items] for t in problem())  # the rank's own data
    batches = iter(sampler)
    queue = deque(islice(batches, LAG))
    while queue:
        d = queue.popleft().draw
        own = d.idx - sampler.tree.low
        scores = step(model, x[own], y[own], d, averaged)
        sampler.update(d.idx, scores, step=d.step)
        queue.extend(islice(batches, 1))
        if each(d):
            break


def main(folder, stop, method):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    items = shard(rank, dist.get_world_size())
    saved = folder / "checkpoint.pt"
    report = refusals(rank, items)
    model = linear()
    sampler = sharded_sampler(items, 77 if saved.exists() else 5, lag=LAG, method=method)
    if saved.exists():
        load(saved, sampler, model)
    seen = []

    def each(d):
        seen.append(seen_in(d))
        state = {"sampler": sampler.state_dict(), "model": model.state_dict()}
        if rank == 0 and stop >= 0 and d.step == stop - 2:
            torch.save(state, saved)
        return d.step == stop

    train(sampler, model, items, each)
    content = {"seen": seen, "weight": weight_of(model), **report}
    (folder / f"rank{rank}.json").write_text(json.dumps(content))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
