"""Which scheme when: measured gain and cost of every scheme, on two data sets.

    python -m benchmarks.schemes [--seeds 4] [--rounds 3] [--data mnist,digits] [--render]

Writes schemes.csv and schemes.md beside this file. Batches of 8, plain SGD, one thread. MNIST are
1000 of its training images (the hundred embedded zeros and ones where the data is not there),
digits the 1797 of scikit-learn. Gain: H(p)/H(u) and V(p)/V(u) by `certify` along one training,
geometric means; for a pool its variance by `pool_variance_ratio`. Steps to the target loss of the
whole training set, paired with uniform sampling by seed, as a ratio of geometric means with a 95%
bootstrap interval; a run that does not arrive counts with all of its steps. Cost: processor time of
a step over that of a uniform step, contenders in turn, medians over rounds.
"""

import argparse
import csv
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks._schemes_page import page
from impsamp import LearningRateFactor, certify, load_mnist, load_mnist01, pool_variance_ratio
from impsamp.assess.measures import summarise
from impsamp.errors import DataError
from impsamp.gradnorms import loss_scores
from impsamp.randomness import CounterStream, seeded
from impsamp.reproduce.statistics import bootstrap_interval
from impsamp.schemes import (
    DynamicPruning,
    Floored,
    GradNorm,
    GroupMixture,
    LaBER,
    Loss,
    LossRank,
    Mixture,
    MultipleImportance,
    Prioritized,
    ReducibleLoss,
    Shuffle,
    Stale,
    Uniform,
    UpperBound,
)
from impsamp.training import train, training_step

HERE = Path(__file__).parent
BATCH = 8
POOL = 4 * BATCH
GAIN = ("second_moment_ratio", "variance_ratio")
STEPS = ("steps", "steps_ratio", "low", "high", "arrived", "seeds")
FIELDS = ("data", "scheme", *GAIN, *STEPS, "step_time_ratio")
LOSS = nn.CrossEntropyLoss(reduction="none")


# ---- data ----------------------------------------------------------------------------------------
class Task(NamedTuple):
    "A training problem: data, what a model of other items thinks of it, and how far to go."

    x: torch.Tensor
    y: torch.Tensor
    held_out: tuple[torch.Tensor, torch.Tensor]
    lr: float
    target: float  # loss of the whole training set
    steps: int  # at most
    hidden: int

    def model(self, seed):
        size = self.x[0].numel()
        layers = (nn.Flatten, partial(nn.Linear, size, self.hidden), nn.ReLU)
        last = partial(nn.Linear, self.hidden, 10)
        return seeded(lambda: nn.Sequential(*(make() for make in (*layers, last))), seed)


def mnist():
    "1000 images and 1000 others; the embedded hundred and its test images where there is no data."
    try:
        data = load_mnist()
    except DataError:
        data = load_mnist01()
        held = data.x_test[:200], data.y_test[:200].long()
        return Task(data.x_train, data.y_train.long(), held, 0.02, 0.02, 1500, 32)
    some = torch.randperm(len(data.x_train), generator=torch.Generator().manual_seed(0))
    ours, others = some[:1000], some[1000:2000]
    held = data.x_train[others], data.y_train[others]
    return Task(data.x_train[ours], data.y_train[ours], held, 0.1, 0.3, 800, 32)


def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32) / 16
    y = torch.tensor(found.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    ours, others = order[:1200], order[1200:]
    return Task(x[ours], y[ours], (x[others], y[others]), 0.1, 0.3, 800, 32)


TASKS = {"mnist": mnist, "digits": digits}


def holdout_losses(task):
    "The losses of the training items under a model of the others."
    model = task.model(99)
    sgd = torch.optim.SGD(model.parameters(), lr=task.lr)
    train(model, LOSS, *task.held_out, sgd, Uniform(), batch=BATCH, steps=task.steps, seed=99)
    return loss_scores(model, LOSS, task.x, task.y)


# ---- contenders ----------------------------------------------------------------------------------
class Observed(Stale):
    "`Stale` of norms that tells a `LearningRateFactor` what it is told."

    factor: LearningRateFactor | None = None

    def update(self, idx, scores, prob=None):
        super().update(idx, scores, prob)
        if self.factor is not None:
            weight = 1 / (len(idx) * self._ready() * np.asarray(prob))
            self.factor.observe(weight, scores)


def contenders(task):
    "name -> a new scheme."
    held = holdout_losses(task)
    classes = task.y.numpy()
    equal = np.ones(classes.max() + 1)

    def harder(step):
        "Classes with an odd number get twice the draws, once the first hundred steps are over."
        return equal + (np.arange(equal.size) % 2) * (step > 100)

    return {
        "Uniform": Uniform,
        "Shuffle": Shuffle,
        "Mixture(GradNorm(100), Uniform)": lambda: Mixture(GradNorm(100), Uniform()),
        "Floored(GradNorm(10), 0.2)": lambda: Floored(GradNorm(10), 0.2),
        "UpperBound(pool 32)": lambda: UpperBound(pool_size=POOL),
        "Loss": Loss,
        "LossRank(corrected)": lambda: LossRank(corrected=True),
        "Prioritized(steps 500)": lambda: Prioritized(steps=500),
        "Stale(upper)": lambda: Stale("upper"),
        "Stale(norm)": lambda: Stale("norm"),
        "Stale(norm), rate by variance": lambda: Observed("norm"),
        "GroupMixture(classes)": lambda: GroupMixture(classes, harder),
        "GroupMixture(classes, Stale(upper))": lambda: GroupMixture(classes, equal, Stale("upper")),
        "ReducibleLoss": lambda: ReducibleLoss(held),
        "ReducibleLoss(pool 32)": lambda: ReducibleLoss(held, "pool", pool_size=POOL),
        "LaBER(32, loss)": lambda: LaBER(POOL, "loss"),
        "LaBER(32, norm)": lambda: LaBER(POOL, "norm"),
        "MultipleImportance(Stale, Loss, Uniform)": lambda: MultipleImportance(
            Stale("loss"), Loss(), Uniform()
        ),
        "DynamicPruning(0.5)": DynamicPruning,
    }


def optimizer_for(task, model, scheme):
    sgd = torch.optim.SGD(model.parameters(), lr=task.lr)
    if isinstance(scheme, Observed):
        scheme.factor = LearningRateFactor(sgd)
    return sgd


# ---- gain ----------------------------------------------------------------------------------------
def certified(task, make):
    "H(p)/H(u) and V(p)/V(u) along one training."
    scheme = make()
    judged = Stale("norm") if isinstance(scheme, Observed) else scheme
    steps = min(task.steps, 400)
    page = certify(
        judged, task.model(0), LOSS, (task.x, task.y), lr=task.lr, batch=BATCH, steps=steps,
        every=steps // 4,
    )  # fmt: skip
    found = summarise(page.rows[1:])  # at the start nothing is remembered
    variance = found["variance_ratio"]
    if scheme.scope == "pool":
        variance = pool_variance_ratio(variance, BATCH, scheme.pool_size, len(task.x))
    return found["second_moment_ratio"], variance


def steps_to_target(task, make, seed, every=10):
    "Steps until the loss of the whole training set is at the target, and whether it ever is."
    model = task.model(seed)
    scheme = make()

    seen = []

    def evaluate(m):
        with torch.no_grad():
            seen.append(LOSS(m(task.x), task.y).mean().item())
        if seen[-1] <= task.target:
            raise StopIteration
        return {}

    optimizer = optimizer_for(task, model, scheme)
    arrived = False
    try:
        train(
            model, LOSS, task.x, task.y, optimizer, scheme, batch=BATCH, steps=task.steps,
            seed=seed, evaluate=evaluate, eval_every=every,
        )  # fmt: skip
    except StopIteration:
        arrived = True
    return every * (len(seen) - 1), arrived


def paired(mine, theirs):
    "Ratio of geometric means with its interval, by seed."
    d = np.log(np.array(mine) / np.array(theirs))
    low, high = bootstrap_interval(d, generator=0)
    return tuple(float(np.exp(v)) for v in (d.mean(), low, high))


# ---- cost ----------------------------------------------------------------------------------------
def stepper(task, make) -> Callable[[], None]:
    "A function that makes ten steps of its own training."
    model = task.model(0)
    scheme = make().init(len(task.x))
    step = partial(
        training_step, scheme, model, LOSS, task.x, task.y, optimizer_for(task, model, scheme),
        batch=BATCH, stream=CounterStream(0),
    )  # fmt: skip
    at = iter(range(10**9))

    def ten():
        for _ in range(10):
            step(step=next(at))

    return ten


def step_times(task, schemes, rounds):
    "name -> processor time of a step over that of a uniform step, the median over rounds."
    ready = {name: stepper(task, make) for name, make in schemes.items()}
    seconds = {name: [] for name in ready}
    for turn in range(rounds + 1):
        for name, ten in ready.items():
            start = time.process_time()
            for _ in range(10):  # a hundred steps, so that each refresh is met once
                ten()
            if turn:
                seconds[name].append(time.process_time() - start)
    base = seconds["Uniform"]
    return {name: median(a / b for a, b in zip(spent, base)) for name, spent in seconds.items()}


# ---- table ---------------------------------------------------------------------------------------
def rows_of(data, seeds, rounds):
    task = TASKS[data]()
    schemes = contenders(task)
    times = step_times(task, schemes, rounds)
    plain = [steps_to_target(task, Uniform, seed) for seed in range(seeds)]
    for name, make in schemes.items():
        runs = plain
        if name != "Uniform":
            runs = [steps_to_target(task, make, seed) for seed in range(seeds)]
        steps = [s for s, _ in runs]
        second, variance = certified(task, make)
        ratio, low, high = paired(steps, [s for s, _ in plain])
        arrived = sum(there for _, there in runs)
        found = (second, variance, np.exp(np.mean(np.log(steps))), ratio, low, high)
        row = dict(zip(FIELDS, (data, name, *found, arrived, seeds, times[name])))
        print(*(f"{v:.3f}" if isinstance(v, float) else v for v in row.values()), flush=True)
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default="mnist,digits")
    parser.add_argument("--render", action="store_true", help="the page from the csv alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = HERE / "schemes.csv"
    if not args.render:
        rows = [r for d in args.data.split(",") for r in rows_of(d, args.seeds, args.rounds)]
        with table.open("w", newline="") as f:
            writer = csv.DictWriter(f, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
    note = " ".join(__doc__.strip().split("\n\n")[-1].splitlines())
    with table.open(newline="") as f:
        (HERE / "schemes.md").write_text(page(list(csv.DictReader(f)), note))


if __name__ == "__main__":
    main()
