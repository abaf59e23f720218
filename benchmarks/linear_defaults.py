"""Default fits on real data beside scikit-learn's solvers at equal objective.

python -m benchmarks.linear_defaults [--quick] [--sets "iris,MNIST 3 or not; 1000"] [--missing]

Every set, dense and CSR, raw and standardised, float64 and float32. gap is (F - F*)/|F*| of the
objective as the user wrote it, F in float64, F* from a Newton run to 1e-13 (sets with too many
parameters for that: the best value that any solver reached). A solver of scikit-learn is run at
falling tolerances until its gap is below 1e-6; the seconds are those of that tolerance alone. No
lower tolerance is tried of a solver that has spent 2 000 iterations (500 on 6 000 digits of ten
classes) or ten seconds. Processor seconds of one thread, medians of interleaved repeats; as many
repeats as fit half a second, at least three; where a fit takes more than five seconds, the first
runs count. first and later: seconds of the first fit of a process that has to compile, imports
outside, and of the next process, which finds the kernels.

Rows of sets that are not asked for stay. A row is written when it is there: a run that was cut off
goes on with `--missing`."""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from impsamp import VRClassifier, VRRegressor
from impsamp.linear.composites import Composite, best_intercepts, duality_gap
from impsamp.linear.second_order import Progress, newton
from impsamp.linear.strategy import newton_cost

HERE = Path(__file__).parent
L2 = 1e-4
TARGET = 1e-6
TOLERANCES = (1e-4, 1e-6, 1e-8, 1e-10)
PATIENCE = 10.0  # seconds
MOST = 2000  # iterations of scikit-learn's
MOST_LARGE = 500  # of several classes and more than 5 000 rows


def folder():
    return Path(os.environ.get("IMPSAMP_DATA", "data"))


def libsvm(name):
    X, y = datasets.load_svmlight_file(str(folder() / "libsvm" / name))
    return X.tocsr(), y


def mnist(rows, digit=None):
    def read(what, offset):
        file = folder() / "mnist" / f"train-{what}-ubyte.gz"
        return np.frombuffer(gzip.open(file).read(), np.uint8, offset=offset)

    X = read("images-idx3", 16).reshape(-1, 784)[:rows].astype(float)
    y = read("labels-idx1", 8)[:rows].astype(int)
    return X, y if digit is None else (y == digit).astype(int)


def skewed():
    "ijcnn1.val's rows with weights of a Pareto tail."
    X, y = libsvm("ijcnn1.val")
    return X, y, np.random.default_rng(0).pareto(1.0, X.shape[0]) + 1e-3


def made_sparse(weights=False):
    "20 000 rows of 50 entries in 50 000 columns, uneven; with weights of a Pareto tail."
    rng = np.random.default_rng(0)
    n = 20_000
    d = 50_000
    q = 50
    columns = rng.integers(0, d, size=(n, q)).ravel()
    values = rng.normal(size=(n, q)) / np.sqrt(q) * np.exp(rng.normal(size=(n, 1)))
    X = sparse.csr_matrix((values.ravel(), columns, np.arange(n + 1) * q), shape=(n, d))
    X.sum_duplicates()
    y = np.sign(X @ rng.normal(size=d) + 0.3 * rng.normal(size=n))
    return (X, y, rng.pareto(1.0, n) + 1e-3) if weights else (X, y)


SETS = {
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "breast cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "australian": lambda: libsvm("australian"),
    "splice": lambda: libsvm("splice"),
    "ijcnn1.val": lambda: libsvm("ijcnn1.val"),
    "ijcnn1.val, Pareto weights": skewed,
    "w8a": lambda: libsvm("w8a"),
    "MNIST 3 or not, 1000": lambda: mnist(1000, 3),
    "MNIST 3 or not, 6000": lambda: mnist(6000, 3),
    "MNIST, 1000": lambda: mnist(1000),
    "MNIST, 6000": lambda: mnist(6000),
    "sparse 20000 x 50000": made_sparse,
    "sparse 20000 x 50000, Pareto weights": lambda: made_sparse(True),
}
BIG = ("MNIST, 6000",)  # float64 only, and no processes for the first fit: minutes a row
WIDE = ("sparse 20000 x 50000", "sparse 20000 x 50000, Pareto weights")


def variants(X, name, quick):
    "(form, scale, dtype, rows) of a set."
    dense = X.toarray() if sparse.issparse(X) and name not in WIDE else X
    forms = {"CSR": sparse.csr_matrix(X)}
    if name not in WIDE:
        forms = {"dense": dense, **forms}
    for form, rows in forms.items():
        for scale in ("raw",) if name in WIDE else ("raw", "standardised"):
            centred = StandardScaler(with_mean=form == "dense")
            scaled = rows if scale == "raw" else centred.fit_transform(rows)
            for dtype in ("float64",) if quick or name in BIG else ("float64", "float32"):
                yield form, scale, dtype, scaled.astype(dtype)


class Judge:
    "The objective of a fit in float64, and the least value known."

    def __init__(self, X, y, weight, regression):
        labels, t = np.unique(y, return_inverse=True)
        self.K = 1 if regression or labels.size == 2 else labels.size
        loss = "multinomial"
        if self.K == 1:
            t = y.astype(float) if regression else np.where(t > 0, 1.0, -1.0)
            loss = "squared" if regression else "logistic"
        self.f = Composite(X.astype(np.float64), t, weight, loss=loss, l2=L2, classes=self.K)
        self.best = np.inf
        if newton_cost(self.f) < 2e9:
            run = Progress(tol=1e-13, max_iter=60)
            self.best = newton(self.f, self.f.start, run).value

    def value(self, model):
        coef = np.atleast_2d(model.coef_)
        theta = np.hstack([coef, np.atleast_1d(model.intercept_)[:, None]])
        Z = self.f.scores(theta)
        return self.f.value(Z, theta)

    def certified(self, model):
        "The duality gap of a fit over its value: a bound that needs no other solver."
        coef = np.atleast_2d(model.coef_)
        theta = np.hstack([coef, np.atleast_1d(model.intercept_)[:, None]])
        Z = self.f.scores(theta)
        shift = best_intercepts(self.f, theta, Z)
        theta[:, -1] += shift
        gap, value = duality_gap(self.f, Z + shift, theta)
        return gap / abs(value)


def solvers(regression, X, weight, K):
    "name -> a function of the tolerance that makes an estimator of scikit-learn."
    total = weight.sum()
    d = X.shape[1]
    if regression:
        return {
            name: lambda tol, name=name: Ridge(alpha=L2 * total, solver=name, tol=tol)
            for name in (("sparse_cg", "lsqr") if sparse.issparse(X) else ("cholesky", "svd"))
        }
    names = ["lbfgs"]
    if d * K <= 700:
        names.append("newton-cholesky")
    C = 1 / (L2 * total)
    most = MOST_LARGE if K > 2 and X.shape[0] > 5000 else MOST

    def maker(name):
        return lambda tol: LogisticRegression(C=C, solver=name, tol=tol, max_iter=most)

    return {name: maker(name) for name in names}


def timed(model, X, y, weight):
    "(model, processor seconds, warnings of convergence)."
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        start = time.process_time()
        model.fit(X, y, sample_weight=weight)
        seconds = time.process_time() - start
    return model, seconds, sum(issubclass(w.category, ConvergenceWarning) for w in seen)


def in_turn(fits, X, y, weight):
    "name -> processor seconds of each repeat."
    seconds = {key: [] for key in fits}
    spent = 0.0
    for r in range(30):
        if r >= 3 and spent > 0.5:
            break
        for key, (make, tol) in fits.items():
            seconds[key].append(timed(make(tol), X, y, weight)[1])
            spent += seconds[key][-1]
    return seconds


def contest(name, X, y, weight):
    "One row of the table."
    regression = name == "diabetes"
    judge = Judge(X, y, weight, regression)
    ours = VRRegressor if regression else VRClassifier
    model, once, warned = timed(ours(random_state=0), X, y, weight)
    fits = {"impsamp": (lambda tol: ours(random_state=0), None)}
    values = {"impsamp": judge.value(model)}
    bounds = [judge.certified(model)]
    spent_by = {"impsamp": once}
    makers = solvers(regression, X, weight, judge.K)
    for solver, make in makers.items():
        for tol in TOLERANCES:
            with np.errstate(all="ignore"):
                theirs, spent, stopped = timed(make(tol), X, y, weight)
            values[solver] = judge.value(theirs)
            spent_by[solver] = spent
            fits[solver] = (make, tol)
            judge.best = min(judge.best, values[solver])
            near = values[solver] - judge.best <= TARGET * abs(judge.best)
            enough = near and judge.certified(theirs) < 30 * TARGET
            if enough or stopped or spent > PATIENCE:
                break
    judge.best = min(judge.best, *values.values())
    worth = {k: v for k, v in fits.items() if gap(judge, values[k]) < TARGET or k == "impsamp"}
    seconds = {key: [spent_by[key]] for key in worth}
    if max(spent_by[key] for key in worth) < 5:
        seconds = in_turn(worth, X, y, weight)
    reached = {key: float(np.median(each)) for key, each in seconds.items()}
    mine = reached.pop("impsamp")
    best = min(reached, key=reached.get) if reached else ""
    return dict(
        gap=gap(judge, values["impsamp"]),
        certified=bounds[0],
        warnings=warned,
        seconds=mine,
        scikit_learn=best or "none reaches it",
        their_seconds=reached.get(best, np.nan),
        ours_over_theirs=mine / reached[best] if best else np.nan,
        iterations=int(model.n_iter_.max()),
        ran="; ".join(dict.fromkeys(model.ran_)),
    )


FORK = multiprocessing.get_context("fork")


def apart(function, *args):
    "function(*args), computed by a copy of this process, which itself fits and compiles nothing."
    read, send = FORK.Pipe(duplex=False)
    child = FORK.Process(target=lambda: send.send(function(*args)))
    child.start()
    send.close()
    value = read.recv()
    child.join()
    return value


def first_fit(X, y, weight, regression, folder):
    "Processor seconds of this process's first fit, kernels kept in a folder."
    os.environ["IMPSAMP_KERNEL_CACHE"] = folder
    ours = VRRegressor if regression else VRClassifier
    return timed(ours(random_state=0), X, y, weight)[1]


def first_fits(X, y, weight, regression):
    "first: of a process that has to compile; later: of the next one, which finds the kernels."
    with tempfile.TemporaryDirectory() as folder:
        first, later = [apart(first_fit, X, y, weight, regression, folder) for _ in range(2)]
    return dict(first=first, later=later)


def gap(judge, value):
    return max(value - judge.best, 0.0) / max(abs(judge.best), 1e-300)


def page(table):
    text = [
        "# Default fits on real data",
        "",
        " ".join(__doc__.split("\n\n")[2].split()),
        "",
        "Measured on a shared, loaded machine: read the ratios, which are of one run.",
        "",
    ]
    inside = int((table.gap <= TARGET).sum())
    text.append(f"{inside} of {len(table)} fits within 1e-6, {int(table.warnings.sum())} warnings.")
    ratio = table.ours_over_theirs.dropna()
    small = table[table.their_seconds < 0.1].ours_over_theirs.dropna()
    text.append(f"Time over that of scikit-learn's best: median {ratio.median():.2f}, ")
    text.append(f"largest {ratio.max():.2f} (where they need less than 0.1 s: {small.max():.2f}); ")
    text.append("none of scikit-learn's reaches 1e-6 in ")
    text.append(f"{int(table.ours_over_theirs.isna().sum())} rows.")
    columns = [c for c in table.columns if c != "certified"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in table[columns].itertuples(index=False):
        cells = [f"{v:.2g}" if isinstance(v, float) else str(v) for v in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*text, "", *lines, ""])


KEY = ["data", "form", "scale", "dtype"]


def known():
    "The table as it stands, or none."
    file = HERE / "linear_defaults.csv"
    if not file.exists():
        return pd.DataFrame(columns=KEY)
    return pd.read_csv(file, keep_default_na=False, na_values=["nan", ""])


def rows_of(name, args):
    "The rows of a set, printed as they come."
    X, y, *rest = SETS[name]()
    weight = rest[0] if rest else np.ones(X.shape[0])
    there = set(known()[KEY].itertuples(index=False, name=None))
    for form, scale, dtype, data in variants(X, name, args.quick):
        if args.missing and (name, form, scale, dtype) in there:
            continue
        row = dict(data=name, form=form, scale=scale, dtype=dtype)
        row |= apart(contest, name, data, y, weight)
        row |= dict(first=np.nan, later=np.nan)
        if name not in BIG:
            row |= first_fits(data, y, weight, name == "diabetes")
        print({k: f"{v:.2g}" if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        yield row


def merged(row):
    "The table with a row in place of the one it had, in the order of the sets and variants."
    before = known()
    same = (before[KEY] == [row[key] for key in KEY]).all(axis=1)
    table = pd.concat([before[~same], pd.DataFrame([row])], ignore_index=True)
    orders = [list(SETS), ["dense", "CSR"], ["raw", "standardised"], ["float64", "float32"]]
    for key, order in reversed(list(zip(KEY, orders))):
        table = table[table[key].isin(order)]
        table = table.sort_values(key, key=lambda c, o=order: c.map(o.index), kind="stable")
    return table


def write(table):
    table.to_csv(HERE / "linear_defaults.csv", index=False, float_format="%.4g", na_rep="nan")
    (HERE / "linear_defaults.md").write_text(page(table))


def asked(args):
    "Names of the sets to run; a comma within a name is given as a semicolon."
    names = [s.strip().replace("; ", ", ") for s in args.sets.split(",")] if args.sets else SETS
    unknown = [name for name in names if name not in SETS]
    if unknown:
        raise SystemExit(f"no such set: {unknown}; there are {list(SETS)}")
    return list(names)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="float64 only, nothing written")
    parser.add_argument("--sets", default="", help="names, commas between; all by default")
    parser.add_argument("--missing", action="store_true", help="only rows that are not there yet")
    args = parser.parse_args()
    for name in asked(args):
        for row in rows_of(name, args):
            if not args.quick:  # at once, so that a run that is cut short has its page
                write(merged(row))


if __name__ == "__main__":
    main()
