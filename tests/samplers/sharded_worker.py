"""What each rank runs in test_samplers_sharded.py: owns its shard of the data and of the scores, trains, writes every batch it saw, may stop early."""

import json
import sys
from collections import deque
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torchrun_worker import BATCH, LAG, STEPS, N, averaged, linear, loss_fn, problem, start

from impsamp.errors import InvalidArgument
from impsamp.samplers import DistributedImportanceBatchSampler, ShardedImportanceBatchSampler


def refusal(make):
    try:
        make()
    except InvalidArgument as e:
        return str(e)


def main(folder, stop, method):
    dist.init_process_group("gloo")
    rank, world, folder = dist.get_rank(), dist.get_world_size(), Path(folder)
    low, high = N * rank // world, N * (rank + 1) // world
    x, y = (t[low:high] for t in problem())  # the rank's own data
    model, saved, seen = start(linear()), folder / "checkpoint.pt", []
    law = np.full(N, 1 / N) if rank == 0 else np.r_[0.5 / N, 1.5 / N, np.full(N - 2, 1 / N)]
    other_p = refusal(
        lambda: DistributedImportanceBatchSampler(
            law, BATCH, steps=1, generator=np.random.default_rng(5)
        )
    )
    other_seed = refusal(
        lambda: ShardedImportanceBatchSampler(
            np.ones(high - low), BATCH, steps=1, generator=np.random.default_rng(rank)
        )
    )
    s = ShardedImportanceBatchSampler(
        np.ones(high - low),
        BATCH,
        steps=STEPS,
        generator=np.random.default_rng(77 if saved.exists() else 5),
        lag=LAG,
        method=method,
    )
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        s.load_state_dict(state["sampler"])
        model.load_state_dict(state["model"])
    batches = iter(s)
    queue = deque(
        islice(batches, LAG)
    )  # drawn ahead, as a DataLoader does: the checkpoint carries them
    while queue:
        d = queue.popleft().draw
        model.zero_grad()
        losses = loss_fn(model(x[d.idx - s.tree.low]), y[d.idx - s.tree.low])
        (d.weight * losses).sum().backward()
        with torch.no_grad():
            for p, grad in zip(model.parameters(), averaged([p.grad for p in model.parameters()])):
                p -= 0.02 * grad
        s.update(d.idx, 0.1 + losses.detach().sqrt(), step=d.step)
        queue.extend(islice(batches, 1))
        seen.append((d.step, d.idx.tolist(), d.weight.tolist()))
        state = s.state_dict()
        if rank == 0 and stop >= 0 and d.step == stop - 2:
            torch.save({"sampler": state, "model": model.state_dict()}, saved)
        if d.step == stop:
            break
    (folder / f"rank{rank}.json").write_text(
        json.dumps(
            {
                "seen": seen,
                "weight": model.weight.detach().ravel().tolist(),
                "p": other_p,
                "seed": other_seed,
            }
        )
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
