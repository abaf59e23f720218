"""Coordinates in which the Hessian is the identity, and methods that run alone in them."""

import numpy as np
import pytest
from scipy import sparse

from impsamp.linear.composites import Composite, curvatures, hessian
from impsamp.linear.second_order import Progress, newton
from impsamp.linear.whitening import coordinates, rounds, whitened


def problem(kind=np.asarray, n=300, l2=1e-3):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4)) @ rng.normal(size=(4, 4)) * [1, 10, 100, 0.1]
    t = np.sign(X[:, 0] + rng.normal(size=n))
    return Composite(kind(X), t, rng.random(n), loss="logistic", l2=l2)


def test_the_hessian_is_the_identity():
    f = problem()
    theta = np.random.default_rng(1).normal(size=(1, 5)) * 0.01
    Z = f.scores(theta)
    rows, to = coordinates(f, Z, 1e-3)
    inside = Composite(rows, f.t, f.c, loss="logistic", l2=1e-3 / to.scale**2)
    H = hessian(inside, Z)
    features = H[:4, :4] - np.outer(H[:4, 4], H[:4, 4]) / H[4, 4]
    assert np.allclose(features, np.eye(4), atol=1e-8)
    assert np.allclose(rows @ to.enter(theta, True)[:4] + to.enter(theta, True)[4], Z[:, 0])
    assert np.allclose(to.leave(to.enter(theta, True), True), theta)


def test_wide_rows_are_scaled_only():
    A = np.random.default_rng(0).normal(size=(20, 1200)) * 7
    to = whitened(A, np.full(20, 0.05), 0.0, True)
    assert to.M.ndim == 1 and not to.white
    assert np.allclose(((to.rows(A)) ** 2).mean(axis=0), 1)


@pytest.mark.parametrize("method", ["saga", "svrg", "sarah"])
@pytest.mark.parametrize("sampling", ["importance", "uniform"])
def test_methods_alone_reach_the_certificate(method, sampling):
    f = problem()
    best = newton(f, f.start, Progress(tol=1e-10, max_iter=50)).value
    run = Progress(tol=1e-6, max_iter=1000)
    rng = np.random.default_rng(0)
    end = rounds(f, f.start, run, rng, method=method, sampling=sampling)
    assert run.converged and run.iterations <= 1000
    assert end.value - best <= 1e-6 * best


def test_csr_rows_are_scaled_and_not_rotated():
    f = problem(sparse.csr_matrix)
    rows, to = coordinates(f, f.scores(f.start), 1e-3)
    assert sparse.issparse(rows) and to.M.ndim == 1
    assert curvatures("logistic", np.zeros((1, 1)))[0, 0] == 0.25
