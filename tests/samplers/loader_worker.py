"""What each rank runs in test_one_call_ranks.py: disturbed loops over `importance_loader`."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from impsamp import importance_loader, output_scores
from impsamp.errors import InvalidArgument
from impsamp.samplers import ShardedSumTree
from impsamp.schemes import Stale

N = 41
BATCH = 7
STEPS = 6
TOTAL = 15
DATA = TensorDataset(torch.arange(float(N)))


def loader_of(kind, generator=0, **options):
    if kind == "sharded":
        rank = dist.get_rank() if dist.is_initialized() else 0
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        own = np.arange(N * rank // ranks, N * (rank + 1) // ranks)
        law = ShardedSumTree(1.0 + own)
    else:
        law = {"stale": Stale("loss"), "shuffle": "shuffle"}[kind]
    return importance_loader(DATA, law, BATCH, steps=STEPS, generator=generator, lag=5, **options)


def trained(loader, total=TOTAL, *, breaks=(), looks=(), seen=None):
    "(step, items, weights) of each batch; made-up losses of the items alone."
    seen = [] if seen is None else seen
    passes = 0
    while len(seen) < total:
        if passes in looks:
            next(iter(loader))
        passes += 1
        for (x,), draw in loader:
            seen.append((draw.step, draw.idx.tolist(), draw.weight.tolist()))
            loader.update(draw, 1 + x + draw.step % 7)
            if draw.step in breaks or len(seen) == total:
                break
    return seen


def resumed(kind, **options):
    "Stopped after 8 batches, gone on by another loader."
    first = loader_of(kind, **options)
    seen = trained(first, 8, breaks={2})
    again = loader_of(kind, generator=9, **options)
    again.load_state_dict(first.state_dict())
    return trained(again, seen=seen)


def refusal(make):
    try:
        make()
    except InvalidArgument as e:
        return str(e)


def sharded_again():
    "What a wrapper does that deals whole batches out to the ranks."
    loader = loader_of("stale")
    rank = dist.get_rank()
    for k, ((x,), draw) in enumerate(loader):
        if k % 2 == rank:
            loader.update(draw, 1 + x)


def ddp():
    "Weights of a model trained by DistributedDataParallel, or alone, on last-layer scores."
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 2).double()
    if dist.is_initialized():
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    loader = importance_loader(DATA, "stale", BATCH, steps=STEPS, generator=1, lag=2)
    for (x,), draw in loader:
        output = model(x[:, None].double())
        losses = (output - x[:, None].double()).square().sum(1)
        loader.update(draw, output_scores(losses, output))
        optimizer.zero_grad()
        draw.estimate(losses).backward()
        optimizer.step()
    return [p.detach().flatten().tolist() for p in model.parameters()]


def streams():
    return {
        "calm": trained(loader_of("stale")),
        "disturbed": trained(loader_of("stale"), breaks={1, 8}, looks={0, 2}),
        "workers": trained(loader_of("stale", num_workers=2, persistent_workers=True), breaks={4}),
        "resumed": resumed("stale"),
        "shuffled": trained(loader_of("shuffle")),
        "shuffled, disturbed": trained(loader_of("shuffle"), breaks={1, 8}, looks={0}),
        "shuffled, resumed": resumed("shuffle", num_workers=1),
        "sharded": trained(loader_of("sharded")),
        "sharded, disturbed": trained(loader_of("sharded"), breaks={1, 8}, looks={0}),
        "sharded, resumed": resumed("sharded"),
        "ddp": ddp(),
    }


def main(folder):
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    report = {
        "streams": streams(),
        "without a seed": refusal(lambda: loader_of("stale", generator=None)),
        "other seeds": refusal(lambda: loader_of("stale", generator=dist.get_rank())),
        "sharded again": refusal(sharded_again),
        "about to be": refusal(lambda: loader_of("shuffle").batch_sampler.drop_last),
        "sharded, about to be": refusal(lambda: loader_of("sharded").batch_sampler.drop_last),
    }
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
