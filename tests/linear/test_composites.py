"""Objective, gradient and Hessian against slow formulas; the duality gap bounds what it claims."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import minimize as scipy_minimize

from impsamp.errors import UnknownName
from impsamp.linear.composites import Composite, best_intercepts, duality_gap, gram, hessian

LOSSES = {"logistic": 1, "squared": 1, "multinomial": 3}


def composite(loss, l1=0.0, l2=0.1, kind=np.asarray, dtype=float, seed=0, n=40):
    rng = np.random.default_rng(seed)
    X = np.round(rng.normal(size=(n, 3)), 2)
    X[::7] = 0
    raw = X[:, 0] + rng.normal(size=n)
    t = {"logistic": np.sign(raw), "squared": raw, "multinomial": np.digitize(raw, [-0.5, 0.5])}
    weight = rng.random(n) + 0.1
    return Composite(
        kind(X.astype(dtype)), t[loss], weight, loss=loss, l2=l2, l1=l1, classes=LOSSES[loss]
    )


def slow_value(f, theta):
    "The formula, item by item."
    X = f.X.toarray() if sparse.issparse(f.X) else f.X
    total = 0.0
    for a, t, c in zip(X, f.t, f.c):
        z = theta[:, :-1] @ a + theta[:, -1]
        if f.loss == "logistic":
            total += c * np.log(1 + np.exp(-t * z[0]))
        elif f.loss == "squared":
            total += c * (z[0] - t) ** 2 / 2
        else:
            total -= c * np.log(np.exp(z[t]) / np.exp(z).sum())
    W = theta[:, :-1]
    return total + 0.5 * (f.l2 * W**2).sum() + (f.l1 * np.abs(W)).sum()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_values_and_derivatives(loss, kind):
    f = composite(loss, l1=0.2, kind=kind)
    theta = np.random.default_rng(1).normal(size=(f.K, f.d))
    assert np.isclose(f.value(f.scores(theta), theta), slow_value(f, theta))
    f = composite(loss, kind=kind)
    H = hessian(f, f.scores(theta))
    G = f.gradient(f.scores(theta), theta).ravel()
    for j in range(theta.size):
        e = np.zeros(theta.size)
        e[j] = 1e-5
        e = e.reshape(theta.shape)
        slope = (slow_value(f, theta + e) - slow_value(f, theta - e)) / 2e-5
        assert np.isclose(slope, G[j], atol=1e-8)
        up, down = theta + e, theta - e
        bend = f.gradient(f.scores(up), up) - f.gradient(f.scores(down), down)
        column = bend.ravel() / 2e-5
        free = loss == "multinomial" and j % f.d == f.d - 1
        if not free:  # an intercept's column has the unit of curvature of the common shift besides
            assert np.allclose(np.delete(column, slice(f.d - 1, None, f.d)), H[j][not_last(f)])


def not_last(f):
    return np.arange(f.K * f.d) % f.d != f.d - 1


@settings(max_examples=40, deadline=None)
@given(
    loss=st.sampled_from(list(LOSSES)),
    penalties=st.sampled_from([(0.0, 0.1), (0.05, 0.1), (0.05, 0.0)]),
    seed=st.integers(0, 10**6),
    size=st.floats(0.0, 3.0),
)
def test_the_gap_bounds_the_distance_to_every_other_point(loss, penalties, seed, size):
    "F - gap is a lower bound of F, at any point against any other; tight where both penalties are."
    l1, l2 = penalties
    f = composite(loss, l1=l1, l2=l2, seed=seed % 5)
    rng = np.random.default_rng(seed)
    theta = size * rng.normal(size=(f.K, f.d))
    theta[:, -1] += best_intercepts(f, theta, f.scores(theta))
    gap, value = duality_gap(f, f.scores(theta), theta)
    for scale in (0.0, 0.1, 1.0):
        other = scale * rng.normal(size=(f.K, f.d))
        assert value - gap <= f.value(f.scores(other), other) + 1e-10


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gap_closes_at_the_minimum(loss):
    f = composite(loss)

    def objective(x):
        theta = x.reshape(f.K, f.d)
        Z = f.scores(theta)
        return f.value(Z, theta), f.gradient(Z, theta).ravel()

    found = scipy_minimize(objective, f.start.ravel(), jac=True, options=dict(gtol=1e-10))
    theta = found.x.reshape(f.K, f.d)
    theta[:, -1] += best_intercepts(f, theta, f.scores(theta))
    assert duality_gap(f, f.scores(theta), theta)[0] < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_rows_give_the_gradient_of_those_rows_in_float64(loss):
    small = composite(loss, dtype=np.float32)
    same = composite(loss, dtype=np.float32)
    same.X = small.X.astype(np.float64)
    theta = np.random.default_rng(1).normal(size=(small.K, small.d))
    Z = same.scores(theta)
    assert np.allclose(small.scores(theta), Z, rtol=1e-13)
    assert np.allclose(small.gradient(Z, theta), same.gradient(Z, theta), rtol=1e-12, atol=1e-15)
    assert np.allclose(hessian(small, Z), hessian(same, Z), rtol=1e-12)


def test_gram_of_sparse_rows_and_of_blocks():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(9000, 4)) * (rng.random((9000, 4)) < 0.5)
    r = rng.normal(size=9000)
    ones = np.hstack([A, np.ones((9000, 1))])
    right = ones.T @ (ones * r[:, None])
    assert np.allclose(gram(A, r, True), right)
    assert np.allclose(gram(sparse.csr_matrix(A), r, True), right)


def test_without_a_penalty_the_gap_is_infinite():
    f = composite("logistic", l2=0.0)
    assert duality_gap(f, f.scores(f.start), f.start)[0] == np.inf


def test_an_unknown_loss():
    with pytest.raises(UnknownName, match="hinge"):
        Composite(np.ones((2, 1)), np.ones(2), np.ones(2), loss="hinge", l2=1.0)
