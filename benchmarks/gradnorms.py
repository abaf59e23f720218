"""Cost of per-sample gradient norms, as a multiple of one plain forward and backward pass.

    python -m benchmarks.gradnorms [--rounds 9] [--no-memory] [--only paper-100,mlp-100]

Writes benchmarks/gradnorms.csv, benchmarks/gradnorms.md and figures/fig_gradnorms_cost.{svg,png}.
Opacus and BackPACK take part if they are installed (`make bench` sees to it), and so does JAX
(`pip install jax`), whose row is left out with a sentence otherwise. Each contender runs
alternately with the plain pass in a fork of its own, one thread, as in a training process that
also scores (in one process for all, the large blocks that the slow contenders free would decide
how fast the plain pass gets its memory); times are CPU times; a cell is the median over rounds of
the ratio to the plain passes just before and after. Every contender's norms are first compared
with the loop's. Peak memory is the rise of the resident set's high-water mark during one pass, in
another fork. About five minutes; without the peers nothing is written.
"""

import argparse
import csv
import json
import math
import os
import statistics
import time
import warnings
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from benchmarks._gradnorms_networks import PROBLEMS, problem
from impsamp.gradnorms import grad_norms

ROOT = Path(__file__).parents[1]


def losses(out, y):
    return F.cross_entropy(out, y, reduction="none")


# Contenders: each returns a function that computes the norms (n,), or None for a plain pass.
# The model is theirs alone.


def plain(model, x, y):
    def run():
        model.zero_grad()
        losses(model(x), y).mean().backward()

    return run


def plain_chunks(model, x, y, size=50):
    def run():
        model.zero_grad()
        for a, b in zip(x.split(size), y.split(size)):
            (losses(model(a), b).sum() / len(x)).backward()

    return run


def ours(method):
    return lambda model, x, y: lambda: grad_norms(model, losses, x, y, method=method)


def opacus_hooks(model, x, y):
    from opacus import GradSampleModule

    wrapped = GradSampleModule(model, loss_reduction="sum")

    def run():
        wrapped.zero_grad()
        losses(wrapped(x), y).sum().backward()
        squares = sum(p.grad_sample.flatten(1).square().sum(1) for p in model.parameters())
        for p in model.parameters():
            p.grad_sample = None
        return squares.sqrt()

    return run


def opacus_ghost(model, x, y):
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
        GradSampleModuleFastGradientClipping,
    )

    wrapped = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
    )

    def run():
        wrapped.zero_grad()
        losses(wrapped(x), y).sum().backward()
        return wrapped.get_norm_sample()

    return run


def backpack_l2(model, x, y):
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    model = extend(model)
    criterion = extend(nn.CrossEntropyLoss(reduction="sum"))

    def run():
        model.zero_grad()
        with backpack(BatchL2Grad()):
            criterion(model(x), y).backward()
        return sum(p.batch_l2 for p in model.parameters()).sqrt()

    return run


def jax_vmap(model, x, y):
    "One thread, compiled before it is timed; without JAX a sentence says so."
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        from benchmarks import _gradnorms_jax as peer
    except ImportError as e:
        raise ImportError("JAX is not installed (pip install jax)") from e
    every = peer.norms(model)
    batch = [peer.jnp.asarray(t.numpy()) for t in (x, y)]

    def run():
        found = every(peer.weights_of(model), *batch)
        return torch.from_numpy(peer.np.array(found))

    return run


CONTENDERS = {
    "plain": plain,
    "plain, chunks of 50": plain_chunks,
    "impsamp ghost": ours("auto"),
    "Opacus ghost": opacus_ghost,
    "Opacus hooks": opacus_hooks,
    "BackPACK BatchL2Grad": backpack_l2,
    "JAX vmap(grad)": jax_vmap,
    "vmap": ours("vmap"),
    "loop": ours("loop"),
}
SLOW = {"loop", "vmap", "Opacus hooks", "JAX vmap(grad)"}  # three rounds


def first_line(error):
    text = str(error)
    return text.splitlines()[0][:90] if text else ""


def worst_error(name, found, x, y, kept=10):
    "Largest error of the first norms, relative to the largest of the loop's."
    model, _, _ = problem(name)
    oracle = grad_norms(model, losses, x[:kept], y[:kept], method="loop")
    return ((found[:kept].double() - oracle).abs().max() / oracle.max()).item()


def ready(name, contender):
    "A runnable contender, checked against the loop; or the reason why it cannot take part."
    model, x, y = problem(name)
    try:
        run = CONTENDERS[contender](model, x, y)
        found = run()
    except Exception as e:
        return None, f"{type(e).__name__}: {first_line(e)}"
    if found is None:
        return run, ""
    worst = worst_error(name, found, x, y)
    if not worst < 1e-4:
        return None, f"wrong norms: relative error {worst:.1e}"
    return run, ""


def clock(run):
    "CPU seconds of the one thread: what the work costs, whatever else the machine does."
    start = time.process_time()
    run()
    return time.process_time() - start


def in_a_fork(function, *args):
    """`function(*args)` (JSON) in a fork of this process; None if it fails there.

    This process must not have run a backward pass."""
    read, send = os.pipe()
    if os.fork() == 0:
        os.close(read)
        try:
            with os.fdopen(send, "w") as pipe:
                json.dump(function(*args), pipe)
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(read) as pipe:
        found = pipe.read()
    os.wait()
    return json.loads(found) if found else None


def time_contender(name, contender, rounds):
    """[(seconds, seconds of the plain pass)] per round, and a reason if there is none.

    The plain pass: mean of the one before and the one after."""
    run, reason = ready(name, contender)
    if run is None:
        return [], reason
    if contender in SLOW:
        rounds = 3
    base = plain(*problem(name))
    base()
    before = clock(base)
    found = []
    for _ in range(rounds):
        seconds = clock(run)
        after = clock(base)
        found.append((seconds, (before + after) / 2))
        before = after
    return found, ""


def summary(name, contender, rounds):
    "Median seconds; median, lower and upper quartile of the ratio to the plain pass; a reason."
    result = in_a_fork(time_contender, name, contender, rounds)
    found, reason = result or ([], "the process died")
    if not found:
        return *[float("nan")] * 4, reason
    low, middle, high = statistics.quantiles([t / b for t, b in found], n=4)
    return statistics.median(t for t, _ in found), middle, low, high, ""


def status(field):
    "A memory field of this process in bytes (Linux)."
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024


def one_pass(name, contender):
    """Rise of the peak resident set, in bytes, during one pass over the batch.

    Above the state with libraries, model and data loaded."""
    model, x, y = problem(name)
    run = CONTENDERS[contender](model, x, y)
    other, _, _ = problem(name)
    losses(other(x[:1]), y[:1]).sum().backward()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def peers_missing(chosen):
    "Names of the wanted peers that cannot be imported; also loads them, so that forks share them."
    missing = []
    wanted = [name for name in ("Opacus", "BackPACK") if any(name in c for c in chosen)]
    for name in map(str.lower, wanted):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    return missing


FIELDS = ["problem", "contender", "ms", "ratio", "ratio_low", "ratio_high", "peak_mb", "note"]
TABLE = ROOT / "benchmarks" / "gradnorms.csv"
PAGE = ROOT / "benchmarks" / "gradnorms.md"
PAGE_HEAD = (
    "Cost of per-sample gradient norms, as a multiple of one plain forward and backward pass "
    "over the same samples."
)


# in no registry, so neither run nor checked here
QUOTED = (
    "Quoted, not run: fastDP (ghost norms, the cheaper of two forms for each layer) is said to "
    "take 2.09, 1.05, 2.56 and 1.34 plain passes on paper-100, mlp-1000, resnet-gn-100 and "
    "transformer-100, measured elsewhere."
)


def read_table():
    with open(TABLE, newline="") as file:
        return list(csv.DictReader(file))


def place(row):
    "Where a row stands in the table."
    problems = list(PROBLEMS)
    contenders = list(CONTENDERS)
    return problems.index(row["problem"]), contenders.index(row["contender"])


def write_table(rows):
    "Put rows into the table; those of other problems and contenders stay. Returns all."
    old = read_table() if TABLE.exists() else []
    new = {(r["problem"], r["contender"]) for r in rows}
    kept = [r for r in old if (r["problem"], r["contender"]) not in new]
    rows = sorted(kept + rows, key=place)
    with open(TABLE, "w", newline="") as file:
        out = csv.DictWriter(file, FIELDS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
    return rows


def cell(row):
    "Ratio, quartiles and peak memory of a contender on a problem."
    if row is None:
        return "not measured"
    if row["note"]:
        return "no"
    text = f"{float(row['ratio']):.2f}"
    if row["ratio_low"] != "nan":
        text += f" ({float(row['ratio_low']):.2f} to {float(row['ratio_high']):.2f})"
    if row["peak_mb"] != "nan":
        text += f", {float(row['peak_mb']):.0f} MB"
    return text


def page(rows):
    "The table as markdown, with the reasons of those who could not take part."
    names = list(dict.fromkeys(r["problem"] for r in rows))
    at = {(r["problem"], r["contender"]): r for r in rows}
    lines = [
        "# Cost of per-sample gradient norms",
        "",
        f"{PAGE_HEAD} Median ratio (quartiles), peak memory. One thread, "
        f"torch {torch.__version__}; {os.cpu_count()} cores with a load average of "
        f"{os.getloadavg()[0]:.0f}, its own included.",
        "",
        "| contender | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for contender in CONTENDERS:
        cells = [cell(at.get((name, contender))) for name in names]
        lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    notes = {f"- {r['contender']}, {r['problem']}: {r['note']}" for r in rows if r["note"]}
    if notes:
        lines += ["", "Could not take part:", "", *sorted(notes)]
    lines += ["", QUOTED]
    return "\n".join(lines) + "\n"


def write(rows):
    "Table and page, with the rows of one problem put into both."
    PAGE.write_text(page(write_table(rows)))


NETWORKS = {
    "paper": "first paper's network",
    "mlp": "perceptron",
    "resnet-gn": "residual network, group norm",
    "transformer": "transformer",
}


def title_of(problem):
    "`paper-100` in words."
    network, _, items = problem.rpartition("-")
    return f"{NETWORKS[network]},\n{items} items"


def draw_ratios(ax, found, kinds):
    "The ratios of one problem with their quartiles, and the numbers in a column of their own."
    import seaborn as sns

    ours = found.contender.str.startswith("impsamp")
    sns.scatterplot(
        found,
        x="ratio",
        y="contender",
        hue=ours,
        palette={True: "C1", False: "0.35"},
        legend=False,
        s=32,
        zorder=3,
        ax=ax,
    )
    spread = [found.ratio - found.ratio_low, found.ratio_high - found.ratio]
    ax.errorbar(found.ratio, found.contender, xerr=spread, fmt="none", ecolor="0.6", lw=1)
    numbers = dict(zip(found.contender, found.ratio))
    beside = dict(va="center", fontsize=8, transform=ax.get_yaxis_transform())
    for place, contender in enumerate(kinds):
        ratio = numbers.get(contender, math.nan)
        if contender in numbers and math.isnan(ratio):
            ax.text(0.98, place, "cannot take part", ha="right", color="0.4", **beside)
        else:
            text = "–" if math.isnan(ratio) else f"{ratio:.2f}"
            ax.text(1.02, place, text, ha="left", **beside)


def draw():
    "The figure from the table: ratios on a log axis, one panel per problem."
    import matplotlib.pyplot as plt
    import pandas as pd

    from impsamp.reproduce.figures import save_figure, set_style

    set_style()
    table = pd.read_csv(TABLE)
    kinds = [contender for contender in CONTENDERS if contender != "plain"]
    table = table[table.contender.isin(kinds)]
    table["contender"] = pd.Categorical(table.contender, kinds)
    names = list(table.problem.unique())
    columns = -(-len(names) // 2)
    size = (3.5 * columns + 1, 6.4)
    fig, axes = plt.subplots(2, columns, figsize=size, sharex=True, squeeze=False)
    for k, (ax, name) in enumerate(zip(axes.flat, names)):
        draw_ratios(ax, table[table.problem == name].sort_values("contender"), kinds)
        ax.axvline(1, color="black", lw=0.8, ls="--", zorder=1)
        ax.set(xscale="log", xlim=(0.4, 300), xlabel="", ylabel="")
        ax.set(yticks=range(len(kinds)), ylim=(len(kinds) - 0.5, -0.5))
        ax.set_yticklabels(kinds if k % columns == 0 else [])
        ax.set_title(title_of(name), fontsize=10)
    fig.supxlabel(
        "time, in plain forward and backward passes (dashed: one); median and quartiles", fontsize=9
    )
    save_figure(fig, "fig_gradnorms_cost")


def measure(name, contender, rounds, memory):
    "One row of the table."
    seconds, ratio, low, high, note = summary(name, contender, rounds)
    peak = in_a_fork(one_pass, name, contender) if memory and not note else float("nan")
    return {
        "problem": name,
        "contender": contender,
        "ms": f"{1e3 * seconds:.2f}",
        "ratio": f"{ratio:.3f}",
        "ratio_low": f"{low:.3f}",
        "ratio_high": f"{high:.3f}",
        "peak_mb": f"{peak / 1e6:.1f}",
        "note": note,
    }


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="of which loop, vmap and hooks take part in three"
    )
    parser.add_argument(
        "--only",
        default=",".join(PROBLEMS),
        help="problems, separated by commas; the others' rows stay",
    )
    parser.add_argument(
        "--contenders",
        default=",".join(CONTENDERS),
        help="separated by commas; the others' rows stay",
    )
    parser.add_argument("--no-memory", action="store_true")
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = args.contenders.split(",")
    missing = peers_missing(chosen)
    for name in args.only.split(","):
        rows = []
        for contender in chosen:
            rows.append(measure(name, contender, args.rounds, not args.no_memory))
            print(*rows[-1].values(), sep="  ", flush=True)
        if not missing:
            write(rows)
    if missing:
        print(
            "not written to the table, which is for all contenders of one run: "
            f"{', '.join(missing)} missing (see the head of this file)"
        )
    else:
        draw()


if __name__ == "__main__":
    main()
