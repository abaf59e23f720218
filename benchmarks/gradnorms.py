"""Cost of per-sample gradient norms, as a multiple of one plain forward and backward pass over the same samples.

    python -m benchmarks.gradnorms [--rounds 9] [--no-memory] [--only paper-100,mlp-100]

Writes benchmarks/gradnorms.csv, benchmarks/gradnorms.md and figures/fig_gradnorms_cost.{svg,png}. Opacus and BackPACK take part if they are installed
(`make bench` sees to it). Each contender runs alternately with
the plain pass in a fork of its own, one thread, as in a training process that also scores (in one process for all, the large blocks that the slow contenders free would decide how fast the
plain pass gets its memory); times are CPU times; a cell is the median over rounds of the ratio to the plain passes just before and after. Every contender's norms are first compared with the
loop's. Peak memory is the rise of the resident set's high-water mark during one pass, in another fork. About five minutes; without the peers nothing is written.
"""

import argparse
import csv
import json
import os
import statistics
import time
import warnings
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.gradnorms import grad_norms
from impsamp.problems import PaperCNN

ROOT = Path(__file__).parents[1]


def losses(out, y):
    return F.cross_entropy(out, y, reduction="none")


class Block(nn.Module):
    "Residual block with group norm."

    def __init__(self, a, b, stride):
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.GroupNorm(4, b)
        self.c2, self.n2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.GroupNorm(4, b)
        self.short = (
            nn.Sequential() if a == b and stride == 1 else nn.Conv2d(a, b, 1, stride, bias=False)
        )

    def forward(self, x):
        return F.relu(self.n2(self.c2(F.relu(self.n1(self.c1(x))))) + self.short(x))


def resnet():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


class Attention(nn.Module):
    "Self-attention built from Linear, so that tools that hook modules can take part."

    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        q, k, v = (
            t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, 2)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    def __init__(self, d=128, heads=4, wide=256):
        super().__init__()
        self.n1, self.a, self.n2 = nn.LayerNorm(d), Attention(d, heads), nn.LayerNorm(d)
        self.up, self.down = nn.Linear(d, wide), nn.Linear(wide, d)

    def forward(self, x):
        x = x + self.a(self.n1(x))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Transformer(nn.Module):
    def __init__(self, words=1000, d=128, layers=4):
        super().__init__()
        self.embed, self.layers = (
            nn.Embedding(words, d),
            nn.Sequential(*(Encoder(d) for _ in range(layers))),
        )
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 10)

    def forward(self, t):
        return self.head(self.norm(self.layers(self.embed(t))).mean(1))


def mlp():
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


PROBLEMS = {  # name: (model, sample shape, classes, N)
    "paper-100": (PaperCNN, (1, 28, 28), 2, 100),
    "paper-1000": (PaperCNN, (1, 28, 28), 2, 1000),
    "mlp-100": (mlp, (784,), 10, 100),
    "mlp-1000": (mlp, (784,), 10, 1000),
    "resnet-gn-100": (resnet, (3, 32, 32), 10, 100),
    "transformer-100": (Transformer, (64,), 10, 100),
}


def problem(name):
    make, shape, classes, n = PROBLEMS[name]
    torch.manual_seed(0)
    model = make()
    x = torch.randint(0, 1000, (n, *shape)) if make is Transformer else torch.rand(n, *shape)
    return model, x, torch.randint(0, classes, (n,))


# contenders: each returns a function that computes the norms (n,), or None for a plain pass; the model is theirs alone


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


CONTENDERS = {
    "plain": plain,
    "plain, chunks of 50": plain_chunks,
    "impsamp ghost": ours("auto"),
    "Opacus ghost": opacus_ghost,
    "Opacus hooks": opacus_hooks,
    "BackPACK BatchL2Grad": backpack_l2,
    "vmap": ours("vmap"),
    "loop": ours("loop"),
}


def ready(name, contender):
    "A runnable contender, checked against the loop on the whole batch; or the reason why it cannot take part."
    model, x, y = problem(name)
    try:
        run = CONTENDERS[contender](model, x, y)
        found = run()
    except Exception as e:
        return None, f"{type(e).__name__}: {str(e).splitlines()[0][:90] if str(e) else ''}"
    if found is not None:
        keep = slice(0, 10)
        oracle = grad_norms(problem(name)[0], losses, x[keep], y[keep], method="loop")
        worst = ((found[keep].double() - oracle).abs().max() / oracle.max()).item()
        if not worst < 1e-4:
            return None, f"wrong norms: relative error {worst:.1e}"
    return run, ""


def clock(run):
    "CPU seconds of the one thread: what the work costs, whatever else the machine does."
    start = time.process_time()
    run()
    return time.process_time() - start


def in_a_fork(function, *args):
    "`function(*args)` (JSON) in a fork of this process, which must not have run a backward pass; None if it fails there."
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
    "[(seconds, seconds of the plain pass: mean of the one before and the one after)] per round, and a reason if there is none."
    run, reason = ready(name, contender)
    if run is None:
        return [], reason
    base = plain(*problem(name))
    found, before = [], (base(), clock(base))[1]
    for _ in range(3 if contender in ("loop", "vmap", "Opacus hooks") else rounds):
        seconds, after = clock(run), clock(base)
        found.append((seconds, (before + after) / 2))
        before = after
    return found, ""


def summary(name, contender, rounds):
    "(median seconds, median ratio to the plain pass, lower and upper quartile of the ratio, reason)."
    found, reason = in_a_fork(time_contender, name, contender, rounds) or ([], "the process died")
    if not found:
        return *[float("nan")] * 4, reason
    quartiles = statistics.quantiles((t / b for t, b in found), n=4)
    return statistics.median(t for t, _ in found), quartiles[1], quartiles[0], quartiles[2], ""


def status(field):
    "A memory field of this process in bytes (Linux)."
    line = next(
        s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(field)
    )
    return int(line.split()[1]) * 1024


def one_pass(name, contender):
    "Rise of the peak resident set, in bytes, during one pass over the batch above the state with libraries, model and data loaded."
    model, x, y = problem(name)
    run = CONTENDERS[contender](model, x, y)
    losses(problem(name)[0](x[:1]), y[:1]).sum().backward()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def peers_missing():
    "Names of the peers that cannot be imported; also loads them, so that forks share them."
    missing = []
    for name in ("opacus", "backpack"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    return missing


FIELDS = ["problem", "contender", "ms", "ratio", "ratio_low", "ratio_high", "peak_mb", "note"]


def write(rows):
    "Put the rows of one problem into the table; the other problems' rows stay."
    table = ROOT / "benchmarks/gradnorms.csv"
    kept = (
        [r for r in csv.DictReader(open(table)) if r["problem"] != rows[0]["problem"]]
        if table.exists()
        else []
    )
    rows = sorted(
        kept + rows,
        key=lambda r: (list(PROBLEMS).index(r["problem"]), list(CONTENDERS).index(r["contender"])),
    )
    with open(ROOT / "benchmarks/gradnorms.csv", "w", newline="") as f:
        out = csv.DictWriter(f, FIELDS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
    names, cells = (
        list(dict.fromkeys(r["problem"] for r in rows)),
        {(r["problem"], r["contender"]): r for r in rows},
    )

    def cell(p, c):
        r = cells[p, c]
        if r["note"]:
            return "no"
        spread = (
            f" ({float(r['ratio_low']):.2f} to {float(r['ratio_high']):.2f})"
            if float(r["ratio_low"]) == float(r["ratio_low"])
            else ""
        )
        return f"{float(r['ratio']):.2f}{spread}" + (
            f", {float(r['peak_mb']):.0f} MB" if r["peak_mb"] != "nan" else ""
        )

    lines = [
        "# Cost of per-sample gradient norms",
        "",
        f"{__doc__.splitlines()[0]} Median ratio (quartiles), peak memory. One thread, torch {torch.__version__}; "
        f"{os.cpu_count()} cores with a load average of {os.getloadavg()[0]:.0f}, its own included.",
        "",
        "| contender | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    lines += [f"| {c} | " + " | ".join(cell(p, c) for p in names) + " |" for c in CONTENDERS]
    notes = sorted({f"- {r['contender']}, {r['problem']}: {r['note']}" for r in rows if r["note"]})
    (ROOT / "benchmarks/gradnorms.md").write_text(
        "\n".join(lines + (["", "Could not take part:", "", *notes] if notes else [])) + "\n"
    )


def draw(path=ROOT / "benchmarks/gradnorms.csv"):
    "The figure from the table: ratios on a log axis, one panel per problem."
    import matplotlib.pyplot as plt

    from impsamp.reproduce.figures import save_figure, set_style

    set_style()
    rows = list(csv.DictReader(open(path)))
    names = list(dict.fromkeys(r["problem"] for r in rows))
    fig, axes = plt.subplots(
        2, -(-len(names) // 2), figsize=(11, 5.2), sharex=True, sharey=True, squeeze=False
    )
    kinds = [c for c in CONTENDERS if c != "plain"][::-1]
    for ax, name in zip(axes.flat, names):
        found = {r["contender"]: r for r in rows if r["problem"] == name}
        for k, c in enumerate(kinds):
            r = found[c]
            if r["note"]:
                ax.text(1.05, k, "cannot take part", va="center", fontsize=7, color="0.4")
                continue
            ax.barh(
                k,
                float(r["ratio"]) - 0.3,
                left=0.3,
                color="C1" if c.startswith("impsamp") else "0.7",
                height=0.7,
            )
            ax.text(
                float(r["ratio"]) * 1.06, k, f"{float(r['ratio']):.2f}", va="center", fontsize=7
            )
        ax.axvline(1, color="k", lw=0.8)
        ax.set(xscale="log", xlim=(0.3, 700), title=name, yticks=range(len(kinds)))
        ax.set_yticklabels(kinds, fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("time / plain forward and backward")
    save_figure(fig, "fig_gradnorms_cost")


def main(arguments=None):
    parse = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument(
        "--rounds", type=int, default=9, help="of which loop, vmap and hooks take part in three"
    )
    parse.add_argument(
        "--only",
        default=",".join(PROBLEMS),
        help="problems, separated by commas; the others' rows stay",
    )
    parse.add_argument("--no-memory", action="store_true")
    args = parse.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    missing, names = peers_missing(), args.only.split(",")
    for name in names:
        rows = []
        for c in CONTENDERS:
            seconds, ratio, low, high, note = summary(name, c, args.rounds)
            peak = float("nan") if note or args.no_memory else in_a_fork(one_pass, name, c)
            rows.append(
                {
                    "problem": name,
                    "contender": c,
                    "ms": f"{1e3 * seconds:.2f}",
                    "ratio": f"{ratio:.3f}",
                    "ratio_low": f"{low:.3f}",
                    "ratio_high": f"{high:.3f}",
                    "peak_mb": f"{peak / 1e6:.1f}",
                    "note": note,
                }
            )
            print(*rows[-1].values(), sep="  ", flush=True)
        if not missing:
            write(rows)
    if missing:
        print(
            f"not written to the table, which is for all contenders of one run: {', '.join(missing)} missing (see the head of this file)"
        )
    else:
        draw()


if __name__ == "__main__":
    main()
