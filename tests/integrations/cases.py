"""Real data and the plain loop that every integration is held to."""

import importlib.resources
import os
from functools import cache
from itertools import islice

import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from impsamp.data import load_mnist, load_mnist01
from impsamp.samplers.one_call import importance_loader
from impsamp.schemes import Shuffle, Stale

BATCH = 32
STEPS = 12  # an epoch


@cache
def images():
    "1 000 images of MNIST where it is at hand, else of those that ship with the package."
    if "IMPSAMP_DATA" in os.environ:  # without a folder it would be fetched
        found = load_mnist()
        return TensorDataset(found.x_train[:1000], found.y_train[:1000])
    shipped = load_mnist01()
    return TensorDataset(shipped.x_test[:1000], shipped.y_test[:1000])


def law(name, n):
    "What draws the items, by name."
    p = 1.0 + torch.arange(n, dtype=torch.float64) % 7
    laws = {"stale": Stale("loss"), "shuffle": Shuffle(), "p": p / p.sum()}
    return laws[name]


def loader_of(name, **options):
    data = images()
    options = dict(steps=STEPS, generator=0) | options
    return importance_loader(data, law(name, len(data)), BATCH, **options)


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))


def optimizer_of(net):
    return torch.optim.SGD(net.parameters(), lr=0.05)


def losses_of(net, batch):
    x, y = batch
    return F.cross_entropy(net(x), y, reduction="none")


def plain(loader, total, each=1):
    "(step, losses) of `total` batches of a plain loop, `each` of them to an update."
    net = model()
    optimizer = optimizer_of(net)
    seen = []
    while len(seen) < total:
        for batch, draw in islice(loader, total - len(seen)):
            losses = losses_of(net, batch)
            (draw.estimate(losses) / each).backward()
            loader.update(draw, losses)
            seen.append((draw.step, losses.tolist()))
            if len(seen) % each == 0:
                optimizer.step()
                optimizer.zero_grad()
    return seen


def steps_of(seen):
    return [step for step, _ in seen]


@cache
def pieces(length=32):
    "Real text: descriptions of data sets that scikit-learn ships, in pieces of bytes."
    files = sorted(importlib.resources.files("sklearn.datasets.descr").iterdir(), key=str)
    text = b"".join(f.read_bytes() for f in files if f.name.endswith(".rst"))[:20000]
    cut = range(0, len(text) - length, length)
    rows = [torch.tensor(list(text[i : i + length])) for i in cut]
    return [{"input_ids": row, "labels": row} for row in rows]
