"""The rows of samplers.csv as a page and a figure; each row is a dict, its values as text."""

from typing import NamedTuple

import numpy as np

B = 64  # draws in a step
TITLES = {
    "static": "static p",
    "dynamic": "64 entries of p change per draw",
    "independent": "random subset, E|S| = 64",
}


# ---- reading the rows ----------------------------------------------------------------------------
def number(text):
    return float(text) if text not in ("", "refuses") else np.nan


def index(rows):
    return {(r["task"], int(r["n"]), r["contender"]): r for r in rows}


def sizes_of(rows, task):
    return sorted({int(r["n"]) for r in rows if r["task"] == task})


def alias_gain(at, n):
    "Microseconds that an item drawn from the alias table is cheaper than one from the tree."
    tree = at.get(("static", n, "impsamp SumTree"))
    alias = at.get(("static", n, "impsamp AliasTable"))
    if not (tree and alias):
        return np.nan
    return (number(tree["us_per_step"]) - number(alias["us_per_step"])) / B


class Rule(NamedTuple):
    "What the rule of `choose_sampler` rests on, at one size."

    n: int
    share: float  # items drawn from which the alias table pays, as a share of n
    alias: float  # building, ms
    tree: float
    cdf: float
    tree_step: float  # building plus one step, us
    cdf_step: float


def rule(rows):
    at = index(rows)
    for n in sizes_of(rows, "build"):
        alias = at["build", n, "impsamp AliasTable"]
        tree = at["build", n, "impsamp SumTree"]
        cdf = at["build", n, "impsamp InverseCDF"]
        dearer = (float(alias["build_ms"]) - float(tree["build_ms"])) * 1e3
        yield Rule(
            n,
            dearer / alias_gain(at, n) / n,
            *(float(r["build_ms"]) for r in (alias, tree, cdf)),
            *(float(r["us_per_step"]) for r in (tree, cdf)),
        )


def levels(n):
    """Bytes of each level of the tree that a draw reads, leaves first.

    Eight children, one cache line."""
    sizes = []
    while n > 1:
        sizes.append(8 * n)
        n = -(-n // 8)
    return sizes


def searched(n):
    "Bytes among which each step of a binary search reads."
    steps = range(int(np.ceil(np.log2(n))))
    return [min(64.0 * 2**k, 8.0 * n) for k in steps]


# (task, sampler): the bytes of each array, or level, that a draw reads
PLACES = {
    ("static", "AliasTable"): lambda n: [32 * n],
    ("static", "SumTree"): levels,
    ("static", "InverseCDF"): searched,
    ("dynamic", "SumTree"): levels,
    ("independent", "IndependentSampling"): lambda n: [16 * n],
}


def cost_of(rows, kind):
    "size in bytes -> microseconds of 64 reads, interpolated."
    own = [r for r in rows if r["task"] == "memory" and r["contender"] == kind]
    pairs = sorted((int(r["n"]), float(r["us_per_step"])) for r in own)
    sizes = [np.log2(size) for size, _ in pairs]
    times = [us for _, us in pairs]
    return lambda size: np.interp(np.log2(size), sizes, times)


class Growth(NamedTuple):
    "How a sampler's step has grown from the smallest n on, and what its reads explain of it."

    task: str
    sampler: str
    n: int
    us: float
    reads: float
    beyond: float  # growth of us beyond that of the reads
    best: float  # growth of what these reads cost if all 64 of one kind overlap
    worst: float  # the same if each waits for the one before


def profile(rows):
    at = index(rows)
    bounds = [cost_of(rows, kind) for kind in ("independent reads", "dependent reads")]

    def read_cost(cost, places, n, reads):
        return reads / B * np.mean([cost(size) for size in places(n)])

    for (task, name), places in PLACES.items():
        mine = []
        for (t, n, contender), r in sorted(at.items()):
            if t == task and contender == f"impsamp {name}":
                mine.append((n, number(r["us_per_step"]), number(r["reads_per_step"])))
        n0, us0, reads0 = mine[0]
        for n, us, reads in mine:
            beyond = us - us0 * reads / reads0
            best, worst = [
                read_cost(c, places, n, reads) - read_cost(c, places, n0, reads0) for c in bounds
            ]
            yield Growth(task, name, n, us, reads, beyond, best, worst)


# ---- the page ------------------------------------------------------------------------------------
HEAD = """\
# Samplers: microseconds for one step of 64, median over interleaved rounds

{versions}; one thread. Processor time, not wall-clock. Ratios within a run count, not the \
microseconds. Above 1e7 items the contenders are built and timed one after the other, for memory;
a step above 50 ms is timed in three rounds, above 1 s in one.

`static`: 64 draws. `dynamic`: 64 entries of p change, then 64 draws. `independent`: one subset \
of expected size 64. `build` is paid once per p (here measured once; medians under *rule*); \
contenders that keep only p itself build
nothing. `refuses`: torch.multinomial takes at most 2^24 categories. Bytes per item: counted in \
the arrays that an impsamp sampler keeps, the smallest possible for the others. The replay \
buffers also return weights, as impsamp does;
scipy, numpy and torch return indices alone. Their trees are float32. torchrl's extension is \
built for another torch release; its sampler works beside this one with symbols bound lazily \
(checked by a chi-square test of its draws).
"""
APPROXIMATE = """\
Approximate independent sampling draws a uniform subset of a = ceil(k max p) candidates, k the \
items with p < 1, and tosses a coin for each. With these heavy-tailed p the largest p below 1 is \
some tenths, and so is a/n: the cost is
O(n) by its nature, and exact independent coins by skipping, O(b + log n), need no such \
candidates.
"""
PROFILE = """\
## profile: what grows is memory

One random read of an array, 64 of them as in a step, measured in the same run (us): independent \
of each other, so that the processor overlaps their misses, and each waiting for the last.
"""
READS = """\
`reads`: random reads in one step: one row of 32 bytes for each draw from the alias table; one \
cache line per level of the tree (two where it also updates); one place per halving of the \
binary search; for the skipping one row per candidate
and one start per class. `us per 64 reads` would be constant if memory were flat. `beyond`: by \
how much us has grown from the first size on, beyond the number of reads. That must lie between \
what the same reads, each in an array (or level)
of its size, have grown by when all overlap (`memory, at best`) and when each waits for the one \
before (`at worst`), for misses to explain it. The model knows nothing of what is read often \
(the heavy classes of the skipping stay in the
cache, so it may fall below the best case) nor of the contenders in between, which empty the \
caches.
"""
RULE = """\
## rule

The rule of `choose_sampler`: building (ms) and building plus one step of 64 (us), medians over \
interleaved repeats; from how many items drawn the alias table has earned back its dearer \
building, as a share of n.
"""


def power(n):
    return f"{n:.0e}".replace("e+0", "e")


def line(cells):
    return "| " + " | ".join(cells) + " |"


def step_text(row):
    us = row["us_per_step"]
    return us if us == "refuses" else f"{float(us):,.1f}"


def task_table(rows, task):
    "Contenders by sizes."
    mine = [r for r in rows if r["task"] == task]
    sizes = sizes_of(rows, task)
    head = ["contender", *(f"n = {power(n)}" for n in sizes), "build ms", "bytes per item"]
    lines = [f"## {task}", "", line(head), "| --- " * (len(sizes) + 3) + "|"]
    for name in dict.fromkeys(r["contender"] for r in mine):
        got = {int(r["n"]): r for r in mine if r["contender"] == name}
        steps = [step_text(got[n]) if n in got else "" for n in sizes]
        building = [f"{float(got[n]['build_ms']):,.1f}" for n in sizes if n in got]
        size = float(got[max(got)]["bytes_per_item"])
        lines.append(line([name, *steps, " / ".join(building), f"{size:.1f}"]))
    return [*lines, ""]


def bytes_text(size):
    for unit, shift in (("GiB", 30), ("MiB", 20)):
        if size >= 2**shift:
            return f"{size >> shift} {unit}"
    return f"{size >> 10} KiB"


def memory_table(rows):
    at = index(rows)
    sizes = sizes_of(rows, "memory")[::3]
    lines = [line(["64 reads", *map(bytes_text, sizes)]), "| --- " * (len(sizes) + 1) + "|"]
    for kind in ("independent reads", "dependent reads"):
        costs = [float(at["memory", size, kind]["us_per_step"]) for size in sizes]
        lines.append(line([kind, *(f"{us:.2f}" for us in costs)]))
    return [*lines, ""]


def profile_table(rows):
    lines = [
        "| task, sampler | n | us | reads | us per 64 reads | beyond | memory, at best "
        "| at worst |",
        "| " + "--- | " * 8,
    ]
    for g in profile(rows):
        cells = (f"{g.us:.1f}", f"{g.reads:.0f}", f"{g.us / g.reads * B:.2f}")
        growth = (f"{g.beyond:.1f}", f"{g.best:.1f}", f"{g.worst:.1f}")
        lines.append(line([f"{g.task} {g.sampler}", power(g.n), *cells, *growth]))
    return [*lines, ""]


def rule_table(rows):
    lines = [
        "| n | build alias | build tree | build cdf | alias pays from | tree, build + step "
        "| cdf, build + step | cdf / tree |",
        "| " + "--- | " * 8,
    ]
    for r in rule(rows):
        building = (f"{r.alias:.2f}", f"{r.tree:.2f}", f"{r.cdf:.2f}")
        share = "" if np.isnan(r.share) else f"{r.share:.2f} n"
        steps = (f"{r.tree_step:,.0f}", f"{r.cdf_step:,.0f}", f"{r.cdf_step / r.tree_step:.2f}")
        lines.append(line([power(r.n), *building, share, *steps]))
    return lines


def page(rows, versions):
    lines = [HEAD.format(versions=versions)]
    for task in TITLES:
        lines += task_table(rows, task)
    lines += [APPROXIMATE, PROFILE, *memory_table(rows)]
    lines += [READS, *profile_table(rows), RULE, *rule_table(rows)]
    return "\n".join(lines) + "\n"


# ---- the figure ----------------------------------------------------------------------------------
def draw_task(axis, rows, task, names):
    own = [r for r in rows if r["task"] == task]
    for name in dict.fromkeys(r["contender"] for r in own):
        mine = [r for r in own if r["contender"] == name]
        pairs = sorted((int(r["n"]), float(r["us_per_step"])) for r in mine)
        axis.loglog(
            [n for n, _ in pairs],
            [us for _, us in pairs],
            "o-" if name.startswith("impsamp") else "s--",
            ms=4,
            lw=1.2,
            color=f"C{names.index(name) % 10}",
            label=name.removeprefix("impsamp "),
        )
    axis.set(title=TITLES[task], xlabel="items n")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=6.5, frameon=False, loc="upper left")


def figure(rows, folder):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "impsamp"
    rows = [r for r in rows if r["task"] in TITLES and r["us_per_step"] != "refuses"]
    names = list(dict.fromkeys(r["contender"] for r in rows))
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, task in zip(axes, TITLES):
        draw_task(axis, rows, task, names)
    axes[0].set_ylabel("microseconds per step of 64")
    fig.savefig(folder / "samplers.svg", metadata={"Date": None}, dpi=110)
    fig.savefig(folder / "samplers.png", metadata={"Software": None}, dpi=110)
    plt.close(fig)
