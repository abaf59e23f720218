"""Linear models beside scikit-learn (saga, newton-cholesky), cyanure and scipy's L-BFGS: nanoseconds per gradient, time to a target objective.

`python -m benchmarks.linear` prints the table and writes benchmarks/linear.{csv,md}. cyanure is optional (`pip install cyanure`); a missing peer is left out and named.
One thread, CPU seconds. Every repeat runs all solvers in turn, so that noise of the machine hits all of them; the table has medians over repeats, and of ratios within repeats.
A time to target is the least budget on a grid (doubling) whose outcome has an objective within 1e-6 (relative) of the best known one; compile time is outside, samplers, checks and copies inside.
"""
import argparse
import csv
import os
import time
import warnings
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"): os.environ.setdefault(variable, "1")

import numpy as np
from scipy import optimize, sparse
from sklearn.linear_model import LogisticRegression as SklearnLogistic

from impsamp.data import load_libsvm
from impsamp.errors import DataError
from impsamp.linear import make_plan, minimize
from impsamp.problems import LogisticRegression, SigmoidLeastSquares
from impsamp.samplers import SerialSampling

HERE, L2 = Path(__file__).parent, 1e-4


def shape_ijcnn1(seed=0):
    "50 000 x 22 dense with uneven rows, the shape of ijcnn1's training part."
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(50_000, 22)) * np.exp(.7 * rng.normal(size=(50_000, 1)))
    return X / np.sqrt((X**2).sum(axis=1).mean()), np.where(X @ rng.normal(size=22) + rng.normal(size=50_000) > 0, 1.0, -1.0)


def shape_sparse(seed=0, n=20_000, d=50_000, row=75):
    "20 000 x 50 000 CSR, 75 nonzeros a row, column frequencies by Zipf's law, uneven row norms."
    rng = np.random.default_rng(seed)
    cols = np.minimum((rng.random((n, row))**3 * d).astype(np.int64), d - 1)
    values = rng.random((n, row)) * np.exp(.7 * rng.normal(size=(n, 1))) / np.sqrt(row)
    X = sparse.csr_matrix((values.ravel(), cols.ravel(), np.arange(n + 1) * row), shape=(n, d))
    X.sum_duplicates()
    return X, np.where(X @ rng.normal(size=d) + .1 * rng.normal(size=n) > 0, 1.0, -1.0)


def scaled(name):
    "A LIBSVM set, columns scaled to unit mean square (importance sampling keeps its uneven rows)."
    X, y = load_libsvm(name)
    X = X.toarray()
    return X / np.sqrt(np.maximum((X**2).mean(axis=0), 1e-12)) / np.sqrt(X.shape[1]), y


def data_sets():
    yield "50000 x 22", *shape_ijcnn1()
    yield "breast cancer 569 x 30", *scaled("breast_cancer")
    try: yield "australian 690 x 14", *scaled("australian")
    except DataError as e: print("left out: australian,", str(e).splitlines()[0])
    yield "20000 x 50000, 75 a row", *shape_sparse()


# --- solvers: (problem, budget, seed) -> x ---
def ours(method, sampling, output="last"):
    def run(f, passes, seed):
        return minimize(f, method, sampling, lr="convex", one_draw=True, max_passes=passes, output=output, record_every=1e9, generator=np.random.default_rng(seed)).x
    return run


def sklearn_solver(name):
    def run(f, passes, seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            m = SklearnLogistic(C=1 / (f.l2 * f.n), solver=name, tol=1e-15, max_iter=int(passes), fit_intercept=False, random_state=seed).fit(f.X, f.y)
        return m.coef_.ravel()
    return run


def cyanure_solver(name):
    import cyanure.estimators as ce

    def run(f, passes, seed):
        m = ce.Classifier(loss="logistic", penalty="l2", lambda_1=f.l2, fit_intercept=False, solver=name, max_iter=int(passes), tol=1e-15, duality_gap_interval=10**6,
                          random_state=seed, verbose=False, n_threads=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            m.fit(f.X, f.y)
        return m.get_weights().ravel() if hasattr(m, "get_weights") else m.coef_.ravel()
    return run


def lbfgs(f, passes, seed):
    return optimize.minimize(lambda x: (f.loss(x), f.grad(x)), np.zeros(f.d), jac=True, method="L-BFGS-B", options=dict(maxiter=int(passes), maxfun=10**6, ftol=0, gtol=0)).x


def solvers(f):
    table = {"impsamp saga, importance": ours("saga", "importance"), "impsamp saga, uniform": ours("saga", "uniform"), "impsamp svrg, importance": ours("svrg", "importance"),
             "impsamp sarah, importance": ours("sarah", "importance"), "scikit-learn saga": sklearn_solver("saga"), "scipy L-BFGS": lbfgs}
    if f.d <= 1000: table["scikit-learn newton-cholesky"] = sklearn_solver("newton-cholesky")
    try: table |= {"cyanure svrg": cyanure_solver("svrg"), "cyanure miso": cyanure_solver("miso")}
    except ImportError: print("left out: cyanure is not installed")
    return table


def clock(work, *args):
    "CPU seconds of the process: every solver runs on one thread, and other work on the machine then costs cache misses only."
    start = time.process_time()
    out = work(*args)
    return time.process_time() - start, out


def per_gradient(f, repeats):
    "{solver: seconds per component gradient}, from the difference of two runs (set-up cancels), one list entry per repeat."
    passes = max(4, 200_000 // f.n)                                  # small sets need many passes before set-up noise is small beside them
    table = {k: v for k, v in solvers(f).items() if any(s in k for s in ("saga", "svrg", "miso"))}
    out = {k: [] for k in table}
    for r in range(repeats):
        for name, solve in table.items():
            (short, _), (long, _) = clock(solve, f, 1 * passes, r), clock(solve, f, 3 * passes, r)
            gradients = 2 * passes * f.n / (2 if name.startswith("impsamp svrg") else 1)      # a linear SVRG step needs one slope: the snapshot's are kept
            out[name].append((long - short) / gradients)
    return out


def to_target(f, repeats, best, limit=60.0, tolerance=1e-6):
    "{solver: seconds to f(x) - best <= tolerance * best}: the budget is doubled until it is enough, then that budget is timed."
    table, out = solvers(f), {}
    for name, solve in table.items():
        budget = 1
        while True:
            seconds, x = clock(solve, f, budget, 0)
            if f.loss(x) - best <= tolerance * abs(best): break
            if seconds > limit or budget > 20_000: budget = None; break
            budget *= 2
        if budget is None: out[name] = (np.inf, None); continue
        low = budget // 2
        while budget - low > max(1, budget // 8):
            middle = (low + budget) // 2
            if f.loss(solve(f, middle, 0)) - best <= tolerance * abs(best): budget = middle
            else: low = middle
        out[name] = (None, budget)
    times = {k: [] for k in table}
    for r in range(repeats):
        for name, solve in table.items():
            if out[name][1] is not None: times[name].append(clock(solve, f, out[name][1], 0)[0])
    return {k: (float(np.median(times[k])) if times[k] else np.inf, out[k][1]) for k in table}


def reference(f):
    "The best objective known: a long L-BFGS run polished by a long SAGA run."
    x = lbfgs(f, 3000, 0)
    y = minimize(f, "saga", "importance", lr="convex", one_draw=True, x0=x, max_passes=200, output="last", record_every=1e9, generator=np.random.default_rng(0)).x
    return min(f.loss(x), f.loss(y))


def nonconvex(repeats):
    "Nanoseconds per gradient of the sigmoid loss, 50 000 x 22: SAGA, SVRG, SARAH with importance sampling (no peer offers this loss)."
    f, rows = SigmoidLeastSquares(*shape_ijcnn1()), []
    for method in ("saga", "svrg", "sarah"):
        times = []
        for r in range(repeats + 1):
            a, b = (minimize(f, method, "importance", one_draw=True, lr=.1, max_passes=p, record_every=1e9, generator=np.random.default_rng(r)).records[-1] for p in (4, 12))
            gained = (b["grad_evals"] - a["grad_evals"]) / (2 if method == "svrg" else 1)
            times.append((b["seconds"] + b["sampler_seconds"] - a["seconds"] - a["sampler_seconds"]) / gained * 1e9)
        rows.append(("50000 x 22, sigmoid loss", f"impsamp {method}, importance", float(np.median(times[1:])), float("nan"), ""))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="gradients only, no time to target")
    args = parser.parse_args()
    rows = []
    for name, X, y in data_sets():
        f = LogisticRegression(X, y, l2=L2)
        p = f.L / f.L.sum()
        gain = make_plan(f, "saga", SerialSampling(p), lr="convex").lr / make_plan(f, "saga", "uniform", lr="convex").lr
        for solve in solvers(f).values(): solve(f, 1, 0)         # compile, import, warm
        ns = per_gradient(f, args.repeats)
        targets = {} if args.quick else to_target(f, args.repeats, reference(f))
        base = ns["impsamp saga, importance"]
        print(f"\n{name}: n = {f.n}, d = {f.d}, L_max / mean L = {gain:.2f}")
        for solver in solvers(f):
            t, budget = targets.get(solver, (float("nan"), ""))
            each = float(np.median(ns[solver])) * 1e9 if solver in ns else float("nan")
            ratio = float(np.median(np.array(ns[solver]) / base)) if solver in ns else float("nan")
            rows.append((name, solver, each, t, budget))
            print(f"  {solver:32} {each:8.1f} ns/gradient   {ratio:5.2f} x   {t:9.4f} s to target   budget {budget}")
    rows += nonconvex(args.repeats)
    for row in rows[-3:]: print(f"  {row[0]} {row[1]:32} {row[2]:8.1f} ns/gradient")
    write(rows)


def write(rows):
    head = ("data", "solver", "ns_per_gradient", "seconds_to_target", "passes_or_iterations")
    text = lambda v: "" if isinstance(v, float) and np.isnan(v) else "not reached" if isinstance(v, float) and np.isinf(v) else f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v)
    with open(HERE / "linear.csv", "w", newline="") as file: csv.writer(file, lineterminator="\n").writerows([head, *([text(v) for v in row] for row in rows)])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(text(v) for v in row) + " |" for row in rows)]
    (HERE / "linear.md").write_text("\n".join(["# Linear models beside peers", "", "One thread, one run, medians over repeats; see `linear.py` for what is counted.", "", *lines, ""]))


if __name__ == "__main__": main()
