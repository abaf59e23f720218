"""Proximal steps against the formula, and their mean over all draws."""

import numpy as np
import pytest
from scipy import sparse

from impsamp.linear.composites import Composite
from impsamp.linear.engines import _csr_rows
from impsamp.linear.proximal_kernels import (
    multinomial_steps,
    prox,
    proximal_steps,
    touch_reweighting,
)

RNG = np.random.default_rng(0)
N, D = 12, 4
A = RNG.normal(size=(N, D)) * (RNG.random((N, D)) < 0.5)
Y = np.sign(RNG.normal(size=N))
P = RNG.random(N)
P /= P.sum()
L1 = 0.03
L2 = 0.2
LR = 0.1


def rows(kind):
    return A if kind == "dense" else _csr_rows(sparse.csr_matrix(A))


def shrink(u, tau):
    return np.sign(u) * np.maximum(np.abs(u) - tau * L1, 0) / (1 + tau * L2)


def reweighting(kind):
    X = A if kind == "dense" else sparse.csr_matrix(A)
    return touch_reweighting(X, P)


@pytest.mark.parametrize("kind", ["dense", "csr"])
@pytest.mark.parametrize("saga", [False, True])
def test_two_steps_are_the_formula(kind, saga):
    d = reweighting(kind)
    x = RNG.normal(size=D + 1)
    g = RNG.normal(size=D + 1)
    h = RNG.normal(size=N)
    mine = x.copy()
    mine_g = g.copy()
    mine_h = h.copy()
    idx = np.array([3, 5])
    item = (Y, np.ones(N), 0, True)
    state = (mine, mine_g, mine_h, 1 / (N * P))
    weights = (d, np.full(D, L1), np.full(D, L2), LR, idx, saga)
    proximal_steps(rows(kind), *item, *state, *weights)
    for i in idx:
        z = A[i] @ x[:D] + x[D]
        change = -Y[i] / (1 + np.exp(Y[i] * z)) - h[i]
        on = np.ones(D, bool) if kind == "dense" else A[i] != 0
        v = change / (N * P[i]) * A[i] + d * g[:D]
        new = shrink(x[:D] - LR * v, LR * d)
        x[:D] = np.where(on, new, x[:D])
        x[D] -= LR * (change / (N * P[i]) + g[D])
        if saga:
            g += change / N * np.r_[A[i], 1]
            h[i] += change
    assert np.allclose(mine, x)
    assert np.allclose(mine_g, g)
    assert np.allclose(mine_h, h)


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_the_mean_step_over_all_draws_is_the_full_gradient(kind):
    "Without penalties E[x - step] = x - lr (full gradient): the reweighting makes P_i g unbiased."
    f = Composite(A, Y, np.ones(N), loss="logistic", l2=0.0)
    x = RNG.normal(size=D + 1)
    anchor = RNG.normal(size=D + 1)
    h = f.slopes(f.scores(anchor[None]))[:, 0] * N
    g = f.gradient(f.scores(anchor[None]), anchor[None])[0]
    mean = np.zeros(D + 1)
    zero = np.zeros(D)
    for i in range(N):
        at = x.copy()
        item = (Y, np.ones(N), 0, True)
        rest = (reweighting(kind), zero, zero, LR, np.array([i]), False)
        proximal_steps(rows(kind), *item, at, g.copy(), h.copy(), 1 / (N * P), *rest)
        mean += P[i] * at
    full = f.gradient(f.scores(x[None]), x[None])[0]
    assert np.allclose(mean, x - LR * full)


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_the_mean_multinomial_step_over_all_draws(kind):
    K = 3
    t = np.arange(N) % K
    f = Composite(A, t, np.ones(N), loss="multinomial", l2=0.0, classes=K)
    x, anchor = RNG.normal(size=(2, K, D + 1))
    h = f.slopes(f.scores(anchor)) * N
    g = np.ascontiguousarray(f.gradient(f.scores(anchor), anchor).T)
    mean = np.zeros((D + 1, K))
    zero = np.zeros(D)
    for i in range(N):
        at = np.ascontiguousarray(x.T)
        rest = (1 / (N * P), reweighting(kind), zero, zero, LR, np.array([i]), False)
        multinomial_steps(rows(kind), t, np.ones(N), True, at, g.copy(), h.copy(), *rest)
        mean += P[i] * at
    full = f.gradient(f.scores(x), x)
    assert np.allclose(mean.T, x - LR * full)


def test_saga_with_a_score_for_each_class_keeps_its_table():
    K = 3
    t = np.arange(N) % K
    f = Composite(A, t, np.ones(N), loss="multinomial", l2=0.0, classes=K)
    x = np.zeros((D + 1, K))
    h = f.slopes(f.scores(f.start)) * N
    g = np.ascontiguousarray(f.gradient(f.scores(f.start), f.start).T)
    zero = np.zeros(D)
    idx = RNG.integers(0, N, size=50)
    rest = (1 / (N * P), np.ones(D), zero, zero, LR, idx, True)
    multinomial_steps(A, t, np.ones(N), True, x, g, h, *rest)
    mean = np.c_[A, np.ones(N)].T @ h / N
    assert np.allclose(g, mean)


def test_the_prox_minimises():
    u = np.linspace(-3, 3, 20001)
    for x in (-2.0, 0.1, 1.3):
        values = (u - x) ** 2 / 2 + 0.5 * np.abs(u) + 0.3 * u**2 / 2
        assert abs(prox(x, 0.5, 0.3) - u[np.argmin(values)]) < 1e-3
