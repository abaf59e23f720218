"""Linear models beside scikit-learn (saga, newton-cholesky), cyanure (SVRG, MISO) and L-BFGS.

Time per gradient, and time to a set accuracy. `python -m benchmarks.linear` (about five minutes)
writes benchmarks/linear.{csv,md,png,svg}. cyanure is optional; a missing peer is named. One thread;
processor seconds of the process.

Everybody minimises the same f: mean loss + l2/2 ||x||^2 with l2 = 1/n (scikit-learn's C = 1), no
intercept, the same features, from zero.
*Per gradient*: the difference of a long and a short run, so that what is paid once cancels;
contenders in turn; medians.
*To the target*: least number of passes (or iterations) whose outcome meets it, found beforehand;
then the whole call is timed: checks, constants, probabilities, tables, sampling, anchors and the
result's own records inside, compilation outside (its seconds are printed). The stopping is thus an
oracle's, for all alike. Each contender tries up to three settings and keeps its fastest.
"""

import argparse
import os
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from scipy import sparse

from benchmarks._linear_contenders import contenders, run_lbfgs
from benchmarks._linear_page import draw, firsts, write
from benchmarks._linear_start import start_lines
from impsamp.data import load_libsvm
from impsamp.errors import DataError
from impsamp.problems import LogisticRegression, SigmoidLeastSquares

HERE = Path(__file__).parent
OBJECTIVE = 1e-6  # target: relative distance to the best objective known
GRADIENT = 1e-3  # target: relative gradient norm


# --- data ---
def labels(margins, rng):
    noise = rng.normal(size=len(margins))
    return np.where(margins / margins.std() + 0.5 * noise > 0, 1.0, -1.0)


def ijcnn1_shape(rng):
    """50 000 x 22 dense: the shape of ijcnn1; log-normal row norms.

    Made, since its training part cannot be had here."""
    X = rng.normal(size=(50_000, 22))
    X = X * np.exp(rng.normal(size=(50_000, 1)))
    X /= np.sqrt((X**2).sum(axis=1).mean())
    return X, labels(X @ rng.normal(size=22), rng)


def sparse_shape(rng, uneven, n=20_000, d=50_000, row=75):
    """20 000 x 50 000 CSR, 75 nonzeros a row (a few collide), frequent and rare columns.

    Row norms log-normal with this sigma, or all one."""
    spots = rng.random((n, row)) ** 3 * d  # the cube: low columns are frequent
    cols = np.minimum(spots.astype(np.int64), d - 1).ravel()
    starts = np.arange(n + 1) * row
    X = sparse.csr_matrix((rng.normal(size=n * row), cols, starts), shape=(n, d))
    X.sum_duplicates()
    size = np.exp(uneven * rng.normal(size=n))
    squares = np.asarray(X.multiply(X).sum(axis=1)).ravel()
    scale = size / np.sqrt((size**2).mean()) / np.sqrt(squares)
    X = sparse.diags(scale) @ X
    return X.tocsr(), labels(X @ rng.normal(size=d), rng)


def real(name):
    """A LIBSVM set, columns divided by their root mean square.

    Raw, no first-order method gets anywhere; rows stay uneven."""
    X, y = load_libsvm(name)
    X = X.toarray()
    squares = (X**2).mean(axis=0)
    return X / np.sqrt(np.maximum(squares, 1e-12)) / np.sqrt(X.shape[1]), y


def scaled(X):
    "CSR columns divided by their root mean square, as `real` does; empty ones as they are."
    squares = np.asarray(X.multiply(X).mean(axis=0)).ravel()
    size = np.sqrt(np.where(squares > 0, squares, 1.0) * X.shape[1])
    return (X @ sparse.diags(1 / size)).tocsr()


def real_sparse(name):
    X, y = load_libsvm(name)
    return scaled(X), y


def flights():
    "More than a quarter of an hour late, or not; a column each for carriers, airports, ..."
    from impsamp.data import load_flights

    X, minutes, _ = load_flights()
    return scaled(X), np.where(minutes > 15, 1.0, -1.0)


DATA = {
    "50000 x 22, made": lambda: ijcnn1_shape(np.random.default_rng(0)),
    "ijcnn1.val, 14990 x 22": lambda: real("ijcnn1.val"),
    "australian, 690 x 14": lambda: real("australian"),
    "breast cancer, 569 x 30": lambda: real("breast_cancer"),
    "w8a, 49749 x 300 CSR": lambda: real_sparse("w8a"),
    "flights, 327346 rows CSR": flights,
    "sparse 20000 x 50000, uneven rows": lambda: sparse_shape(np.random.default_rng(0), 1.0),
    "sparse 20000 x 50000, even rows": lambda: sparse_shape(np.random.default_rng(0), 0.0),
}


# --- the two clocks ---
def clock(run, f, budget, seed):
    "(processor seconds, outcome); warnings of no convergence are the point."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.process_time()
        out = run(f, budget, seed)
        return time.process_time() - start, out


STOCHASTIC = ("saga", "svrg", "miso", "sarah")
BASE = "impsamp saga, importance"  # what the others are divided by


def is_stochastic(name):
    return any(kind in name for kind in STOCHASTIC)


class Step(NamedTuple):
    seconds: float
    gradients: float
    over_ours: float  # time over that of our SAGA in the same repeat


def one_step(f, run, passes, seed):
    "(seconds, gradients) of a step: what a long run adds to a short one."
    short, few = clock(run, f, passes, seed)
    long, many = clock(run, f, 4 * passes, seed)
    steps = many.steps - few.steps or np.nan
    return (long - short) / steps, (many.gradients - few.gradients) / steps


def per_gradient(f, table, repeats):
    "{solver: [Step, ...]} of the stochastic ones, one a repeat."
    passes = max(6, min(30, 100_000 // f.n))
    names = [name for name in table if is_stochastic(name)]
    steps = {name: [] for name in names}
    for r in range(repeats):
        found = {}
        for name in names:
            first_setting = next(iter(table[name].values()))
            found[name] = one_step(f, first_setting, passes, r)
        base, _ = found[BASE]
        for name, (seconds, gradients) in found.items():
            steps[name].append(Step(seconds, gradients, seconds / base))
    return steps


def least_budget(f, run, met, limit, first=1):
    """(seconds, budget) of the first budget 1, 2, 4, ... that meets the target.

    None where `limit` seconds or 20 000 passes are not enough."""
    budget = first
    while True:
        seconds, out = clock(run, f, budget, 0)
        if met(out.x):
            return seconds, budget
        lost = not np.isfinite(out.x).all()
        if lost or seconds > limit / 2 or budget >= 20_000:
            return None
        budget *= 2


def refined(f, run, met, budget):
    "The least sufficient budget to within an eighth, by bisection between the last two doublings."
    low = budget // 2
    while budget - low > max(1, budget // 8):
        middle = (low + budget) // 2
        if met(run(f, middle, 0).x):
            budget = middle
        else:
            low = middle
    return budget


class Chosen(NamedTuple):
    "A solver's fastest setting that meets the target, and the least budget for it."

    setting: str
    run: object
    budget: int


def fastest(f, settings, met, limit):
    "The `Chosen` among a solver's settings, or None where none gets there in `limit` seconds."
    found = {}
    for setting, run in settings.items():
        least = least_budget(f, run, met, limit)
        if least:
            found[setting] = least
    if not found:
        return None
    best = min(found, key=lambda s: found[s][0])
    _, budget = found[best]
    return Chosen(best, settings[best], refined(f, settings[best], met, budget))


def to_target(f, table, met, repeats, limit):
    '{solver: (setting, median seconds, budget)}; ("", inf, None) where the target is not met.'
    chosen = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, settings in table.items():
            best = fastest(f, settings, met, limit)
            if best:
                chosen[name] = best
    times = {name: [] for name in chosen}
    for _ in range(repeats):
        for name, best in chosen.items():
            seconds, _ = clock(best.run, f, best.budget, 0)
            times[name].append(seconds)
    ends = dict.fromkeys(table, ("", np.inf, None))
    for name, best in chosen.items():
        ends[name] = best.setting, float(np.median(times[name])), best.budget
    return ends


# --- one problem ---
def target(f):
    """met(x): the logistic loss within OBJECTIVE of the best known.

    Or the gradient of the other one GRADIENT of its first norm, with f below f(0)."""
    if f.convex:
        best = f.loss(run_lbfgs(30, f, 2000, 0).x)
        return lambda x: np.isfinite(x).all() and f.loss(x) - best <= OBJECTIVE * best
    zero = np.zeros(f.d)
    first = np.linalg.norm(f.grad(zero))
    start = f.loss(zero)

    def met(x):
        below = np.isfinite(x).all() and f.loss(x) < start
        return below and np.linalg.norm(f.grad(x)) <= GRADIENT * first

    return met


def warm_up(f, table):
    "Seconds of the first calls: imports, compilation."
    start = time.process_time()
    for settings in table.values():
        clock(next(iter(settings.values())), f, 1, 0)
    return time.process_time() - start


def row_of(solver, steps, end):
    "The numbers of one solver; nan and None where it was not timed."
    step = gradients = ratio = np.nan
    if steps:
        step, gradients, ratio = np.median(steps, axis=0)
    setting, seconds, budget = end
    return {
        "solver": solver,
        "setting": setting,
        "ns_per_step": step * 1e9,
        "gradients_per_step": gradients,
        "ns_per_gradient": step / gradients * 1e9,
        "step_over_ours": ratio,
        "seconds_to_target": seconds,
        "passes_or_iterations": budget,
    }


def show(row):
    print(
        f"  {row['solver']:30} {row['ns_per_step']:8.1f} ns/step "
        f"{row['ns_per_gradient']:8.1f} ns/gradient {row['step_over_ours']:6.2f} x ours  "
        f"{row['seconds_to_target']:9.4f} s to target  "
        f"{row['setting']} {row['passes_or_iterations'] or ''}",
        flush=True,
    )


def rows_of(name, f, args):
    "One row per solver."
    table = contenders(f)
    loss = "logistic" if f.convex else "sigmoid"
    warm = warm_up(f, table)
    steps = per_gradient(f, table, args.repeats) if f.convex or f.n > 1000 else {}
    ends = {}
    if not args.quick:
        ends = to_target(f, table, target(f), args.repeats, args.limit)
    spread = f.L.max() / f.L.mean()
    print(
        f"\n{name}, {loss}: n = {f.n}, d = {f.d}, L_max / mean L = {spread:.1f}, "
        f"first calls (compilation) {warm:.1f} s",
        flush=True,
    )
    for solver in table:
        row = row_of(solver, steps.get(solver), ends.get(solver, ("", np.nan, None)))
        show(row)
        yield {"data": name, "loss": loss} | row


# --- all problems ---
def notes_of(left_out, args, rows):
    notes = [
        f"Processor seconds of one thread, medians of {args.repeats} interleaved repeats; "
        "what is counted stands in `linear.py`. "
        f"Targets: logistic loss within {OBJECTIVE:g} (relative) of the best known; "
        f"sigmoid loss: gradient norm {GRADIENT:g} of the first. "
        f"Not reached: no setting met it in a run of {args.limit:g} s.",
        "",
        "gradients_per_step: component gradients really evaluated, anchors included (SVRG keeps "
        "the snapshot's slopes: one per step and an anchor per n steps; SARAH two). What the peers "
        "evaluate inside a step is not visible: theirs are counted as one, as if they kept slopes "
        "too. step_over_ours: time per step over that of impsamp saga, importance, median of "
        "ratios within repeats.",
        "",
        "First to the target:",
        "",
        *firsts(rows),
        "",
        *start_lines(),
    ]
    if left_out:
        notes += ["", "Left out: " + "; ".join(left_out) + "."]
    return notes


def problems():
    """(name, problem) one at a time; data that cannot be had yield (name, None).

    Logistic on all, the sigmoid loss on those with something at stake."""
    for name, load in DATA.items():
        try:
            X, y = load()
        except (DataError, ImportError) as e:
            print("left out:", name, str(e).splitlines()[0])
            yield name, None
            continue
        yield name, LogisticRegression(X, y, l2=1 / X.shape[0])
        if name.startswith(("50000", "sparse 20000 x 50000, uneven")):
            yield name, SigmoidLeastSquares(X, y, l2=1 / X.shape[0])


def installed(name):
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def parse():
    parser = argparse.ArgumentParser(description=" ".join(__doc__.split("\n\n")[0].splitlines()))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--limit", type=float, default=2.0, help="seconds that one run may take to the target"
    )
    parser.add_argument("--quick", action="store_true", help="time per gradient only")
    parser.add_argument(
        "--only", default="", help="data sets whose name holds this; writes nothing"
    )
    return parser.parse_args()


def main():
    args = parse()
    rows = []
    left_out = []
    for name, f in problems():
        if args.only not in name:
            continue
        if f is None:
            left_out.append(name)
        else:
            rows += rows_of(name, f, args)
    if not installed("cyanure"):
        left_out.append("cyanure is not installed")
    if not args.only:
        write(rows, notes_of(left_out, args, rows), HERE)
        draw(rows, HERE)


if __name__ == "__main__":
    main()
