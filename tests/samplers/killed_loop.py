"""What test_killed_loop.py runs and kills: a training that looks, breaks, skips and overflows.

Every draw goes to a file before its step is made; a checkpoint is written every `EVERY` steps."""

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from impsamp import ImportanceBatchSampler, Stale, WithDraw

N = 120
BATCH = 5
STEPS = 25  # an epoch
LAG = 4
EVERY = 7


def problem():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, 3, generator=g, dtype=torch.float64) * torch.linspace(0.1, 3, N)[:, None]
    return x, x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def chosen(seed, total, share):
    "A `share` of the steps 0 .. total - 1."
    return set(np.flatnonzero(np.random.default_rng(seed).random(total) < share).tolist())


class Training:
    "Model, optimizer and sampler; what happens at which step is fixed by the total."

    def __init__(self, folder, total):
        self.folder = folder
        self.total = total
        self.skips = chosen(1, total, 0.08)
        self.spoils = chosen(2, total, 0.08)
        self.breaks = chosen(3, total, 0.1) - self.skips
        self.model = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)
        torch.nn.init.zeros_(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.5)
        scheme = Stale("loss").init(N)
        self.sampler = ImportanceBatchSampler(scheme, BATCH, steps=STEPS, generator=0, lag=LAG)
        self.step = -1
        if self.saved.exists():
            self.load()

    @property
    def saved(self):
        return self.folder / "checkpoint.pt"

    def load(self):
        state = torch.load(self.saved, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sampler.load_state_dict(state["sampler"])
        self.step = state["step"]

    def save(self):
        parts = {"model": self.model, "optimizer": self.optimizer, "sampler": self.sampler}
        state = {name: part.state_dict() for name, part in parts.items()}
        fresh = self.folder / "fresh.pt"
        torch.save({**state, "step": self.step}, fresh)
        fresh.replace(self.saved)

    def loader(self, workers):
        data = WithDraw(TensorDataset(*problem()))
        options = dict(num_workers=workers, prefetch_factor=2) if workers else {}
        return DataLoader(data, batch_sampler=self.sampler, **options)

    def make_step(self, x, y, draw):
        "One step as a loop with GradScaler makes it: none where a loss overflowed."
        losses = (self.model(x)[:, 0] - y) ** 2
        if draw.step in self.spoils:
            losses = losses * float("inf")
        self.optimizer.zero_grad()
        draw.estimate(losses).backward()
        if draw.step not in self.skips | self.spoils:
            self.optimizer.step()
        if draw.step not in self.skips:
            self.sampler.update(draw, losses.detach())

    def run(self, workers, disturbed, kill_at=-1):
        log = (self.folder / "draws.jsonl").open("a")
        loader = self.loader(workers)
        if disturbed:
            next(iter(loader))  # a look
        while self.step < self.total - 1:
            for (x, y), draw in loader:
                self.step = draw.step
                line = draw.step, draw.idx.tolist(), draw.weight.tolist(), draw.prob.tolist()
                log.write(json.dumps(line) + "\n")
                log.flush()
                if draw.step == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.make_step(x, y, draw)
                if draw.step % EVERY == 0:
                    self.save()
                last = draw.step >= self.total - 1
                if last or (disturbed and draw.step in self.breaks):
                    break


def main(folder, total, workers, kill_at):
    warnings.simplefilter("ignore")
    training = Training(Path(folder), total)
    training.run(workers, disturbed=True, kill_at=kill_at)
    weight = training.model.weight.detach().ravel().tolist()
    (Path(folder) / "weight.json").write_text(json.dumps(weight))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
