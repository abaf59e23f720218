"""Draws of 64 from n items, side by side in one run: static p, p of which 64 entries change per draw, and independent subsets.

    python -m benchmarks.samplers [--sizes 4,5,6,7] [--rounds 7] [--render]

Writes samplers.csv, samplers.md and samplers.png/svg beside this file. Per row the median over rounds in which all contenders of a size take turns, so
that a slow moment of the machine meets all of them; processor time of the process, so that other processes do not count. scipy and torch are always there; cpprb takes part where it imports. One thread.
"""
import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch

from impsamp.minibatch_theory import minibatch_probabilities
from impsamp.samplers import AliasTable, ApproximateIndependentSampling, IndependentSampling, InverseCDF, NiceSampling, SumTree

HERE, B = Path(__file__).parent, 64
FIELDS = ("task", "n", "contender", "build_ms", "us_per_step", "bytes_per_item")


def law(n):
    p = np.random.default_rng(n).pareto(1.5, n) + .01
    return p / p.sum()


def static(n, rng):
    "contender -> (build, bytes per item); build() returns the step to be timed."
    p, t = law(n), torch.from_numpy(law(n))
    g = torch.Generator().manual_seed(0)
    yield "impsamp AliasTable", lambda s=None: _step(AliasTable(p), rng), 32
    yield "impsamp SumTree", lambda: _step(SumTree(p), rng), 64 / 7
    yield "impsamp InverseCDF", lambda: _step(InverseCDF(p), rng), 16
    if n <= 10**7:
        from scipy.stats.sampling import DiscreteAliasUrn
        yield "scipy DiscreteAliasUrn", lambda: _call(DiscreteAliasUrn(p, random_state=rng), "rvs", B), 12
        yield "numpy Generator.choice", lambda: lambda: rng.choice(n, B, p=p), 8
        yield "torch.multinomial", lambda: lambda: torch.multinomial(t, B, replacement=True, generator=g), 8


def dynamic(n, rng):
    p = law(n)
    rows, new = rng.integers(n, size=(512, B)), rng.pareto(1.5, (512, B)) / n + 1e-12
    turn = iter(range(10**12))
    def tree(make=SumTree):
        s = make(p)
        def step():
            k = next(turn) % 512
            s.update(rows[k], new[k])
            s.draw(B, rng)
        return step
    yield "impsamp SumTree", tree, 64 / 7
    if n > 10**7: return
    def array(draw):
        w = p.copy()
        def step():
            k = next(turn) % 512
            w[rows[k]] = new[k]
            draw(w)
        return step
    g = torch.Generator().manual_seed(0)
    yield "torch.multinomial", lambda: array(lambda w: torch.multinomial(torch.from_numpy(w), B, replacement=True, generator=g)), 8
    yield "numpy Generator.choice", lambda: array(lambda w: rng.choice(n, B, p=w / w.sum())), 16
    try: import cpprb
    except ImportError: return
    def replay():
        b = cpprb.PrioritizedReplayBuffer(n, {"x": {"dtype": np.int8}}, alpha=1.0)
        for k in range(0, n, 10**6): b.add(x=np.zeros(min(10**6, n - k), np.int8), priorities=p[k:k + 10**6])
        def step():
            k = next(turn) % 512
            b.update_priorities(rows[k], new[k])
            b.sample(B, beta=1.0)
        return step
    yield "cpprb PrioritizedReplayBuffer", replay, 2 * 2 ** np.ceil(np.log2(n)) * 4 / n + 1


def subsets(n, rng):
    p = minibatch_probabilities(law(n), B)
    yield "impsamp IndependentSampling", lambda: _subset(IndependentSampling(p), rng), 32
    yield "impsamp NiceSampling", lambda: _subset(NiceSampling(n, B), rng), 8
    if n > 10**7: return
    yield "impsamp ApproximateIndependentSampling", lambda: _subset(ApproximateIndependentSampling(p), rng), 16
    yield "n coins (numpy)", lambda: lambda: np.flatnonzero(rng.random(n) < p), 8


TASKS = {"static": static, "dynamic": dynamic, "independent": subsets}


def _step(s, rng): return lambda: s.draw(B, rng)
def _subset(s, rng): return lambda: s.draw(rng)
def _call(s, name, *args): return lambda: getattr(s, name)(*args)


def _repeats(step, budget=.03):
    step()   # warm: the contender before may have filled the caches
    start = time.process_time()
    step()
    return int(np.clip(budget / (time.process_time() - start), 1, 1000))


def measure(task, n, rounds):
    rng, steps, rows = np.random.default_rng(0), {}, []
    for name, build, size in TASKS[task](n, rng):
        start = time.process_time()
        steps[name] = build()
        rows.append([task, n, name, (time.process_time() - start) * 1e3, None, size])
    times = {name: [] for name in steps}
    for step in steps.values(): [step() for _ in range(3)]
    for _ in range(rounds):
        for name, step in steps.items():
            k = _repeats(step)
            start = time.process_time()
            for _ in range(k): step()
            times[name].append((time.process_time() - start) / k * 1e6)
    for row in rows: row[4] = float(np.median(times[row[2]]))
    return rows


def rule(rows):
    "Items drawn from which the alias table has earned back its dearer building, as a share of n, per size."
    t = {(r[0], int(r[1]), r[2]): (float(r[3]), float(r[4])) for r in rows}
    for n in sorted({int(r[1]) for r in rows}):
        a, s, c = (t["static", n, f"impsamp {k}"] for k in ("AliasTable", "SumTree", "InverseCDF"))
        gain = (s[1] - a[1]) / B
        yield n, (a[0] - s[0]) * 1e3 / gain / n if gain > 0 else np.inf, s[0] * 1e3 + s[1], c[0] * 1e3 + c[1]


def table(rows):
    peers = sorted({r[2] for r in rows if not r[2].startswith(("impsamp", "n coins"))})
    lines = ["# Samplers: microseconds for one step of 64, median over interleaved rounds", "",
             f"numpy {np.__version__}, torch {torch.__version__}, one thread; peers that took part: {', '.join(peers)}. Processor time, not wall-clock. Ratios within a run count, not the microseconds.",
             "torchrl 0.13.3 and 0.14.1 installed but did not load beside torch 2.13.0 (undefined symbols in their compiled extension), so they are absent.", "",
             "`build` is paid once per p; contenders that keep only p itself build nothing. `static`: 64 draws. `dynamic`: 64 entries of p change, then 64 draws. `independent`: one subset of expected size 64.", ""]
    for task in TASKS:
        mine = [r for r in rows if r[0] == task]
        sizes = sorted({int(r[1]) for r in mine})
        lines += [f"## {task}", "", "| contender | " + " | ".join(f"n = 1e{round(np.log10(n))}" for n in sizes) + " | build ms | bytes per item |", "| --- " * (len(sizes) + 3) + "|"]
        for name in dict.fromkeys(r[2] for r in mine):
            got = {int(r[1]): r for r in mine if r[2] == name}
            cells = [f"{float(got[n][4]):,.1f}" if n in got else "" for n in sizes]
            lines.append(f"| {name} | {' | '.join(cells)} | {' / '.join(f'{float(got[n][3]):,.1f}' for n in sizes if n in got)} | {float(got[max(got)][5]):.1f} |")
        lines.append("")
    lines += ["## rule", "", "The rule of `choose_sampler`: from how many items drawn the alias table has earned back its building (as a share of n), and what build plus one draw costs (us) where all of p changes.", "",
              "| n | alias pays from | tree, build + draw | cdf, build + draw |", "| --- | --- | --- | --- |"]
    lines += [f"| 1e{round(np.log10(n))} | {share:.2f} n | {s:,.0f} | {c:,.0f} |" for n, share, s, c in rule(rows)]
    return "\n".join(lines) + "\n"


def figure(rows):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.rcParams["svg.hashsalt"] = "impsamp"
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    names = list(dict.fromkeys(r[2] for r in rows))
    for axis, task in zip(axes, TASKS):
        for name in dict.fromkeys(r[2] for r in rows if r[0] == task):
            xy = sorted((int(r[1]), float(r[4])) for r in rows if r[0] == task and r[2] == name)
            axis.loglog(*zip(*xy), "o-" if name.startswith("impsamp") else "s--", ms=4, lw=1.2, color=f"C{names.index(name) % 10}", label=name.removeprefix("impsamp "))
        axis.set(title={"static": "static p", "dynamic": "64 entries of p change per draw", "independent": "random subset, E|S| = 64"}[task], xlabel="items n")
        axis.grid(alpha=.25)
        axis.legend(fontsize=6.5, frameon=False, loc="upper left")
    axes[0].set_ylabel("microseconds per step of 64")
    for kind, meta in (("svg", {"Date": None}), ("png", {"Software": None})): fig.savefig(HERE / f"samplers.{kind}", metadata=meta, dpi=110)
    plt.close(fig)


def save(rows):
    with (HERE / "samplers.csv").open("w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([FIELDS, *[[f"{x:.4g}" if isinstance(x, float) else x for x in r] for r in rows]])


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--sizes", default="4,5,6,7", help="powers of ten; 8 needs 10 GB and minutes")
    a.add_argument("--rounds", type=int, default=7)
    a.add_argument("--render", action="store_true", help="table and figure from the committed csv, nothing measured")
    a = a.parse_args()
    torch.set_num_threads(1)
    if not a.render:
        for task in TASKS: measure(task, 1000, 1)   # compile, import
        rows = []
        for k, task in ((int(k), task) for k in a.sizes.split(",") for task in TASKS):
            rows += measure(task, 10**k, a.rounds)
            save(rows)                              # what is measured stays, even if the next size does not fit
    rows = [list(r.values()) for r in csv.DictReader((HERE / "samplers.csv").open())]
    (HERE / "samplers.md").write_text(table(rows))
    figure(rows)


if __name__ == "__main__": main()
