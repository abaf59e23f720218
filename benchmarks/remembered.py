"""A step of remembered scores beside shuffling: draw 128 of n items, hear of their new scores.

    python -m benchmarks.remembered [--sizes 4,5,6,7,8] [--rounds 7] [--render]

Writes remembered.csv and remembered.md beside this file. Up to 10^7 items all contenders of a size
take turns; at 10^8 they are built and timed one after the other, for memory. Processor time of the
process, one thread; the least over rounds, since whatever else runs on the machine can only add.
cpprb and torchrl take part where they import. `make bench` installs them.
"""

import argparse
import csv
import gc
import time
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler

from benchmarks.samplers import (
    CHUNK,
    TOGETHER,
    _Items,
    cpprb_buffer,
    importable,
    repeated,
    save,
    seconds,
    torchrl_sampler,
    versions,
)
from impsamp import ImportanceBatchSampler, InverseCDF, Stale

HERE = Path(__file__).parent
B = 128
FIELDS = ("n", "contender", "build_s", "us_per_step", "bytes_per_item")
BUDGET = 0.05  # seconds of steps a round


# ---- what is drawn from ----------------------------------------------------------------------
def scores(size, seed):
    "Wide: some 85 half octaves, so that items move further than in a training."
    return np.random.default_rng(seed).lognormal(-5, 3, size)


@lru_cache(maxsize=1)
def remembered(n, **settings):
    "A scheme that has been told a score of every item."
    scheme = Stale("loss", **settings).init(n)
    for k in range(0, n, CHUNK):
        items = np.arange(k, min(k + CHUNK, n))
        scheme.update(items, scores(items.size, k), np.full(items.size, 1 / n))
    return scheme


def news():
    "New scores (B,) for ever, the same for all contenders."
    return cycle(scores((256, B), 1))


# ---- contenders: build() -> the step ---------------------------------------------------------
def through_sampler(scheme):
    sampler = ImportanceBatchSampler(scheme, B, steps=10**9, generator=0)
    batches = iter(sampler)
    new = cycle(map(torch.from_numpy, scores((256, B), 1)))

    def step():
        batch = next(batches)
        sampler.update(batch.draw, next(new))

    return step


def bare(scheme):
    rng = np.random.default_rng(0)
    new = news()

    def step():
        items, prob = scheme.draw(B, rng)
        scheme.update(items, next(new), prob)

    return step


def by_vector(scheme):
    "As every scheme was drawn from before: the vector p, its cumulated sum."
    rng = np.random.default_rng(0)
    new = news()

    def step():
        draw = InverseCDF(scheme.probabilities()).draw(B, rng)
        scheme.update(draw.idx, next(new), draw.prob)

    return step


def shuffled(n):
    "One batch; an epoch's permutation is paid by its first."
    sampler = BatchSampler(RandomSampler(range(n)), B, drop_last=True)
    batches = iter(sampler)

    def step():
        nonlocal batches
        if next(batches, None) is None:
            batches = iter(sampler)
            next(batches)

    return step


def cpprb(n):
    buffer = cpprb_buffer(scores(n, 0))
    new = news()

    def step():
        drawn = buffer.sample(B, beta=1.0)
        buffer.update_priorities(drawn["indexes"], next(new))

    return step


def torchrl(n):
    sampler = torchrl_sampler(scores(n, 0))
    storage = _Items(n)
    new = news()

    def step():
        items, _ = sampler.sample(storage, B)
        sampler.update_priority(items, torch.from_numpy(next(new)).float())

    return step


class Contender(NamedTuple):
    name: str
    build: Callable  # n -> step
    bytes_per_item: Callable  # n -> smallest possible, or counted


def padded(n):
    "What a binary tree of n leaves is padded to, over n."
    return 2 ** int(np.ceil(np.log2(n))) / n


CONTENDERS = [
    Contender("impsamp Stale, sampler", lambda n: through_sampler(remembered(n)), lambda n: 12),
    Contender("impsamp Stale, bare bins", lambda n: bare(remembered(n)), lambda n: 12),
    Contender("impsamp Stale, the vector p", lambda n: by_vector(remembered(n)), lambda n: 36),
    Contender(
        "impsamp Stale, raw scores (sum tree), sampler",
        lambda n: through_sampler(remembered(n, calibrate=False)),
        lambda n: 25.2,
    ),
    Contender("torch RandomSampler (shuffled epochs)", shuffled, lambda n: 40),
]
if importable("cpprb"):
    CONTENDERS.append(
        Contender("cpprb PrioritizedReplayBuffer", cpprb, lambda n: 16 * padded(n) + 1)
    )
if importable("torchrl._torchrl"):
    CONTENDERS.append(Contender("torchrl PrioritizedSampler", torchrl, lambda n: 16 * padded(n)))


# ---- measuring -------------------------------------------------------------------------------
class Turn(NamedTuple):
    row: dict
    step: Callable
    first: float  # seconds of the first step
    times: list


def built(contender, n):
    start = time.process_time()
    step = contender.build(n)
    build = time.process_time() - start
    first = seconds(step)
    values = (n, contender.name, build, 0.0, float(contender.bytes_per_item(n)))
    repeated(step, 20 if first < 0.05 else 1)  # compiled and warm
    return Turn(dict(zip(FIELDS, values)), step, first, [])


def take(turn, n):
    "One round: microseconds a step, with an epoch's share of what its first step paid."
    k = 3
    if seconds(turn.step) < BUDGET / 10:
        k = int(np.clip(BUDGET / max(seconds(turn.step), 1e-6), 10, 1000))
    if "RandomSampler" in turn.row["contender"]:
        epoch = n // B
        if epoch < 10 * k:  # whole epochs, their permutations among the steps
            return seconds(partial(repeated, turn.step, epoch)) / epoch * 1e6
        share = turn.first / epoch * 1e6
        return share + seconds(partial(repeated, turn.step, k)) / k * 1e6
    return seconds(partial(repeated, turn.step, k)) / k * 1e6


def measure(n, rounds):
    if n <= TOGETHER:
        together = [CONTENDERS]
    else:  # the vector p and what it is made from would take 5 GB more
        together = [[c] for c in CONTENDERS if "vector" not in c.name]
    rows = []
    for group in together:
        turns = [built(c, n) for c in group]
        for _ in range(rounds):
            for turn in turns:
                turn.times.append(take(turn, n))
        for turn in turns:
            turn.row["us_per_step"] = min(turn.times)
            rows.append(turn.row)
            print(turn.row, flush=True)
        del turns, turn
        if n > TOGETHER and "raw" in group[0].name:
            remembered.cache_clear()
        gc.collect()
    return rows


# ---- the page --------------------------------------------------------------------------------
HEAD = """\
# Remembered scores: microseconds for one step of 128

{versions}; one thread, processor time, the least over rounds in one run on a machine that others \
used at the same time: compare within a column.

A step draws 128 of n items and hears of their 128 new scores. `sampler`: through \
`ImportanceBatchSampler`, checks, weights, `Draw` and report included; `bare bins`: `Stale.draw` \
and `Stale.update`. `the vector p`: as every scheme is drawn from that has no `draw` of its own, \
`probabilities()` and its cumulated sum, O(n). Shuffling draws and hears nothing; an epoch's \
permutation is shared out among its steps. The replay buffers keep float32 priorities, return \
weights, and know nothing of calibration. New scores spread over some 85 half octaves, wider than \
a training's, so that items move further. Bytes per item are counted for impsamp (float32 score, \
two places; raw: float64 score, tree) and the smallest possible for the others; 10^8 calibrated \
items take 1.2 GB. Above 10^7 items contenders are built and timed one after the other.
"""


def page(rows, versions):
    sizes = sorted({int(r["n"]) for r in rows})
    names = list(dict.fromkeys(r["contender"] for r in rows))
    at = {(int(r["n"]), r["contender"]): r for r in rows}
    heads = [f"n = 1e{len(str(n)) - 1}" for n in sizes]
    lines = [HEAD.format(versions=versions)]
    lines.append("| " + " | ".join(["contender", *heads, "bytes per item"]) + " |")
    lines.append("| --- " * (len(sizes) + 2) + "|")
    for name in names:
        known = [at.get((n, name)) for n in sizes]
        cells = ["not run" if r is None else f"{float(r['us_per_step']):,.0f}" for r in known]
        size = max(float(r["bytes_per_item"]) for r in known if r is not None)
        lines.append("| " + " | ".join([name, *cells, f"{size:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="4,5,6,7,8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--render", action="store_true", help="the page again, from the csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.render:
        rows = []
        for power in map(int, args.sizes.split(",")):
            rows += measure(10**power, args.rounds)
            save(rows, HERE / "remembered.csv", FIELDS)
    with (HERE / "remembered.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (HERE / "remembered.md").write_text(page(rows, versions()))


if __name__ == "__main__":
    main()
