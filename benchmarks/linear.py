"""Linear models beside scikit-learn (saga, newton-cholesky), cyanure (SVRG, MISO) and scipy's L-BFGS: time per gradient, and time to a set accuracy.

`python -m benchmarks.linear` (about five minutes) writes benchmarks/linear.{csv,md,png,svg}. cyanure is optional; a missing peer is named. One thread; processor seconds of the process.

Everybody minimises the same f: mean loss + l2/2 ||x||^2 with l2 = 1/n (scikit-learn's C = 1), no intercept, the same features, from zero.
*Per gradient*: the difference of a long and a short run, so that what is paid once cancels; contenders in turn; medians.
*To the target*: least number of passes (or iterations) whose outcome meets it, found beforehand; then the whole call is timed: checks, constants, probabilities, tables, sampling, anchors and
the result's own records inside, compilation outside (its seconds are printed). The stopping is thus an oracle's, for all alike. Each contender tries up to three settings and keeps its fastest.
"""

import argparse
import csv
import os
import time
import warnings
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import contextlib

import numpy as np
from scipy import optimize, sparse
from sklearn.linear_model import LogisticRegression as SklearnLogistic

from impsamp.data import load_libsvm
from impsamp.errors import DataError
from impsamp.linear import expected_smoothness, minimize
from impsamp.problems import LogisticRegression, SigmoidLeastSquares
from impsamp.samplers import SerialSampling

HERE = Path(__file__).parent
OBJECTIVE, GRADIENT = (
    1e-6,
    1e-3,
)  # targets: relative distance to the best objective known; relative gradient norm
COLUMNS = (
    "data",
    "loss",
    "solver",
    "setting",
    "ns_per_step",
    "gradients_per_step",
    "ns_per_gradient",
    "step_over_ours",
    "seconds_to_target",
    "passes_or_iterations",
)


# --- data ---
def labels(margins, rng):
    return np.where(margins / margins.std() + 0.5 * rng.normal(size=len(margins)) > 0, 1.0, -1.0)


def ijcnn1_shape(rng):
    "50 000 x 22 dense: the shape of ijcnn1, made, since its training part cannot be had here; log-normal row norms."
    X = rng.normal(size=(50_000, 22)) * np.exp(rng.normal(size=(50_000, 1)))
    X /= np.sqrt((X**2).sum(axis=1).mean())
    return X, labels(X @ rng.normal(size=22), rng)


def sparse_shape(rng, uneven, n=20_000, d=50_000, row=75):
    "20 000 x 50 000 CSR, 75 nonzeros a row (a few collide), frequent and rare columns; row norms log-normal with this sigma, or all one."
    cols = np.minimum((rng.random((n, row)) ** 3 * d).astype(np.int64), d - 1)
    X = sparse.csr_matrix(
        (rng.normal(size=n * row), cols.ravel(), np.arange(n + 1) * row), shape=(n, d)
    )
    X.sum_duplicates()
    size = np.exp(uneven * rng.normal(size=n))
    norms = np.sqrt(np.asarray(X.multiply(X).sum(axis=1)).ravel())
    X = sparse.diags(size / np.sqrt((size**2).mean()) / norms) @ X
    return X.tocsr(), labels(X @ rng.normal(size=d), rng)


def real(name):
    "A LIBSVM set, columns divided by their root mean square: raw, no first-order method gets anywhere; rows stay uneven."
    X, y = load_libsvm(name)
    X = X.toarray()
    return X / np.sqrt(np.maximum((X**2).mean(axis=0), 1e-12)) / np.sqrt(X.shape[1]), y


DATA = {
    "50000 x 22, made": lambda: ijcnn1_shape(np.random.default_rng(0)),
    "ijcnn1.val, 14990 x 22": lambda: real("ijcnn1.val"),
    "australian, 690 x 14": lambda: real("australian"),
    "breast cancer, 569 x 30": lambda: real("breast_cancer"),
    "sparse 20000 x 50000, uneven rows": lambda: sparse_shape(np.random.default_rng(0), 1.0),
    "sparse 20000 x 50000, even rows": lambda: sparse_shape(np.random.default_rng(0), 0.0),
}


# --- contenders: {setting: run(f, budget, seed) -> (x, item steps, component gradients)}; the last two None where they mean nothing ---
def ours(method, sampling, factors=(1, 3, 10)):
    """Importance: p_i proportional to L_i; SAGA, whose table is refreshed where it draws, mixes in as much of the uniform law, or rows of small L_i would stay stale.

    Steps: 1/3 (SAGA), 1/6 (SVRG), 1/2 (SARAH) of 1/expected smoothness, times a factor: the package's rules for convex sums, tried on the other loss too."""

    def runner(factor):
        def run(f, passes, seed):
            own = type(f)(f.X, f.y, l2=f.l2)  # constants and checks are on the clock
            even = 1.0 if sampling == "uniform" else 0.5 if method == "saga" else 0.0
            p = (1 - even) * own.L / own.L.sum() + even / own.n
            lr = (
                factor
                * {"saga": 1 / 3, "svrg": 1 / 6, "sarah": 1 / 2}[method]
                / expected_smoothness(own.L, p, np.ones(own.n))
            )
            r = minimize(
                own,
                method,
                SerialSampling(p / p.sum()),
                lr=lr,
                inner_steps=own.n if method in ("svrg", "sarah") else None,
                one_draw=True,
                max_passes=passes,
                output="last",
                record_every=1e9,
                generator=np.random.default_rng(seed),
            )
            row = r.records[-1]
            anchors = f.n * (row["epoch"] if method in ("svrg", "sarah") else 1)
            kept = (
                row["grad_evals"] - anchors
            ) // 2 + anchors  # SVRG keeps the snapshot's slopes: one new one per step, not two
            return r.x, row["step"], kept if method == "svrg" else row["grad_evals"]

        return run

    return {f"lr x {c:g}": runner(c) for c in factors}


def sklearn_solver(name):
    def run(f, passes, seed):
        m = SklearnLogistic(
            C=1 / (f.l2 * f.n),
            solver=name,
            tol=1e-15,
            max_iter=int(passes),
            fit_intercept=False,
            random_state=seed,
        ).fit(f.X, f.y)
        steps = int(m.n_iter_[0]) * f.n  # it may have stopped at its last bit
        return m.coef_.ravel(), steps, steps

    return {"": run}


def cyanure_solver(names):
    import cyanure.estimators as ce

    def runner(name):
        def run(f, passes, seed):
            m = ce.Classifier(
                loss="logistic",
                penalty="l2",
                lambda_1=f.l2,
                fit_intercept=False,
                solver=name,
                max_iter=int(passes),
                tol=1e-15,
                duality_gap_interval=10**6,
                random_state=seed,
                verbose=False,
                n_threads=1,
            )
            m.fit(f.X, f.y)
            return (
                (m.get_weights() if hasattr(m, "get_weights") else m.coef_).ravel(),
                passes * f.n,
                passes * f.n,
            )

        return run

    return {name: runner(name) for name in names}


def lbfgs(f, iterations, seed, memory):
    x = optimize.minimize(
        lambda x: (f.loss(x), f.grad(x)),
        np.zeros(f.d),
        jac=True,
        method="L-BFGS-B",
        options=dict(maxiter=int(iterations), maxfun=10**6, maxcor=memory, ftol=0, gtol=0),
    ).x
    return x, None, None


def contenders(f):
    kinds = (
        ("saga", "importance"),
        ("saga", "uniform"),
        ("svrg", "importance"),
        ("sarah", "importance"),
    )
    table = {f"impsamp {m}, {s}": ours(m, s) for m, s in kinds}
    table["scipy L-BFGS"] = {
        f"memory {m}": (lambda f, b, seed, m=m: lbfgs(f, b, seed, m)) for m in (10, 30, 100)
    }
    if not f.convex:
        return table
    table["scikit-learn saga"] = sklearn_solver("saga")
    if f.d <= 1000:
        table["scikit-learn newton-cholesky"] = sklearn_solver("newton-cholesky")
    with contextlib.suppress(ImportError):
        table |= {
            "cyanure svrg": cyanure_solver(("svrg", "acc-svrg", "qning-svrg")),
            "cyanure miso": cyanure_solver(("miso", "catalyst-miso", "qning-miso")),
        }
    return table


# --- the two clocks ---
def clock(run, f, budget, seed):
    "(processor seconds, outcome); warnings of no convergence are the point."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.process_time()
        out = run(f, budget, seed)
        return time.process_time() - start, out


def per_gradient(f, table, repeats):
    "{solver: [(seconds per step, gradients per step, this time over that of our SAGA in the same repeat), ...]} of the stochastic ones."
    passes, runs = (
        max(6, min(30, 100_000 // f.n)),
        {
            k: next(iter(v.values()))
            for k, v in table.items()
            if any(s in k for s in ("saga", "svrg", "miso", "sarah"))
        },
    )
    out = {k: [] for k in runs}
    for r in range(repeats):
        for name, run in runs.items():
            (short, a), (long, b) = clock(run, f, passes, r), clock(run, f, 4 * passes, r)
            steps = b[1] - a[1] or np.nan
            out[name].append(((long - short) / steps, (b[2] - a[2]) / steps))
    base = [seconds for seconds, _ in out["impsamp saga, importance"]]
    return {
        k: [(seconds, count, seconds / b) for (seconds, count), b in zip(v, base)]
        for k, v in out.items()
    }


def least_budget(f, run, met, limit, first=1):
    "(seconds, budget) of the first budget 1, 2, 4, ... that meets the target, or None where `limit` seconds or 20 000 passes are not enough."
    budget = first
    while True:
        seconds, out = clock(run, f, budget, 0)
        if met(out[0]):
            return seconds, budget
        if not np.isfinite(out[0]).all() or seconds > limit / 2 or budget >= 20_000:
            return None
        budget *= 2


def refined(f, run, met, budget):
    "The least sufficient budget to within an eighth, by bisection between the last two doublings."
    low = budget // 2
    while budget - low > max(1, budget // 8):
        middle = (low + budget) // 2
        if met(run(f, middle, 0)[0]):
            budget = middle
        else:
            low = middle
    return budget


def to_target(f, table, met, repeats, limit):
    '{solver: (setting, median seconds, budget)}, ("", inf, None) where no setting gets there in `limit` seconds.'
    chosen = {}
    for name, settings in table.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {s: r for s, run in settings.items() if (r := least_budget(f, run, met, limit))}
            best = min(found, key=lambda s: found[s][0]) if found else None
            if found:
                chosen[name] = best, settings[best], refined(f, settings[best], met, found[best][1])
    times = {
        k: [clock(run, f, budget, 0)[0] for _ in range(1)] for k, (_, run, budget) in chosen.items()
    }
    for _ in range(repeats - 1):
        for k, (_, run, budget) in chosen.items():
            times[k].append(clock(run, f, budget, 0)[0])
    return {
        k: (chosen[k][0], float(np.median(times[k])), chosen[k][2])
        if k in chosen
        else ("", np.inf, None)
        for k in table
    }


# --- one problem ---
def target(f):
    "met(x): the logistic loss within OBJECTIVE of the best known, or the gradient of the other one GRADIENT of its first norm with f below f(0)."
    zero = np.zeros(f.d)
    if not f.convex:
        first, start = np.linalg.norm(f.grad(zero)), f.loss(zero)
        return lambda x: (
            np.isfinite(x).all()
            and f.loss(x) < start
            and np.linalg.norm(f.grad(x)) <= GRADIENT * first
        )
    best = f.loss(lbfgs(f, 2000, 0, 30)[0])
    return lambda x: np.isfinite(x).all() and f.loss(x) - best <= OBJECTIVE * best


def rows_of(name, f, args):
    table, loss = contenders(f), "logistic" if f.convex else "sigmoid"
    start = time.process_time()
    for settings in table.values():
        clock(next(iter(settings.values())), f, 1, 0)  # imports, compilation
    warm = time.process_time() - start
    each = per_gradient(f, table, args.repeats) if f.convex or f.n > 1000 else {}
    ends = to_target(f, table, target(f), args.repeats, args.limit) if not args.quick else {}
    print(
        f"\n{name}, {loss}: n = {f.n}, d = {f.d}, L_max / mean L = {f.L.max() / f.L.mean():.1f}, first calls (compilation) {warm:.1f} s",
        flush=True,
    )
    for solver in table:
        step, gradients, ratio = (
            np.median(each[solver], axis=0) if solver in each else (np.nan,) * 3
        )
        setting, seconds, budget = ends.get(solver, ("", np.nan, None))
        yield dict(
            zip(
                COLUMNS,
                (
                    name,
                    loss,
                    solver,
                    setting,
                    step * 1e9,
                    gradients,
                    step / gradients * 1e9,
                    ratio,
                    seconds,
                    budget,
                ),
            )
        )
        print(
            f"  {solver:30} {step * 1e9:8.1f} ns/step {step / gradients * 1e9:8.1f} ns/gradient {ratio:6.2f} x ours  {seconds:9.4f} s to target  {setting} {budget or ''}",
            flush=True,
        )


# --- table and figure ---
def text(v):
    if v is None or (isinstance(v, float) and np.isnan(v)):
        return ""
    return (
        "not reached"
        if isinstance(v, float) and np.isinf(v)
        else f"{v:.4g}"
        if isinstance(v, float)
        else str(v)
    )


def write(rows, notes):
    cells = [[text(r[c]) for c in COLUMNS] for r in rows]
    with open(HERE / "linear.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *cells])
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(c) + " |" for c in cells),
    ]
    (HERE / "linear.md").write_text(
        "\n".join(["# Linear models beside peers", "", *notes, "", *lines, ""])
    )


def draw(rows):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "impsamp"
    names, solvers = (
        list(dict.fromkeys((r["data"], r["loss"]) for r in rows)),
        list(dict.fromkeys(r["solver"] for r in rows)),
    )
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    hues = dict(zip(solvers, plt.get_cmap("tab10").colors))
    for ax, key, label in (
        (axes[0], "ns_per_gradient", "ns per component gradient"),
        (axes[1], "seconds_to_target", "seconds to the target"),
    ):
        for r in rows:
            if not np.isfinite(r[key]):
                continue
            ax.plot(
                r[key],
                names.index((r["data"], r["loss"])),
                "o" if "impsamp" in r["solver"] else "x",
                color=hues[r["solver"]],
                ms=7,
            )
        ax.set(xscale="log", xlabel=label)
        ax.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), [f"{d}\n{loss}" for d, loss in names], fontsize=8)
    axes[0].set_xticks(ticks := [30, 50, 100, 200, 500, 1000], ticks)
    axes[0].minorticks_off()
    axes[0].invert_yaxis()
    marks = [
        plt.Line2D([], [], ls="", marker="o" if "impsamp" in s else "x", color=hues[s], label=s)
        for s in solvers
    ]
    fig.legend(handles=marks, loc="outside lower center", ncol=5, fontsize=8, frameon=False)
    for kind, meta in (("svg", {"Date": None}), ("png", {"Software": None})):
        fig.savefig(HERE / f"linear.{kind}", metadata=meta, dpi=110)
    plt.close(fig)


def firsts(rows):
    "One line per problem: who was first to the target, and the best of ours beside it."
    for key in dict.fromkeys((r["data"], r["loss"]) for r in rows):
        own = [r for r in rows if (r["data"], r["loss"]) == key]
        first, ours = (
            min(rs, key=lambda r: r["seconds_to_target"])
            for rs in (own, [r for r in own if r["solver"].startswith("impsamp")])
        )
        beside = (
            ""
            if first is ours
            else f"; best of ours: {ours['solver']}, {text(ours['seconds_to_target'])} s"
        )
        if np.isfinite(first["seconds_to_target"]):
            yield f"- {key[0]}, {key[1]}: {first['solver']}, {text(first['seconds_to_target'])} s{beside}"


def notes_of(left_out, args, rows):
    return [
        "Processor seconds of one thread, medians of "
        + f"{args.repeats} interleaved repeats; what is counted stands in `linear.py`. Targets: logistic loss within {OBJECTIVE:g} (relative) of the best known; "
        f"sigmoid loss: gradient norm {GRADIENT:g} of the first. Not reached: no setting met it in a run of {args.limit:g} s.",
        "",
        "gradients_per_step: component gradients really evaluated, anchors included (SVRG keeps the snapshot's slopes: one per step and an anchor per n steps; SARAH two). What the peers "
        "evaluate inside a step is not visible: theirs are counted as one, as if they kept slopes too. step_over_ours: time per step over that of impsamp saga, importance, median of ratios "
        "within repeats.",
        "",
        "First to the target:",
        "",
        *firsts(rows),
        *(["", "Left out: " + "; ".join(left_out) + "."] if left_out else []),
    ]


def problems():
    "(name, problem) one at a time: logistic on all, the sigmoid loss on those with something at stake; data that cannot be had yield (name, None)."
    for name, load in DATA.items():
        try:
            X, y = load()
        except DataError as e:
            print("left out:", name, str(e).splitlines()[0])
            yield name, None
            continue
        yield name, LogisticRegression(X, y, l2=1 / X.shape[0])
        if name.startswith(("50000", "sparse 20000 x 50000, uneven")):
            yield name, SigmoidLeastSquares(X, y, l2=1 / X.shape[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--limit", type=float, default=2.0, help="seconds that one run may take to the target"
    )
    parser.add_argument("--quick", action="store_true", help="time per gradient only")
    parser.add_argument(
        "--only", default="", help="data sets whose name holds this; writes nothing"
    )
    args, rows, left_out = parser.parse_args(), [], []
    for name, f in problems():
        if args.only not in name:
            continue
        if f is None:
            left_out.append(name)
        else:
            rows += rows_of(name, f, args)
    try:
        import cyanure  # noqa: F401
    except ImportError:
        left_out.append("cyanure is not installed")
    if not args.only:
        write(rows, notes_of(left_out, args, rows)), draw(rows)


if __name__ == "__main__":
    main()
