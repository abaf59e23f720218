"""Importance sampling under DistributedDataParallel.

Exact gradient norms from all ranks, one global draw, elastic restart:

    torchrun --standalone --nproc-per-node=2 examples/train_torchrun.py --checkpoint run.pt

and the same with --nproc-per-node=1 goes on where it stopped.

The backend is gloo on CPU (tested) or NCCL where every rank has a GPU (written for, not tested).
MNIST zeros against ones, the package's own 100 images; every `--refresh` steps all ranks score
their shard, in between the scores of the batch are kept up to date.
"""

import argparse
import os

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
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

COUNTS = {"steps": 60, "batch": 16, "refresh": 20, "seed": 0, "workers": 0, "lag": 4}


def arguments():
    parser = argparse.ArgumentParser()
    for name, default in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument(
        "--floor",
        type=float,
        default=0.2,
        help="share of uniform sampling: no weight exceeds 1 / (batch * floor)",
    )
    parser.add_argument("--checkpoint", default=None)
    return parser.parse_args()


def start_process():
    "Joins the group of ranks; returns the device of this one."
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return torch.device("cpu")
    dist.init_process_group("nccl")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def network():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )


def loss_fn(out, y):
    return nn.functional.cross_entropy(out, y, reduction="none")


def say(*words):
    "One rank speaks for all."
    if dist.get_rank() == 0:
        print(*words, flush=True)


class Training:
    "What a run holds, so that it can be saved and resumed as a whole."

    def __init__(self, args, device):
        split = load_mnist01()
        self.args = args
        self.x = split.x_train.to(device)
        self.y = split.y_train.to(device)
        self.device = device
        self.data = WithDraw(TensorDataset(split.x_train, split.y_train))
        torch.manual_seed(args.seed)
        self.model = DistributedDataParallel(network().to(device))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=args.lr)
        self.scorer = DistributedGradNorm(loss_fn, self.x, self.y)
        self.scale = 1.0  # mean norm at the last refresh
        self.sampler = DistributedImportanceBatchSampler(
            SumTree(np.ones(len(self.x))),
            args.batch,
            steps=args.steps,
            generator=np.random.default_rng(args.seed),
            lag=args.lag,
        )

    def loader(self):
        return DataLoader(
            self.data,
            batch_sampler=self.sampler,
            collate_fn=self.data.collate,
            num_workers=self.args.workers,
        )

    def tree_weights(self, norms):
        "A mixture with the uniform law: bounded importance weights."
        s = np.asarray(norms, dtype=np.float64)
        return (1 - self.args.floor) * s + self.args.floor * self.scale

    def step(self, x, y, draw):
        self.optimizer.zero_grad()
        losses = loss_fn(self.model(x), y)
        # weights carry the world size: DDP averages
        draw.estimate(losses).backward()
        self.optimizer.step()

    def refresh(self, step):
        "Exact norms of all items; each rank reports its shard."
        norms = self.scorer(self.model)
        self.scale = float(norms.mean())
        n = len(self.x)
        low = n * self.sampler.rank // self.sampler.world_size
        high = n * (self.sampler.rank + 1) // self.sampler.world_size
        shard = torch.arange(low, high)
        self.sampler.update(shard, self.tree_weights(norms[low:high]), step=step, size=n)

    def report(self, x, y, draw):
        "The norms of this rank's part of the batch."
        scores = np.empty(0)
        if len(x):
            norms = grad_norms(self.model.module, loss_fn, x, y)
            scores = self.tree_weights(norms.cpu())
        self.sampler.update(draw.idx, scores, step=draw.step)

    def full_loss(self):
        with torch.no_grad():
            return loss_fn(self.model.module(self.x), self.y).mean().item()

    def state_dict(self):
        return {
            "model": self.model.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sampler": self.sampler.state_dict(),
            "scale": self.scale,
        }

    def save(self, path):
        "Whole or not at all."
        torch.save(self.state_dict(), path + ".new")
        os.replace(path + ".new", path)

    def resume(self, path):
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.model.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sampler.load_state_dict(state["sampler"])
        self.scale = state["scale"]
        done = state["sampler"]["step"]
        say(f"resumed after step {done} with {dist.get_world_size()} ranks")


def main(args):
    device = start_process()
    run = Training(args, device)
    if args.checkpoint and os.path.exists(args.checkpoint):
        run.resume(args.checkpoint)

    for (x, y), draw in run.loader():
        x = x.to(device)
        y = y.to(device)
        run.step(x, y, draw)
        if draw.step % args.refresh == 0:
            run.refresh(draw.step)
        else:
            run.report(x, y, draw)
        if draw.step % 10 == 9 or draw.step == args.steps - 1:
            say(f"step {draw.step} loss {run.full_loss():.6f}")
            if args.checkpoint and dist.get_rank() == 0:
                run.save(args.checkpoint)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(arguments())
