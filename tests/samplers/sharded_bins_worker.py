"""What each rank runs in test_sharded_bins.py: draws and reports for its own items, may go on."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from impsamp.randomness import counter_generator
from impsamp.samplers import ShardedStale
from impsamp.schemes import Stale

SIZES = (7, 4)
BATCH = 5
G = np.random.default_rng(0).lognormal(0, 2, sum(SIZES))


def steps(parts, first, last, gone):
    "Steps `first` .. `last` - 1 of `parts`; `gone(step, draws)` after each."
    for step in range(first, last):
        draws = [part.draw(BATCH, counter_generator(3, step), step=step) for part in parts]
        for part, d in zip(parts, draws):
            part.update(d.idx, G[d.idx.numpy()] * (1 + step % 3), d.prob)
        gone(step, draws)


def main(folder, first, last):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    part = ShardedStale(Stale("loss"), SIZES[rank])
    saved = folder / f"checkpoint{rank}.pt"
    if saved.exists():
        part.load_state_dict(torch.load(saved, weights_only=True))
    seen = []
    steps([part], first, last, lambda step, draws: seen.append(draws[0].idx.tolist()))
    torch.save(part.state_dict(), saved)
    (folder / f"rank{rank}.json").write_text(json.dumps({"seen": seen}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
