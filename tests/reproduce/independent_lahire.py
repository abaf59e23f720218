"""The first paper's section 4 a second time: plain torch, no code of the package.

Written from the paper and from the pairing rule alone, so that agreement with the package's own
runs means something. The pairing rule: seed s builds the network under `torch.manual_seed(s)`
(torch's default initialisation, layers in order), and step t draws its five items by inverse CDF
from the five uniforms of Philox(SeedSequence((s, t))).

    python tests/reproduce/independent_lahire.py FOLDER_OF_MNIST OUT.csv --seeds 1000 1001
"""

import argparse
import csv
import gzip
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ARMS = [
    ("sgd", "u"),
    ("sgd", "gn"),
    ("sgd", "half"),
    ("momentum", "u"),
    ("momentum", "gn"),
    ("momentum", "half"),
    ("rmsprop", "u"),
    ("rmsprop", "gn"),
    ("adam", "u"),
    ("adam", "gn"),
]
STEPS = 300
BATCH = 5
EVERY = 10


def read_idx(folder, name):
    """An IDX file of unsigned bytes, plain or gzipped.

    4 bytes of magic (type, rank), rank big-endian lengths, then the data."""
    path = Path(folder) / name
    if path.exists():
        raw = path.read_bytes()
    else:
        raw = gzip.decompress(path.with_name(name + ".gz").read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def scaled(images, scale):
    x = images.astype(np.float32)[:, None]
    if scale == "unit":
        return x / 255
    if scale == "standard":
        return (x / 255 - 0.1307) / 0.3081
    return x


def chosen_items(labels, subset, per_class):
    "Positions of `per_class` zeros and ones, in file order: the first, or a seeded choice."
    chosen = []
    for digit in (0, 1):
        where = np.flatnonzero(labels == digit)
        if subset != "first":
            where = np.random.default_rng(subset).choice(where, per_class, replace=False)
        chosen.extend(where[:per_class])
    return np.sort(chosen)


def tensors(images, labels, scale):
    return torch.tensor(scaled(images, scale)), torch.tensor(labels.astype(np.int64))


def load(folder, *, subset="first", scale="unit", per_class=50):
    """Tensors (x, y, x_test, y_test).

    `per_class` zeros and ones in file order (or a seeded choice), and every zero and one of the
    test part."""
    x = read_idx(folder, "train-images-idx3-ubyte")
    y = read_idx(folder, "train-labels-idx1-ubyte")
    x_test = read_idx(folder, "t10k-images-idx3-ubyte")
    y_test = read_idx(folder, "t10k-labels-idx1-ubyte")
    chosen = chosen_items(y, subset, per_class)
    binary = y_test < 2
    return (
        *tensors(x[chosen], y[chosen], scale),
        *tensors(x_test[binary], y_test[binary], scale),
    )


class Net(nn.Module):
    """Appendix F of the paper.

    Two convolutions of kernel 5, two linear layers, ReLU between, log-softmax at the end."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 5, 5)
        self.conv2 = nn.Conv2d(5, 10, 5)
        self.fc1 = nn.Linear(4000, 100)
        self.fc2 = nn.Linear(100, 2)

    def before(self, x):
        "The pre-activations of the four layers; the last one holds the logits."
        z1 = self.conv1(x)
        z2 = self.conv2(F.relu(z1))
        z3 = self.fc1(F.relu(z2).flatten(1))
        return z1, z2, z3, self.fc2(F.relu(z3))

    def forward(self, x):
        return F.log_softmax(self.before(x)[-1], dim=1)


def norms_by_loop(net, x, y):
    "The gradient of every item's loss, one at a time, and its Euclidean norm."
    params = list(net.parameters())
    norms = []
    for i in range(len(x)):
        loss = F.nll_loss(net(x[i : i + 1]), y[i : i + 1])
        grads = torch.autograd.grad(loss, params)
        norms.append(sum(g.double().pow(2).sum() for g in grads).sqrt().item())
    return np.array(norms)


def squares(t):
    "Sum of squares of each item's entries, in float64: (n,)."
    return t.double().pow(2).flatten(1).sum(1)


def norms_by_layer(net, x, y):
    """The same norms from one backward pass.

    An item's weight gradient is its error at the layer's output times the layer's input."""
    zs = net.before(x)
    errors = torch.autograd.grad(F.cross_entropy(zs[-1], y, reduction="sum"), zs)
    inputs = [x, F.relu(zs[0]), F.relu(zs[1]).flatten(1), F.relu(zs[2])]
    total = torch.zeros(len(x), dtype=torch.float64)
    for a, e in zip(inputs[:2], errors[:2]):
        columns = F.unfold(a.detach(), 5)  # (n, channels * 25, places)
        weight = torch.bmm(e.flatten(2), columns.transpose(1, 2))
        bias = e.sum((2, 3))
        total += squares(weight) + squares(bias)
    for a, e in zip(inputs[2:], errors[2:]):
        total += squares(e) * (squares(a.detach()) + 1)
    return total.sqrt().numpy()


def probabilities(scheme, norms, n):
    if scheme == "u" or norms.sum() == 0:
        return np.full(n, 1 / n)
    p = norms / norms.sum()
    return p if scheme == "gn" else (p + 1 / n) / 2


def make_optimizer(name, params, lr, adaptive_lr):
    if name == "sgd":
        return torch.optim.SGD(params, lr=lr)
    if name == "momentum":
        return torch.optim.SGD(params, lr=lr, momentum=0.5)
    return {"rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}[name](params, lr=adaptive_lr)


@torch.no_grad()
def evaluate(net, x, y):
    "(mean loss in float64 from margins, accuracy)"
    z = net.before(x)[-1].double().numpy()
    margin = z[np.arange(len(y)), y] - z[np.arange(len(y)), 1 - y]
    return float(np.logaddexp(0, -margin).mean()), float((margin > 0).mean())


def draw(p, seed, step):
    "Items and weights of a step: inverse CDF of the step's own uniforms."
    philox = np.random.Philox(np.random.SeedSequence((seed, step)))
    uniforms = np.random.Generator(philox).random(BATCH)
    cdf = np.cumsum(p)
    idx = np.searchsorted(cdf / cdf[-1], uniforms, side="right")
    return idx, torch.tensor(1 / (len(p) * p[idx]), dtype=torch.float32)


def run(
    data,
    optimizer,
    scheme,
    seed,
    *,
    lr=0.01,
    adaptive_lr=0.01,
    steps=STEPS,
    norms=norms_by_loop,
    test=True,
):
    "One training run: a list of (step, train loss, test loss, test accuracy) at steps 0, 10, ..."
    x, y, x_test, y_test = data
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net()
    opt = make_optimizer(optimizer, net.parameters(), lr, adaptive_lr)
    rows = []
    for t in range(steps + 1):
        if t % EVERY == 0:
            tested = evaluate(net, x_test, y_test) if test else (np.nan, np.nan)
            rows.append((t, evaluate(net, x, y)[0], *tested))
        if t == steps or not np.isfinite(rows[-1][1]):
            break
        scores = norms(net, x, y) if scheme != "u" else None
        idx, weight = draw(probabilities(scheme, scores, len(x)), seed, t)
        losses = F.nll_loss(net(x[idx]), y[idx], reduction="none")
        opt.zero_grad()
        (weight * losses).mean().backward()
        opt.step()
    return rows


def parser():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("mnist")
    p.add_argument("out")
    p.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002])
    p.add_argument("--fast", action="store_true", help="norms layer by layer, not item by item")
    p.add_argument("--arms", nargs="+", default=[f"{o}-{s}" for o, s in ARMS])
    p.add_argument("--subset", default="first")
    p.add_argument("--scale", default="unit")
    p.add_argument("--lr", type=float, default=0.01)
    p.add_argument("--adaptive-lr", type=float, default=0.01)
    p.add_argument("--no-test", action="store_true")
    return p


COLUMNS = ["optimizer", "scheme", "seed", "step", "train_loss", "test_loss", "test_accuracy"]


def main():
    args = parser().parse_args()
    torch.set_num_threads(1)
    subset = args.subset if args.subset == "first" else int(args.subset)
    data = load(args.mnist, subset=subset, scale=args.scale)
    options = {
        "lr": args.lr,
        "adaptive_lr": args.adaptive_lr,
        "test": not args.no_test,
        "norms": norms_by_layer if args.fast else norms_by_loop,
    }
    with open(args.out, "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        for seed, arm in product(args.seeds, args.arms):
            optimizer, scheme = arm.split("-")
            start = time.perf_counter()
            for step, *values in run(data, optimizer, scheme, seed, **options):
                out.writerow([optimizer, scheme, seed, step, *(f"{v:.10g}" for v in values)])
            file.flush()
            seconds = time.perf_counter() - start
            print(f"seed {seed} {optimizer} {scheme}: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
