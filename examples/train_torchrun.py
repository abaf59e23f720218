"""Importance sampling under DistributedDataParallel: exact gradient norms from all ranks, one global draw, elastic restart.

    torchrun --standalone --nproc-per-node=2 examples/train_torchrun.py --steps 60 --checkpoint run.pt
    torchrun --standalone --nproc-per-node=1 examples/train_torchrun.py --steps 60 --checkpoint run.pt   # goes on where it stopped

The backend is gloo on CPU (tested) or NCCL where every rank has a GPU (written for, not tested). MNIST zeros against ones, the
package's own 100 images; every `--refresh` steps all ranks score their shard, in between the scores of the batch are kept up to date.
"""

import argparse
import os

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from impsamp import load_mnist01
from impsamp.gradnorms import grad_norms
from impsamp.samplers import (
    DistributedGradNorm,
    DistributedImportanceBatchSampler,
    SumTree,
    WithDraw,
)


def arguments():
    p = argparse.ArgumentParser()
    for name, default in (
        ("steps", 60),
        ("batch", 16),
        ("refresh", 20),
        ("seed", 0),
        ("workers", 0),
        ("lag", 4),
    ):
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--lr", type=float, default=0.1)
    p.add_argument(
        "--floor",
        type=float,
        default=0.2,
        help="share of uniform sampling: no weight exceeds 1 / (batch * floor)",
    )
    p.add_argument("--checkpoint", default=None)
    return p.parse_args()


def main(a):
    gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if gpu else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)

    split = load_mnist01()
    x, y = split.x_train.to(device), split.y_train.to(device)
    torch.manual_seed(a.seed)
    model = DistributedDataParallel(
        torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(784, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
        ).to(device)
    )

    def loss_fn(out, y):
        return torch.nn.functional.cross_entropy(out, y, reduction="none")

    optimizer = torch.optim.SGD(model.parameters(), lr=a.lr)

    def weights(
        norms,
    ):  # a mixture with the uniform law, as tree weights: bounded importance weights
        s = np.asarray(norms, dtype=np.float64)
        return (1 - a.floor) * s + a.floor * scale[0]

    scorer, data = (
        DistributedGradNorm(loss_fn, x, y),
        WithDraw(TensorDataset(split.x_train, split.y_train)),
    )
    scale = [1.0]
    sampler = DistributedImportanceBatchSampler(
        SumTree(np.ones(len(x))),
        a.batch,
        steps=a.steps,
        generator=np.random.default_rng(a.seed),
        lag=a.lag,
    )
    if a.checkpoint and os.path.exists(a.checkpoint):
        state = torch.load(a.checkpoint, weights_only=True, map_location=device)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        sampler.load_state_dict(state["sampler"])
        scale[0] = state["scale"]
        if dist.get_rank() == 0:
            print(
                f"resumed after step {state['sampler']['step']} with {dist.get_world_size()} ranks",
                flush=True,
            )
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=a.workers)

    for (bx, by), draw in loader:
        bx, by = bx.to(device), by.to(device)
        optimizer.zero_grad()
        draw.estimate(
            loss_fn(model(bx), by)
        ).backward()  # weights carry the world size: DDP averages
        optimizer.step()
        if draw.step % a.refresh == 0:  # exact norms of all items, each rank its shard
            norms = scorer(model)
            scale[0] = float(norms.mean())
            low, high = (len(x) * r // sampler.world_size for r in (sampler.rank, sampler.rank + 1))
            sampler.update(
                torch.arange(low, high), weights(norms[low:high]), step=draw.step, size=len(x)
            )
        else:
            scores = (
                weights(grad_norms(model.module, loss_fn, bx, by).cpu()) if len(bx) else np.empty(0)
            )
            sampler.update(draw.idx, scores, step=draw.step)
        if draw.step % 10 == 9 or draw.step == a.steps - 1:
            with torch.no_grad():
                full = loss_fn(model.module(x), y).mean().item()
            if dist.get_rank() == 0:
                print(f"step {draw.step} loss {full:.6f}", flush=True)
                if a.checkpoint:
                    torch.save(
                        {
                            "model": model.module.state_dict(),
                            "optimizer": optimizer.state_dict(),
                            "sampler": sampler.state_dict(),
                            "scale": scale[0],
                        },
                        a.checkpoint + ".new",
                    )
                    os.replace(a.checkpoint + ".new", a.checkpoint)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(arguments())
