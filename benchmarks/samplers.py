"""Draws of 64 from n items, side by side in one run.

Static p, p of which 64 entries change per draw, and independent subsets.

    python -m benchmarks.samplers [--sizes 4,5,6,7,8] [--rounds 7] [--render]

Writes samplers.csv, samplers.md and samplers.png/svg beside this file. Per row the median over
rounds in which all contenders of a size take turns, so that a slow moment of the machine meets all
of them; above 10^7 items they are built one at a time, so that memory stays near 11 GB at 10^8.
Processor time of the process, so that other processes do not count; one thread. scipy and torch
are always there; cpprb and torchrl take part where they import. `make bench` installs them.
"""

import argparse
import csv
import gc
import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks._samplers_page import B, figure, levels, page
from impsamp.samplers import (
    AliasTable,
    ApproximateIndependentSampling,
    IndependentSampling,
    InverseCDF,
    NiceSampling,
    SumTree,
)
from impsamp.samplers.draws import compiled

HERE = Path(__file__).parent
TOGETHER = 10**7  # items up to which all contenders are in memory at once
CHUNK = 10**6  # items that a replay buffer is given at once
FIELDS = ("task", "n", "contender", "build_ms", "us_per_step", "bytes_per_item", "reads_per_step")


def table_row(task, n, contender, build_ms="", us="", size="", reads=""):
    return dict(zip(FIELDS, (task, n, contender, build_ms, us, size, reads)))


@lru_cache(maxsize=1)
def law(n):
    p = np.random.default_rng(n).pareto(1.5, n) + 0.01
    return p / p.sum()


def inclusion(n):
    """min(1, c s) with sum B, s the law.

    `minibatch_probabilities` without its sort of all n, since at most B items can be certain."""
    s = law(n)
    largest = np.partition(s, n - B - 1)[n - B - 1 :]
    top = np.sort(largest)[::-1]
    certain = np.r_[0, top[: B - 1].cumsum()]
    c = (B - np.arange(B)) / (1 - certain)  # k items certain
    k = np.argmax(c * top[:B] <= 1)
    return np.minimum(1, c[k] * s)


# ---- contenders ----------------------------------------------------------------------------------
class Contender(NamedTuple):
    name: str
    build: Callable  # () -> (the step to be timed, the sampler whose arrays and reads are counted)
    size: float | None  # bytes per item; None: counted


def ours(kind, make, step_of):
    "One of impsamp's samplers: `make()` builds it, `step_of(sampler)` is the step."

    def build():
        sampler = make()
        return step_of(sampler), sampler

    return Contender(f"impsamp {kind.__name__}", build, None)


def other(name, make_step, size):
    "A contender of which only the step is known."
    return Contender(name, lambda: (make_step(), None), size)


def draws_by(kind, p, rng):
    return ours(kind, lambda: kind(p), lambda s: lambda: s.draw(B, rng))


def multinomial(p, generator):
    return torch.multinomial(torch.from_numpy(p), B, replacement=True, generator=generator)


def static(p, rng):
    from scipy.stats.sampling import DiscreteAliasUrn

    def urn():
        made = DiscreteAliasUrn(p, random_state=rng)
        return lambda: made.rvs(B)

    g = torch.Generator().manual_seed(0)
    for kind in (AliasTable, SumTree, InverseCDF):
        yield draws_by(kind, p, rng)
    yield other("scipy DiscreteAliasUrn", urn, 12)
    yield other("numpy Generator.choice", lambda: lambda: rng.choice(p.size, B, p=p), 8)
    yield other("torch.multinomial", lambda: lambda: multinomial(p, g), 8)
    yield from peers(p, rng, lambda update, draw: draw)


def dynamic(p, rng):
    g = torch.Generator().manual_seed(0)
    turn = count()
    rows = rng.integers(p.size, size=(512, B))
    new = rng.pareto(1.5, (512, B)) / p.size + 1e-12

    def both(update, draw):
        def step():
            k = next(turn) % 512
            update(rows[k], new[k])
            draw()

        return step

    def on_array(draw):
        "A step that changes a copy of p itself and draws from it."
        w = p.copy()
        return both(w.__setitem__, lambda: draw(w))

    def tree_step(tree):
        return both(tree.update, lambda: tree.draw(B, rng))

    def choice(w):
        return rng.choice(p.size, B, p=w / w.sum())

    yield ours(SumTree, lambda: SumTree(p), tree_step)
    yield other("torch.multinomial", lambda: on_array(lambda w: multinomial(w, g)), 8)
    yield other("numpy Generator.choice", lambda: on_array(choice), 16)
    yield from peers(p, rng, both)


def subsets(p, rng):
    def step_of(sampler):
        return lambda: sampler.draw(rng)

    def coins():
        return np.flatnonzero(rng.random(p.size) < p)

    yield ours(IndependentSampling, lambda: IndependentSampling(p), step_of)
    yield ours(NiceSampling, lambda: NiceSampling(p.size, B), step_of)
    approximate = ApproximateIndependentSampling
    yield ours(approximate, lambda: approximate(p), step_of)
    yield other("n coins (numpy)", lambda: coins, 8)


TASKS = {"static": (law, static), "dynamic": (law, dynamic), "independent": (inclusion, subsets)}


# ---- prioritised replay buffers, where they are installed ----------------------------------------
def importable(name):
    """Whether a peer imports.

    torchrl's wheels are built against other releases of torch and want two autograd symbols that
    2.13 lacks; its sampler does not use them, so symbols are bound when first called instead of all
    at once."""
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)
    try:
        __import__(name)
    except ImportError:
        return False
    finally:
        sys.setdlopenflags(flags)
    return True


def cpprb_buffer(p):
    import cpprb

    buffer = cpprb.PrioritizedReplayBuffer(p.size, {"x": {"dtype": np.int8}}, alpha=1.0)
    for k in range(0, p.size, CHUNK):
        some = p[k : k + CHUNK]
        buffer.add(x=np.zeros(some.size, np.int8), priorities=some)
    return buffer


def torchrl_sampler(p):
    from torchrl.data.replay_buffers.samplers import PrioritizedSampler

    sampler = PrioritizedSampler(p.size, alpha=1.0, beta=1.0, eps=0.0)
    for k in range(0, p.size, CHUNK):
        some = torch.arange(k, min(k + CHUNK, p.size))
        sampler.extend(some)
        sampler.update_priority(some, torch.from_numpy(p[k : k + CHUNK]).float())
    return sampler


class _Items:
    "A storage that is only asked how long it is."

    ndim = 1

    def __init__(self, n):
        self.n = n
        self.shape = torch.Size([n])

    def __len__(self):
        return self.n


def peers(p, rng, step):
    "The replay buffers that are installed; `step(update, draw)` makes the step."
    padded = 2 ** int(np.ceil(np.log2(p.size))) / p.size

    def cpprb_step():
        buffer = cpprb_buffer(p)
        return step(buffer.update_priorities, lambda: buffer.sample(B, beta=1.0))

    def torchrl_step():
        sampler = torchrl_sampler(p)

        def update(i, w):
            sampler.update_priority(torch.from_numpy(i), torch.from_numpy(w).float())

        return step(update, lambda: sampler.sample(_Items(p.size), B))

    if importable("cpprb"):
        # float32 trees of sums and of minima, and the item of one byte
        yield other("cpprb PrioritizedReplayBuffer", cpprb_step, 16 * padded + 1)
    if importable("torchrl._torchrl"):
        yield other("torchrl PrioritizedSampler", torchrl_step, 16 * padded)


# ---- what a sampler keeps and reads --------------------------------------------------------------
def held(s):
    "Bytes of the arrays that a sampler keeps, each counted once."
    sizes = {}
    for value in vars(s).values():
        for a in value if isinstance(value, tuple) else (value,):
            if isinstance(a, np.ndarray):
                sizes[a.ctypes.data] = a.nbytes
    return sum(sizes.values())


def reads(task, s):
    "Random reads in one step, of the leaves (or rows) and of whatever leads there."
    if isinstance(s, AliasTable):
        return B
    if isinstance(s, SumTree):
        return B * len(levels(s.n)) * (1 + (task == "dynamic"))
    if isinstance(s, InverseCDF):
        return B * int(np.ceil(np.log2(s.n)))
    if isinstance(s, IndependentSampling):
        return float(s._q @ np.diff(s._start)) + s._q.size
    return ""


# ---- measuring -----------------------------------------------------------------------------------
def seconds(step):
    start = time.process_time()
    step()
    return time.process_time() - start


def rounds_of(first, rounds):
    "How many rounds a contender takes part in, by the seconds of its first step."
    if first > 1:
        return 1
    return min(3, rounds) if first > 0.05 else rounds


def repeated(step, k):
    for _ in range(k):
        step()


def microseconds(step, budget=0.03):
    """Microseconds a step, over as many steps as fill the budget.

    The first, uncounted, warms the caches that the contender before has filled."""
    k = 1
    if budget:
        k = int(np.clip(budget / max(seconds(step), 1e-7), 1, 1000))
    return seconds(partial(repeated, step, k)) / k * 1e6


class Turn(NamedTuple):
    "A contender that waits for its turns."

    row: dict
    step: Callable
    first: float  # seconds of its first step


def built(task, n, contender, rows):
    "Builds a contender, adds its row to `rows`: [its turn], or [] if it refuses to draw."
    start = time.process_time()
    step, sampler = contender.build()
    build_ms = (time.process_time() - start) * 1e3
    row = table_row(task, n, contender.name, build_ms, size=contender.size)
    rows.append(row)
    if sampler is not None:
        row["bytes_per_item"] = held(sampler) / n
        row["reads_per_step"] = reads(task, sampler)
    try:
        return [Turn(row, step, seconds(step))]
    except RuntimeError as e:  # torch.multinomial above 2^24 categories
        row["us_per_step"] = "refuses"
        print(f"{contender.name}, n = {n}: {e}", flush=True)
        return []


def finish(group, rounds):
    "All contenders of a group take turns; their rows get the medians, and the group is let go."
    times = [[] for _ in group]
    for k in range(rounds):
        for turn, own in zip(group, times):
            if k < rounds_of(turn.first, rounds):
                own.append(microseconds(turn.step, 0.03 if turn.first < 0.05 else 0))
    for turn, own in zip(group, times):
        turn.row["us_per_step"] = float(np.median(own))


def measure(task, n, rounds):
    make, contenders = TASKS[task]
    p = make(n)
    rows = []
    group = []
    for contender in contenders(p, np.random.default_rng(0)):
        group += built(task, n, contender, rows)
        if n > TOGETHER:
            finish(group, rounds)
            group.clear()
            gc.collect()
    finish(group, rounds)
    return rows


def gather(x, where):
    total = 0
    for i in where:
        total += x[i]
    return total


def chase(x, i, mask, steps):
    "x is all zeros: a walk through all places, each known only when the last was read."
    for _ in range(steps):
        i = (i * 1664525 + 1013904223 + x[i]) & mask
    return i


def memory(rounds, largest=32):
    """Rows of what 64 random reads of one array cost, by its bytes.

    Independent of each other, and each waiting for the last."""
    x = np.empty(2**largest // 8, np.int64)
    x[:] = 0
    rng = np.random.default_rng(1)
    gathering = compiled(gather)
    chasing = compiled(chase)
    gathering(x[:8], np.arange(8))
    chasing(x[:8], 0, 7, 8)
    rows = []
    for k in range(13, largest + 1):
        n = 2**k // 8
        independent = []
        dependent = []
        for _ in range(rounds):
            where = rng.integers(n, size=64 * 500)
            gathering(x, where[: 64 * 50])
            spent = seconds(partial(gathering, x, where))
            independent.append(spent / 500 * 1e6)
            spent = seconds(partial(chasing, x, where[0], n - 1, 64 * 100))
            dependent.append(spent / 100 * 1e6)
        for name, times in (("independent reads", independent), ("dependent reads", dependent)):
            rows.append(table_row("memory", 2**k, name, us=float(np.median(times)), reads=B))
    return rows


def build_and_draw(kind, p, rng):
    "(milliseconds of building, microseconds of building and one step)"
    start = time.process_time()
    sampler = kind(p)
    build = time.process_time() - start
    step = seconds(partial(sampler.draw, B, rng))
    return build * 1e3, (build + step) * 1e6


def builds(sizes, rounds):
    "Rows of building and of building plus one step, all three structures taking turns."
    rng = np.random.default_rng(2)
    kinds = (AliasTable, SumTree, InverseCDF)
    rows = []
    for n in sizes:
        p = law(n)
        times = {kind: [] for kind in kinds}
        for _ in range(rounds if n > 10**6 else 3 * rounds):
            for kind in kinds:
                times[kind].append(build_and_draw(kind, p, rng))
        for kind, pairs in times.items():
            build_ms, us = map(float, np.median(pairs, axis=0))
            rows.append(table_row("build", n, f"impsamp {kind.__name__}", build_ms, us))
    return rows


# ---- the command ---------------------------------------------------------------------------------
def versions():
    "Of whatever takes part."
    names = ["numpy", "torch", "scipy", "numba"]
    if importable("cpprb"):
        names.append("cpprb")
    if importable("torchrl._torchrl"):
        names.append("torchrl")
    return ", ".join(f"{m} {version(m)}" for m in names)


def save(rows, path, fields):
    with path.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(fields)
        for row in rows:
            out.writerow([f"{x:.4g}" if isinstance(x, float) else x for x in row.values()])


def build_sizes(powers):
    "A third of each size as well; not above 10^7."
    sizes = [10**3]
    for n in powers:
        if 10**4 < n <= 10**7:
            sizes.append(n // 3)
        if n <= 10**7:
            sizes.append(n)
    return sizes


def measure_all(powers, rounds):
    for task in TASKS:
        measure(task, 1000, 1)  # compile, import
    rows = [table_row("version", 0, versions())]
    rows += memory(rounds, 32 if max(powers) > 10**7 else 29)
    rows += builds(build_sizes(powers), rounds)
    for n in powers:
        for task in TASKS:
            rows += measure(task, n, rounds)
            # what is measured stays, even if the next size does not fit
            save(rows, HERE / "samplers.csv", FIELDS)


def parse():
    parser = argparse.ArgumentParser(description=" ".join(__doc__.split("\n\n")[:2]))
    parser.add_argument("--sizes", default="4,5,6,7,8", help="powers of ten; 8 needs 11 GB")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--render",
        action="store_true",
        help="table and figure from the committed csv, nothing measured",
    )
    return parser.parse_args()


def main():
    args = parse()
    torch.set_num_threads(1)
    if not args.render:
        measure_all([10 ** int(k) for k in args.sizes.split(",")], args.rounds)
    with (HERE / "samplers.csv").open(newline="") as file:
        first, *rows = csv.DictReader(file)
    (HERE / "samplers.md").write_text(page(rows, first["contender"]))
    figure(rows, HERE)


if __name__ == "__main__":
    main()
