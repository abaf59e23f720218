"""What the proof of ownership costs: norms with and without it, side by side.

    python -m benchmarks.ownership [--rounds 9] [--only mlp-1000,paper-100]

Writes ownership.csv and ownership.md beside this file. Contenders take turns in one process, one
thread, processor time; a cell is the median over rounds of the ratio to the plain passes (forward
and backward) just before and after. "no proof": the placements of the first batch are believed for
ever. "known graph": proved once in 32 batches, as for any model without an index in its graph.
"every batch": the loss gathers, so that every batch is proved. "sorted": the model sorts its batch
and undoes it; "ragged": the model sees every sample once or twice, in random order, and adds the
outputs up. Each contender's norms are first compared with the loop's.
"""

import argparse
import contextlib
import csv
import os
import statistics
import time
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks._gradnorms_networks import problem
from impsamp.gradnorms import grad_norms, plan
from impsamp.gradnorms.placement import prove, reuse

HERE = Path(__file__).parent
TABLE = HERE / "ownership.csv"
PAGE = HERE / "ownership.md"
NOTE = " ".join(__doc__.strip().split("\n\n")[-1].splitlines()).partition("this file. ")[2]
FIELDS = ["problem", "contender", "ms", "ratio", "ratio_low", "ratio_high"]
CHECKED = 4  # samples that are compared with the loop


def cross_entropy(out, y):
    return F.cross_entropy(out, y, reduction="none")


def gathered(out, y):
    return -out.log_softmax(1).gather(1, y[:, None])[:, 0]


class Sorted(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        order = x.flatten(1)[:, 0].argsort()
        return self.inner(x[order])[order.argsort()]


class Ragged(nn.Module):
    "Every sample is seen once or twice, by its last number; the outputs are added."

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        often = 1 + (1000 * x.flatten(1)[:, -1]).long() % 2
        owner = torch.repeat_interleave(torch.arange(len(x)), often)
        owner = owner[torch.randperm(len(owner), generator=torch.Generator().manual_seed(0))]
        out = self.inner(x[owner])
        return torch.zeros(len(x), out.shape[1]).index_add(0, owner, out)


PROBLEMS = ("paper-100", "mlp-1000", "resnet-gn-100", "transformer-100")

BELIEVED = {}


@contextlib.contextmanager
def without_proof():
    "The placements of the first batch of a plan and a size are believed for ever."

    def believed(self, losses, calls):
        key = (id(self), len(losses))
        if key not in BELIEVED:
            proof = prove(losses, calls)
            BELIEVED[key] = proof.placements
            return proof
        return reuse(BELIEVED[key], losses, calls)

    kept = plan.GhostPlan.proof
    plan.GhostPlan.proof = believed
    try:
        yield
    finally:
        plan.GhostPlan.proof = kept


def plain(model, loss, x, y):
    model.zero_grad()
    loss(model(x), y).mean().backward()


def no_proof(model, x, y):
    with without_proof():
        grad_norms(model, cross_entropy, x, y)


# each with the plain pass that it is compared with
def contenders(name):
    "contender -> (what is timed, the plain pass of the same model and loss)."
    model, x, y = problem(name)
    batch = (x, y)
    models = {
        "known graph": (model, cross_entropy),
        "every batch": (model, gathered),
        "sorted": (Sorted(model), cross_entropy),
        "ragged": (Ragged(model), cross_entropy),
    }
    found = {
        "no proof": (
            lambda: no_proof(model, *batch),
            lambda: plain(model, cross_entropy, *batch),
        )
    }
    for kind, (net, loss) in models.items():
        compare_with_the_loop(net, loss, *batch)
        found[kind] = (
            lambda net=net, loss=loss: grad_norms(net, loss, *batch),
            lambda net=net, loss=loss: plain(net, loss, *batch),
        )
    return found


def compare_with_the_loop(model, loss, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = grad_norms(model, loss, x, y)
    for i in range(CHECKED):
        one = slice(i, i + 1)
        model.zero_grad()
        loss(model(x[one]), y[one]).sum().backward()
        norm = torch.cat([p.grad.double().flatten() for p in model.parameters()]).norm()
        assert abs(found[i] - norm) <= 1e-4 * norm, (found[i], norm)


def timed(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(name, rounds):
    "One row of the table per contender."
    runs = contenders(name)
    for run, _ in runs.values():
        run()
    times = {kind: [] for kind in runs}
    for _ in range(rounds):
        for kind, (run, other) in runs.items():
            before = timed(other)
            times[kind].append((timed(run), (before + timed(other)) / 2))
    rows = []
    for kind, pairs in times.items():
        ratios = sorted(t / p for t, p in pairs)
        low, middle, high = statistics.quantiles(ratios, n=4)
        ms = 1e3 * statistics.median(t for t, _ in pairs)
        numbers = {"ratio": middle, "ratio_low": low, "ratio_high": high}
        texts = {field: f"{value:.3f}" for field, value in numbers.items()}
        rows.append({"problem": name, "contender": kind, "ms": f"{ms:.2f}", **texts})
    return rows


def cell(row):
    ratio, low, high = (float(row[field]) for field in ("ratio", "ratio_low", "ratio_high"))
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"


def page(rows):
    names = list(dict.fromkeys(row["problem"] for row in rows))
    kinds = list(dict.fromkeys(row["contender"] for row in rows))
    at = {(row["problem"], row["contender"]): row for row in rows}
    load = os.getloadavg()[0]
    lines = [
        "# What the proof of ownership costs",
        "",
        f"{NOTE} Medians (quartiles); torch {torch.__version__}, {os.cpu_count()} cores with a "
        f"load average of {load:.0f}, its own included.",
        "",
        "| contender | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for kind in kinds:
        cells = [cell(at[name, kind]) for name in names]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=",".join(PROBLEMS), help="problems, by comma")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for name in args.only.split(","):
        rows += measure(name, args.rounds)
        print(*(f"{r['contender']}: {cell(r)}" for r in rows if r["problem"] == name), sep="; ")
    if set(args.only.split(",")) != set(PROBLEMS):
        return
    with open(TABLE, "w", newline="") as file:
        out = csv.DictWriter(file, FIELDS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
