"""Draws of 64 from n items, side by side in one run: static p, p of which 64 entries change per draw, and independent subsets.

    python -m benchmarks.samplers [--sizes 4,5,6,7,8] [--rounds 7] [--render]

Writes samplers.csv, samplers.md and samplers.png/svg beside this file. Per row the median over rounds in which all contenders of a size take turns, so
that a slow moment of the machine meets all of them; above 10^7 items they are built one at a time, so that memory stays near 11 GB at 10^8. Processor time of the process, so
that other processes do not count; one thread. scipy and torch are always there; cpprb and torchrl take part where they import. `make bench` installs them.
"""

import argparse
import csv
import gc
import os
import sys
import time
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from impsamp.samplers import (
    AliasTable,
    ApproximateIndependentSampling,
    IndependentSampling,
    InverseCDF,
    NiceSampling,
    SumTree,
)
from impsamp.samplers.draws import compiled

HERE, B, TOGETHER = Path(__file__).parent, 64, 10**7
FIELDS = ("task", "n", "contender", "build_ms", "us_per_step", "bytes_per_item", "reads_per_step")


@lru_cache(maxsize=1)
def law(n):
    p = np.random.default_rng(n).pareto(1.5, n) + 0.01
    return p / p.sum()


def inclusion(n):
    "min(1, c s) with sum B, s the law: `minibatch_probabilities` without its sort of all n, since at most B items can be certain."
    s = law(n)
    top = np.sort(np.partition(s, n - B - 1)[n - B - 1 :])[::-1]
    c = (B - np.arange(B)) / (1 - np.r_[0, top[: B - 1].cumsum()])  # k items certain
    return np.minimum(1, c[np.argmax(c * top[:B] <= 1)] * s)


def static(p, rng):
    "(contender, build, bytes per item or None: counted): build() returns the step to be timed, with the sampler as its `.owner`."
    n, g = p.size, torch.Generator().manual_seed(0)
    for kind in (AliasTable, SumTree, InverseCDF):
        yield (
            f"impsamp {kind.__name__}",
            lambda kind=kind: _own(kind(p), lambda s: s.draw(B, rng)),
            None,
        )
    from scipy.stats.sampling import DiscreteAliasUrn

    yield (
        "scipy DiscreteAliasUrn",
        lambda: _own(DiscreteAliasUrn(p, random_state=rng), lambda s: s.rvs(B)),
        12,
    )
    yield "numpy Generator.choice", lambda: lambda: rng.choice(n, B, p=p), 8
    yield (
        "torch.multinomial",
        lambda: lambda: torch.multinomial(torch.from_numpy(p), B, replacement=True, generator=g),
        8,
    )
    yield from peers(p, rng, lambda update, draw: draw)


def dynamic(p, rng):
    n, g, turn = p.size, torch.Generator().manual_seed(0), iter(range(10**12))
    rows, new = rng.integers(n, size=(512, B)), rng.pareto(1.5, (512, B)) / n + 1e-12

    def both(update, draw):
        def step():
            k = next(turn) % 512
            update(rows[k], new[k])
            draw()

        return step

    def array(draw):
        w = p.copy()
        return both(w.__setitem__, lambda: draw(w))

    yield (
        "impsamp SumTree",
        lambda: _own(SumTree(p), lambda s: None, lambda s: both(s.update, lambda: s.draw(B, rng))),
        None,
    )
    yield (
        "torch.multinomial",
        lambda: array(
            lambda w: torch.multinomial(torch.from_numpy(w), B, replacement=True, generator=g)
        ),
        8,
    )
    yield "numpy Generator.choice", lambda: array(lambda w: rng.choice(n, B, p=w / w.sum())), 16
    yield from peers(p, rng, both)


def peers(p, rng, step):
    "The prioritised replay buffers that are installed; `step(update, draw)` makes the step."
    n, padded = p.size, 2 ** int(np.ceil(np.log2(p.size))) / p.size
    if importable("cpprb"):
        import cpprb

        def replay():
            b = cpprb.PrioritizedReplayBuffer(n, {"x": {"dtype": np.int8}}, alpha=1.0)
            for k in range(0, n, 10**6):
                b.add(x=np.zeros(min(10**6, n - k), np.int8), priorities=p[k : k + 10**6])
            return step(b.update_priorities, lambda: b.sample(B, beta=1.0))

        yield (
            "cpprb PrioritizedReplayBuffer",
            replay,
            16 * padded + 1,
        )  # float32 trees of sums and of minima, and the item of one byte
    if importable("torchrl._torchrl"):

        def prioritized():
            from torchrl.data.replay_buffers.samplers import PrioritizedSampler

            s = PrioritizedSampler(n, alpha=1.0, beta=1.0, eps=0.0)
            for k in range(0, n, 10**6):
                some = torch.arange(k, min(k + 10**6, n))
                s.extend(some)
                s.update_priority(some, torch.from_numpy(p[k : k + 10**6]).float())
            return step(
                lambda i, w: s.update_priority(torch.from_numpy(i), torch.from_numpy(w).float()),
                lambda: s.sample(_Items(n), B),
            )

        yield "torchrl PrioritizedSampler", prioritized, 16 * padded


class _Items:
    "A storage that is only asked how long it is."

    ndim = 1

    def __init__(self, n):
        self.n, self.shape = n, torch.Size([n])

    def __len__(self):
        return self.n


def importable(name):
    """Whether a peer imports. torchrl's wheels are built against other releases of torch and want two autograd symbols that 2.13 lacks; its sampler does not use
    them, so symbols are bound when first called instead of all at once."""
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)
    try:
        __import__(name)
    except ImportError:
        return False
    finally:
        sys.setdlopenflags(flags)
    return True


def subsets(p, rng):
    n = p.size
    yield (
        "impsamp IndependentSampling",
        lambda: _own(IndependentSampling(p), lambda s: s.draw(rng)),
        None,
    )
    yield "impsamp NiceSampling", lambda: _own(NiceSampling(n, B), lambda s: s.draw(rng)), None
    yield (
        "impsamp ApproximateIndependentSampling",
        lambda: _own(ApproximateIndependentSampling(p), lambda s: s.draw(rng)),
        None,
    )
    yield "n coins (numpy)", lambda: lambda: np.flatnonzero(rng.random(n) < p), 8


TASKS = {"static": (law, static), "dynamic": (law, dynamic), "independent": (inclusion, subsets)}


def _own(sampler, draw, make=None):
    step = make(sampler) if make else lambda: draw(sampler)
    step.owner = sampler
    return step


def held(s):
    "Bytes of the arrays that a sampler keeps, each counted once."
    arrays = [
        a
        for x in vars(s).values()
        for a in (x if isinstance(x, tuple) else (x,))
        if isinstance(a, np.ndarray)
    ]
    return sum({a.ctypes.data: a.nbytes for a in arrays}.values())


def levels(n):
    "Bytes of each level of the tree that a draw reads, leaves first: eight children, one cache line."
    sizes = []
    while n > 1:
        sizes, n = [*sizes, 8 * n], -(-n // 8)
    return sizes


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


# ---- measuring -----------------------------------------------------------------------------------------------------
def _seconds(step):
    start = time.process_time()
    step()
    return time.process_time() - start


def _rounds(first, rounds):
    return 1 if first > 1 else min(3, rounds) if first > 0.05 else rounds


def _turn(step, budget=0.03):
    "Microseconds a step, over as many steps as fill the budget; the first, uncounted, warms the caches that the contender before has filled."
    k = int(np.clip(budget / max(_seconds(step), 1e-7), 1, 1000)) if budget else 1
    return _seconds(lambda: [step() for _ in range(k)]) / k * 1e6


def measure(task, n, rounds):
    make, contenders = TASKS[task]
    p, rng, rows = make(n), np.random.default_rng(0), []
    group = []
    for name, build, size in contenders(p, rng):
        start = time.process_time()
        step = build()
        rows.append([task, n, name, (time.process_time() - start) * 1e3, "", size, ""])
        if (s := getattr(step, "owner", None)) is not None:
            rows[-1][5:] = size or held(s) / n, reads(task, s)
        try:
            first = _seconds(step)
        except RuntimeError as e:  # torch.multinomial above 2^24 categories
            rows[-1][4] = "refuses"
            print(f"{name}, n = {n}: {e}", flush=True)
            continue
        group.append((rows[-1], step, first))
        if n > TOGETHER:
            _finish(group, rounds)
        del step
    _finish(group, rounds)
    return rows


def _finish(group, rounds):
    times = [[] for _ in group]
    for k in range(rounds):
        for (row, step, first), t in zip(group, times):
            if k < _rounds(first, rounds):
                t.append(_turn(step, 0.03 if first < 0.05 else 0))
    for (row, *_), t in zip(group, times):
        row[4] = float(np.median(t))
    group.clear()
    gc.collect()


def _gather(x, where):
    total = 0
    for i in where:
        total += x[i]
    return total


def _chase(x, i, mask, steps):
    for _ in range(steps):
        i = (
            (i * 1664525 + 1013904223 + x[i]) & mask
        )  # x is all zeros: a walk through all places, each known only when the last was read
    return i


def memory(rounds, largest=32):
    "Rows of what 64 random reads of one array cost, by its bytes: independent of each other, and each waiting for the last."
    x, rng, rows = np.empty(2**largest // 8, np.int64), np.random.default_rng(1), []
    x[:] = 0
    gather, chase = compiled(_gather), compiled(_chase)
    gather(x[:8], np.arange(8)), chase(x[:8], 0, 7, 8)
    for k in range(13, largest + 1):
        n, times = 2**k // 8, ([], [])
        for _ in range(rounds):
            where = rng.integers(n, size=64 * 500)
            gather(x, where[: 64 * 50])
            times[0].append(_seconds(lambda: gather(x, where)) / 500 * 1e6)
            times[1].append(_seconds(lambda: chase(x, where[0], n - 1, 64 * 100)) / 100 * 1e6)
        rows += [
            ["memory", 2**k, name, "", float(np.median(t)), "", B]
            for name, t in zip(("independent reads", "dependent reads"), times)
        ]
    return rows


def builds(sizes, rounds):
    "Rows of building and of building plus one step, all three structures taking turns."
    rows, rng = [], np.random.default_rng(2)
    for n in sizes:
        p, kinds = law(n), (AliasTable, SumTree, InverseCDF)
        times = {k: ([], []) for k in kinds}
        for _ in range(rounds if n > 10**6 else 3 * rounds):
            for kind in kinds:
                made = []
                t = _seconds(lambda: made.append(kind(p)))
                times[kind][0].append(t * 1e3)
                times[kind][1].append((t + _seconds(lambda: made[0].draw(B, rng))) * 1e6)
        rows += [
            ["build", n, f"impsamp {k.__name__}", *(float(np.median(t)) for t in ts), "", ""]
            for k, ts in times.items()
        ]
    return rows


# ---- reading the rows ----------------------------------------------------------------------------------------------
def _number(x):
    return float(x) if x not in ("", "refuses") else np.nan


def index(rows):
    return {(r[0], int(r[1]), r[2]): r for r in rows}


def rule(rows):
    "Per size: items drawn from which the alias table has earned back its dearer building, as a share of n; build plus one step (us) of tree and cdf."
    at = index(rows)
    for n in sorted({int(r[1]) for r in rows if r[0] == "build"}):
        a, s, c = (at["build", n, f"impsamp {k}"] for k in ("AliasTable", "SumTree", "InverseCDF"))
        draws = [at.get(("static", n, f"impsamp {k}")) for k in ("AliasTable", "SumTree")]
        gain = (_number(draws[1][4]) - _number(draws[0][4])) / B if all(draws) else np.nan
        yield (
            n,
            (float(a[3]) - float(s[3])) * 1e3 / gain / n,
            float(a[3]),
            float(s[3]),
            float(c[3]),
            float(s[4]),
            float(c[4]),
        )


def profile(rows):
    """(task, sampler, n, us, reads, growth of us beyond that of the reads, growth of what these reads cost in memory at best and at worst), from the smallest n on.

    At best all 64 reads of one kind overlap, at worst each waits for the one before."""
    at = index(rows)

    def cost(kind):
        xy = sorted((int(r[1]), float(r[4])) for r in rows if r[0] == "memory" and r[2] == kind)
        return lambda size: np.interp(np.log2(size), *zip(*((np.log2(b), t) for b, t in xy)))

    bounds = cost("independent reads"), cost("dependent reads")
    for (task, name), places in PLACES.items():
        mine = [
            (n, _number(r[4]), _number(r[6]))
            for (t, n, c), r in sorted(at.items())
            if t == task and c == f"impsamp {name}"
        ]
        n0, us0, reads0 = mine[0]
        for n, us, count in mine:
            grown = [
                count / B * np.mean(list(map(c, places(n))))
                - reads0 / B * np.mean(list(map(c, places(n0))))
                for c in bounds
            ]
            yield task, name, n, us, count, us - us0 * count / reads0, *grown


PLACES = {
    ("static", "AliasTable"): lambda n: [32 * n],
    ("static", "SumTree"): levels,
    ("static", "InverseCDF"): lambda n: [
        min(64.0 * 2**k, 8.0 * n) for k in range(int(np.ceil(np.log2(n))))
    ],
    ("dynamic", "SumTree"): levels,
    ("independent", "IndependentSampling"): lambda n: [16 * n],
}


def _versions():
    return ", ".join(
        f"{m} {version(m)}"
        for m in ("numpy", "torch", "scipy", "numba", "cpprb", "torchrl")
        if m not in ("cpprb", "torchrl") or importable({"torchrl": "torchrl._torchrl"}.get(m, m))
    )


def _power(n):
    return f"{n:.0e}".replace("e+0", "e")


def table(rows, versions):
    lines = [
        "# Samplers: microseconds for one step of 64, median over interleaved rounds",
        "",
        f"{versions}; one thread. Processor time, not wall-clock. Ratios within a run count, not the microseconds. Above 1e7 items the contenders are built and timed one after the other, for memory;",
        "a step above 50 ms is timed in three rounds, above 1 s in one.",
        "",
        "`static`: 64 draws. `dynamic`: 64 entries of p change, then 64 draws. `independent`: one subset of expected size 64. `build` is paid once per p (here measured once; medians under *rule*); contenders that keep only p itself build",
        "nothing. `refuses`: torch.multinomial takes at most 2^24 categories. Bytes per item: counted in the arrays that an impsamp sampler keeps, the smallest possible for the others. The replay buffers also return weights, as impsamp does;",
        "scipy, numpy and torch return indices alone. Their trees are float32. torchrl's extension is built for another torch release; its sampler works beside this one with symbols bound lazily (checked by a chi-square test of its draws).",
        "",
    ]
    for task in TASKS:
        mine = [r for r in rows if r[0] == task]
        sizes = sorted({int(r[1]) for r in mine})
        lines += [
            f"## {task}",
            "",
            "| contender | "
            + " | ".join(f"n = {_power(n)}" for n in sizes)
            + " | build ms | bytes per item |",
            "| --- " * (len(sizes) + 3) + "|",
        ]
        for name in dict.fromkeys(r[2] for r in mine):
            got = {int(r[1]): r for r in mine if r[2] == name}
            cells = [
                (got[n][4] if got[n][4] == "refuses" else f"{float(got[n][4]):,.1f}")
                if n in got
                else ""
                for n in sizes
            ]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {' / '.join(f'{float(got[n][3]):,.1f}' for n in sizes if n in got)} | {float(got[max(got)][5]):.1f} |"
            )
        lines.append("")
    lines += [
        "Approximate independent sampling draws a uniform subset of a = ceil(k max p) candidates, k the items with p < 1, and tosses a coin for each. With these heavy-tailed p the largest p below 1 is some tenths, and so is a/n: the cost is",
        "O(n) by its nature, and exact independent coins by skipping, O(b + log n), need no such candidates.",
        "",
    ]
    return "\n".join(lines + profile_table(rows) + rule_table(rows)) + "\n"


def profile_table(rows):
    lines = [
        "## profile: what grows is memory",
        "",
        "One random read of an array, 64 of them as in a step, measured in the same run (us): independent of each other, so that the processor overlaps their misses, and each waiting for the last.",
        "",
    ]
    sizes = sorted({int(r[1]) for r in rows if r[0] == "memory"})[::3]
    at, name = (
        index(rows),
        lambda b: (
            f"{b >> 30} GiB" if b >= 2**30 else f"{b >> 20} MiB" if b >= 2**20 else f"{b >> 10} KiB"
        ),
    )
    lines += [
        "| 64 reads | " + " | ".join(map(name, sizes)) + " |",
        "| --- " * (len(sizes) + 1) + "|",
    ]
    lines += [
        f"| {kind} | " + " | ".join(f"{float(at['memory', b, kind][4]):.2f}" for b in sizes) + " |"
        for kind in ("independent reads", "dependent reads")
    ]
    lines += [
        "",
        "`reads`: random reads in one step: one row of 32 bytes for each draw from the alias table; one cache line per level of the tree (two where it also updates); one place per halving of the binary search; for the skipping one row per candidate",
        "and one start per class. `us per 64 reads` would be constant if memory were flat. `beyond`: by how much us has grown from the first size on, beyond the number of reads. That must lie between what the same reads, each in an array (or level)",
        "of its size, have grown by when all overlap (`memory, at best`) and when each waits for the one before (`at worst`), for misses to explain it. The model knows nothing of what is read often (the heavy classes of the skipping stay in the",
        "cache, so it may fall below the best case) nor of the contenders in between, which empty the caches.",
        "",
        "| task, sampler | n | us | reads | us per 64 reads | beyond | memory, at best | at worst |",
        "| " + "--- | " * 8,
    ]
    for task, sampler, n, us, count, beyond, best, worst in profile(rows):
        lines.append(
            f"| {task} {sampler} | {_power(n)} | {us:.1f} | {count:.0f} | {us / count * B:.2f} | {beyond:.1f} | {best:.1f} | {worst:.1f} |"
        )
    return [*lines, ""]


def rule_table(rows):
    lines = [
        "## rule",
        "",
        "The rule of `choose_sampler`: building (ms) and building plus one step of 64 (us), medians over interleaved repeats; from how many items drawn the alias table has earned back its dearer building, as a share of n.",
        "",
        "| n | build alias | build tree | build cdf | alias pays from | tree, build + step | cdf, build + step | cdf / tree |",
        "| " + "--- | " * 8,
    ]
    for n, share, a, s, c, step_s, step_c in rule(rows):
        lines.append(
            f"| {_power(n)} | {a:.2f} | {s:.2f} | {c:.2f} | {'' if np.isnan(share) else f'{share:.2f} n'} | {step_s:,.0f} | {step_c:,.0f} | {step_c / step_s:.2f} |"
        )
    return lines


def figure(rows):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "impsamp"
    rows = [r for r in rows if r[0] in TASKS and r[4] != "refuses"]
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    names = list(dict.fromkeys(r[2] for r in rows))
    for axis, task in zip(axes, TASKS):
        for name in dict.fromkeys(r[2] for r in rows if r[0] == task):
            xy = sorted((int(r[1]), float(r[4])) for r in rows if r[0] == task and r[2] == name)
            axis.loglog(
                *zip(*xy),
                "o-" if name.startswith("impsamp") else "s--",
                ms=4,
                lw=1.2,
                color=f"C{names.index(name) % 10}",
                label=name.removeprefix("impsamp "),
            )
        axis.set(
            title={
                "static": "static p",
                "dynamic": "64 entries of p change per draw",
                "independent": "random subset, E|S| = 64",
            }[task],
            xlabel="items n",
        )
        axis.grid(alpha=0.25)
        axis.legend(fontsize=6.5, frameon=False, loc="upper left")
    axes[0].set_ylabel("microseconds per step of 64")
    for kind, meta in (("svg", {"Date": None}), ("png", {"Software": None})):
        fig.savefig(HERE / f"samplers.{kind}", metadata=meta, dpi=110)
    plt.close(fig)


def save(rows):
    with (HERE / "samplers.csv").open("w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows(
            [FIELDS, *[[f"{x:.4g}" if isinstance(x, float) else x for x in r] for r in rows]]
        )


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--sizes", default="4,5,6,7,8", help="powers of ten; 8 needs 11 GB")
    a.add_argument("--rounds", type=int, default=7)
    a.add_argument(
        "--render",
        action="store_true",
        help="table and figure from the committed csv, nothing measured",
    )
    a = a.parse_args()
    torch.set_num_threads(1)
    if not a.render:
        for task in TASKS:
            measure(task, 1000, 1)  # compile, import
        powers = [10 ** int(k) for k in a.sizes.split(",")]
        halves = [
            10**3,
            *(n // d for n in powers if n <= 10**7 for d in ((3, 1) if n > 10**4 else (1,))),
        ]
        rows = [
            ["version", 0, _versions(), "", "", "", ""],
            *memory(a.rounds, 32 if max(powers) > 10**7 else 29),
            *builds(halves, a.rounds),
        ]
        for n, task in ((n, task) for n in powers for task in TASKS):
            rows += measure(task, n, a.rounds)
            save(rows)  # what is measured stays, even if the next size does not fit
    rows = [list(r.values()) for r in csv.DictReader((HERE / "samplers.csv").open())]
    (HERE / "samplers.md").write_text(table(rows[1:], rows[0][2]))
    figure(rows[1:])


if __name__ == "__main__":
    main()
