"""Which way a problem goes, and that each ends at the certificate."""

import numpy as np
import pytest
from scipy import sparse

from impsamp.linear.composites import Composite
from impsamp.linear.second_order import Progress
from impsamp.linear.strategy import by_singular_values, newton_cost, solve


def made(n, k, *, loss="logistic", classes=1, l1=0.0, l2=1e-4, density=None, seed=0):
    rng = np.random.default_rng(seed)
    if density is None:
        X = rng.normal(size=(n, k)) @ rng.normal(size=(k, k)) / np.sqrt(k)
        raw = X[:, 0] + rng.normal(size=n)
    else:
        X = sparse.random_array((n, k), density=density, format="csr", rng=rng)
        raw = np.asarray(X @ rng.normal(size=k)) + 0.1 * rng.normal(size=n)
    t = {"logistic": np.where(raw > 0, 1.0, -1.0), "squared": raw}
    t["multinomial"] = np.digitize(raw, np.quantile(raw, np.arange(1, classes) / max(classes, 1)))
    return Composite(X, t[loss], np.ones(n), loss=loss, l2=l2, l1=l1, classes=classes)


CASES = {
    "few features": (made(500, 10), "Newton-Cholesky"),
    "least squares, wide": (made(500, 300, loss="squared"), "Newton-Cholesky"),
    "hundreds": (made(3000, 200), "L-BFGS, sampled Hessian"),
    "classes": (made(6000, 40, loss="multinomial", classes=5), "SVRG"),
    "thousands, sparse": (made(18000, 3000, density=0.02, l2=1e-2), "SVRG, importance sampling"),
    "l1, wide": (made(500, 800, l1=0.02, l2=0.0), "proximal Newton on working sets"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_way_ends_within_the_tolerance(name):
    f, way = CASES[name]
    run = Progress(tol=1e-6, max_iter=500)
    solve(f, f.start, run, np.random.default_rng(0))
    assert run.converged, run.gap
    assert any(way in what for what in run.ran), run.ran


@pytest.mark.parametrize("k", [255, 256, 257, 300])
def test_no_cliff_at_any_width(k):
    f = made(2000, k, loss="squared", l2=1e-6)
    run = Progress(tol=1e-8, max_iter=20)
    solve(f, f.start, run, np.random.default_rng(0))
    assert run.converged and run.iterations <= 3


def test_singular_values_where_a_gram_matrix_is_lost():
    "Columns that agree in ten digits: the residual is that of LAPACK's own least squares."
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 1))
    A = np.hstack([base + 1e-10 * rng.normal(size=(200, 3)), rng.normal(size=(200, 2))])
    y = (A[:, 0] - A[:, 1]) * 1e10 + A[:, 4] + 0.1 * rng.normal(size=200)
    f = Composite(A, y, np.ones(200), loss="squared", l2=0.0, fit_intercept=False)
    run = Progress(tol=1e-6, max_iter=20)
    end = by_singular_values(f, run)
    best = np.linalg.lstsq(A, y, rcond=None)[1][0] / 400
    assert run.converged
    assert end.value <= best * (1 + 1e-6)


def test_the_cost_of_a_newton_step():
    f = made(100, 9)
    assert newton_cost(f) == 100 * 9 * 10 + 1000 / 3
