"""Who minimises f, and how: {solver: {setting: run(f, budget, seed) -> Outcome}}."""

import contextlib
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import optimize
from sklearn.linear_model import LogisticRegression as SklearnLogistic

from impsamp.linear import expected_smoothness, minimize
from impsamp.samplers import SerialSampling


class Outcome(NamedTuple):
    x: np.ndarray
    steps: float | None = None  # of one item; None where that means nothing
    gradients: float | None = None  # component gradients


# the package's rules for convex sums, in units of 1 / expected smoothness
RULE = {"saga": 1 / 3, "svrg": 1 / 6, "sarah": 1 / 2}


def probabilities(f, method, sampling):
    """Importance: p_i proportional to L_i.

    SAGA, whose table is refreshed where it draws, mixes in as much of the uniform law, or rows of
    small L_i would stay stale."""
    even = 0.0
    if sampling == "uniform":
        even = 1.0
    elif method == "saga":
        even = 0.5
    return (1 - even) * f.L / f.L.sum() + even / f.n


def gradients_kept(method, n, row):
    "Component gradients really evaluated: SVRG keeps the snapshot's slopes, one new one per step."
    if method != "svrg":
        return row["grad_evals"]
    anchors = n * row["epoch"]
    return (row["grad_evals"] - anchors) // 2 + anchors


def run_ours(method, sampling, factor, f, passes, seed):
    """The step is `factor` times the package's rule, which is tried on the other loss too.

    Constants and checks are on the clock."""
    own = type(f)(f.X, f.y, l2=f.l2)
    p = probabilities(own, method, sampling)
    smoothness = expected_smoothness(own.L, p, np.ones(own.n))
    result = minimize(
        own,
        method,
        SerialSampling(p / p.sum()),
        lr=factor * RULE[method] / smoothness,
        inner_steps=own.n if method in ("svrg", "sarah") else None,
        one_draw=True,
        max_passes=passes,
        output="last",
        record_every=1e9,
        generator=np.random.default_rng(seed),
    )
    last = result.records[-1]
    return Outcome(result.x, last["step"], gradients_kept(method, f.n, last))


def ours(method, sampling, factors=(1, 3, 10)):
    return {f"lr x {c:g}": partial(run_ours, method, sampling, c) for c in factors}


def run_sklearn(solver, f, passes, seed):
    model = SklearnLogistic(
        C=1 / (f.l2 * f.n),
        solver=solver,
        tol=1e-15,
        max_iter=int(passes),
        fit_intercept=False,
        random_state=seed,
    )
    model.fit(f.X, f.y)
    steps = int(model.n_iter_[0]) * f.n  # it may have stopped at its last bit
    return Outcome(model.coef_.ravel(), steps, steps)


def run_cyanure(solver, f, passes, seed):
    import cyanure.estimators as ce

    model = ce.Classifier(
        loss="logistic",
        penalty="l2",
        lambda_1=f.l2,
        fit_intercept=False,
        solver=solver,
        max_iter=int(passes),
        tol=1e-15,
        duality_gap_interval=10**6,
        random_state=seed,
        verbose=False,
        n_threads=1,
    )
    model.fit(f.X, f.y)
    x = model.get_weights() if hasattr(model, "get_weights") else model.coef_
    return Outcome(x.ravel(), passes * f.n, passes * f.n)


def cyanure(solvers):
    "Raises ImportError where cyanure is not installed."
    import cyanure.estimators  # noqa: F401

    return {solver: partial(run_cyanure, solver) for solver in solvers}


def run_lbfgs(memory, f, iterations, seed):
    def value_and_gradient(x):
        return f.loss(x), f.grad(x)

    end = optimize.minimize(
        value_and_gradient,
        np.zeros(f.d),
        jac=True,
        method="L-BFGS-B",
        options=dict(maxiter=int(iterations), maxfun=10**6, maxcor=memory, ftol=0, gtol=0),
    )
    return Outcome(end.x)


OURS = (
    ("saga", "importance"),
    ("saga", "uniform"),
    ("svrg", "importance"),
    ("sarah", "importance"),
)


def contenders(f):
    "Those that can take this problem; a peer that is not installed is left out."
    table = {f"impsamp {method}, {sampling}": ours(method, sampling) for method, sampling in OURS}
    table["scipy L-BFGS"] = {f"memory {m}": partial(run_lbfgs, m) for m in (10, 30, 100)}
    if not f.convex:
        return table
    table["scikit-learn saga"] = {"": partial(run_sklearn, "saga")}
    if f.d <= 1000:
        table["scikit-learn newton-cholesky"] = {"": partial(run_sklearn, "newton-cholesky")}
    with contextlib.suppress(ImportError):
        table["cyanure svrg"] = cyanure(("svrg", "acc-svrg", "qning-svrg"))
        table["cyanure miso"] = cyanure(("miso", "catalyst-miso", "qning-miso"))
    return table
