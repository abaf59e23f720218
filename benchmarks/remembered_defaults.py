"""The defaults of `Stale`, measured: mixture weight, memory, period of probes.

python -m benchmarks.remembered_defaults [--seeds 8] [--missing]

Two tasks of data that ship with scikit-learn: the 1797 digits with an MLP 64-32-10 (SGD, momentum
.9, learning rate .1, batch 64), and every sixth pixel of a photograph as a function of its place
(64 waves-64-3, Adam .005, batch 128). Each setting of `Stale` differs from the default in one
argument; scores are last-layer norms off the backward pass, the first epoch is shuffled, the
learning rate constant. A step costs the same at every weight and memory, so time is told in steps;
a probed one pays for exact norms, `grad_norms` of its batch.

gain: H(u)/H(p) with exact norms of all items, geometric mean of three looks (after half, three
quarters and all of the steps). steps: until the training loss, looked at 80 times, is at that of
shuffled epochs after half of the steps (geometric mean over seeds); a run that does not get there
counts as all its steps, and is counted. Ratios to the default over the same seeds, above one is
better than the default; 95% intervals by inverting sign flips of the logarithms. No timings: the
table is the same on any machine, up to rounding of its arithmetic.

A row is written when it is there: a run that was cut off goes on with `--missing`."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits, load_sample_image
from torch import nn

from impsamp import grad_norms
from impsamp.randomness import counter_generator, seeded
from impsamp.reproduce.contest import Epochs, PassingScores
from impsamp.reproduce.contest_tasks import Task, squared_error
from impsamp.reproduce.statistics import sign_flips
from impsamp.samplers.draws import weights_of
from impsamp.schemes import Stale
from impsamp.theory import second_moment

HERE = Path(__file__).parent
LOOKS = 80
ENOUGH = 6  # seeds: with fewer no interval of sign flips is bounded


def digits():
    X, y = load_digits(return_X_y=True)
    train = (torch.from_numpy(X).float() / 16, torch.from_numpy(y))
    return Task(
        train, None, None, lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    )


def photograph():
    pixels = torch.from_numpy(load_sample_image("flower.jpg")[::6, ::6].copy()).float() / 255
    h, w, _ = pixels.shape
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij"
    )
    place = torch.stack([rows.flatten(), columns.flatten()], 1)
    waves = torch.from_numpy(counter_generator(0, 17).normal(size=(2, 32)) * 6).float()
    phase = place @ waves
    x = torch.cat([phase.sin(), phase.cos()], 1)
    y = pixels.flatten(0, 1)

    def make():
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))

    return Task((x, y), None, None, make, loss=squared_error)


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.005)


# task -> (problem, optimizer, batch, steps)
TASKS = {"digits": (digits, momentum, 64, 400), "photograph": (photograph, adam, 128, 480)}
DEFAULT = {"weight": 0.8, "memory": 0.99, "probe_every": 0}
SETTINGS = {
    "shuffled": None,
    "default": {},
    **{f"weight {w}": {"weight": w} for w in (0.5, 0.65, 0.9, 0.95)},
    **{f"memory {m}": {"memory": m} for m in (0.9, 0.997)},
    **{f"probe_every {k}": {"probe_every": k} for k in (20,)},
}


class Run:
    "One training."

    def __init__(self, task, optimizer, batch, settings, seed):
        self.task = task
        self.batch = batch
        self.n = len(task.train[0])
        self.rng = counter_generator(seed, 1)
        self.model = seeded(task.make, seed)
        self.learner = optimizer(self.model.parameters())
        metric = self.learner if isinstance(self.learner, torch.optim.Adam) else None
        self.passing = PassingScores(self.model[-1], metric)
        self.epochs = Epochs(self.n, self.rng)
        self.scheme = None
        if settings is not None:
            chosen = {**DEFAULT, **settings}
            self.scheme = Stale("norm", shuffle_first=True, **chosen).init(self.n)

    def step(self):
        idx, weight, prob = self.drawn()
        x, y = (part[torch.from_numpy(idx)] for part in self.task.train)
        if self.scheme is not None and self.scheme.probe_due and self.scheme.replacement:
            norms = grad_norms(self.model, self.task.loss, x, y).numpy()
        else:
            norms = None
        losses = self.task.loss(self.model(x), y)
        self.learner.zero_grad()
        (torch.from_numpy(weight).float() * losses).sum().backward()
        scores = self.passing(weight)
        self.learner.step()
        if self.scheme is None:
            return
        if norms is not None:
            self.scheme.probe(idx, norms, scores, prob)
        self.scheme.update(idx, scores, prob)

    def drawn(self):
        if self.scheme is None or not self.scheme.replacement:
            idx, _ = self.epochs.draw(self.batch)
            return idx, np.full(idx.size, 1 / idx.size), np.full(idx.size, 1 / self.n)
        idx, prob = self.scheme.draw(self.batch, self.rng)
        return idx, weights_of(prob, n=self.n, batch=self.batch), prob

    def loss(self):
        with torch.no_grad():
            return float(self.task.loss(self.model(self.task.train[0]), self.task.train[1]).mean())

    def gain(self):
        if self.scheme is None:
            return 1.0
        g = grad_norms(self.model, self.task.loss, *self.task.train).numpy().astype(float)
        u = np.full(self.n, 1 / self.n)
        return second_moment(u, g) / second_moment(self.scheme.probabilities(), g)


def trained(name, settings, seed):
    "A row: losses at `LOOKS` looks, and the gain."
    make, optimizer, batch, steps = TASKS[name]
    run = Run(make(), optimizer, batch, settings, seed)
    losses = []
    gains = []
    for step in range(1, steps + 1):
        run.step()
        if step % (steps // LOOKS) == 0:
            losses.append(run.loss())
        if step in (steps // 2, 3 * steps // 4, steps):
            gains.append(run.gain())
    told = " ".join(f"{x:.6g}" for x in losses)
    return {"gain": float(np.exp(np.mean(np.log(gains)))), "losses": told}


def measured(path, seeds, missing):
    "All rows, each written when it is there."
    rows = pd.read_csv(path).to_dict("records") if missing and path.exists() else []
    done = {(row["task"], row["setting"], row["seed"]) for row in rows}
    for name, seed, setting in itertools.product(TASKS, range(seeds), SETTINGS):
        if (name, setting, seed) in done:
            continue
        row = {"task": name, "setting": setting, "seed": seed}
        rows.append({**row, **trained(name, SETTINGS[setting], seed)})
        pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g")
    return pd.DataFrame(rows)


def steps_to(target, losses, steps):
    "The first look at which the loss is at `target`, by steps; all steps where none is."
    there = np.flatnonzero(np.array(losses.split(), float) <= target)
    return ((there[0] + 1) if there.size else LOOKS) * (steps // LOOKS), bool(there.size)


def ratio(better, worse):
    "Geometric mean of better/worse over seeds with its 95% interval."
    logs = np.log(np.asarray(better, float)) - np.log(np.asarray(worse, float))
    low, high = sign_flips(logs).interval(0.95)
    return f"{np.exp(logs.mean()):.2f} [{np.exp(low):.2f}, {np.exp(high):.2f}]"


def summary(rows):
    "A line for each task and setting that all seeds have."
    lines = []
    for name, of_task in rows.groupby("task", sort=False):
        steps = TASKS[name][3]
        shuffled = of_task[of_task.setting == "shuffled"].losses
        half = [float(told.split()[LOOKS // 2 - 1]) for told in shuffled]
        target = float(np.exp(np.mean(np.log(half))))
        found = {}
        for setting, own in of_task.groupby("setting", sort=False):
            own = own.sort_values("seed")
            times, hit = zip(*(steps_to(target, told, steps) for told in own.losses))
            found[setting] = own.gain.to_numpy(), np.array(times), sum(hit), len(own)
        gain0, times0, _, seeds = found["default"]
        for setting, (gain, times, hit, count) in found.items():
            if count != seeds:
                continue
            lines.append(
                {
                    "task": name,
                    "setting": setting,
                    "seeds": count,
                    "gain": f"{np.exp(np.log(gain).mean()):.2f}",
                    "gain over the default's": ratio(gain, gain0),
                    "steps": f"{np.exp(np.log(times).mean()):.0f}",
                    "the default's steps over these": ratio(times0, times),
                    "there": f"{hit} of {count}",
                }
            )
    return pd.DataFrame(lines)


def markdown(frame):
    lines = [list(frame), ["---"] * frame.shape[1], *frame.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--missing", action="store_true", help="keep the rows that are there")
    parser.add_argument("--judge", action="store_true", help="run nothing: the table alone")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "remembered_defaults.csv"
    seeds = 0 if chosen.judge else chosen.seeds
    rows = measured(path, seeds, chosen.missing or chosen.judge)
    words = (__doc__ or "").split("\n\n")
    head = "# The defaults of remembered scores\n\n" + "\n\n".join(
        part.replace("\n", " ") for part in words[2:4]
    )
    counts = rows.groupby(["task", "setting"]).size().groupby("task").min()
    whole = rows[rows.task.map(counts) >= ENOUGH]
    table = markdown(summary(whole))
    for name in TASKS:
        finished = counts.get(name, 0)
        if finished < ENOUGH:
            table += f"\n\nNot shown, {finished} seeds of every setting: {name}."
    (HERE / "remembered_defaults.md").write_text(f"{head}\n\n{table}\n")


if __name__ == "__main__":
    main()
