"""Lemma 1 on arbitrary laws of subsets, Lemma 2 against brute force, step sizes against the recursions and by running the proofs."""

from fractions import Fraction as F
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import (
    InvalidArgument,
    InvalidProbabilities,
    InvalidScores,
    InvalidShape,
    UnknownName,
)
from impsamp.samplers import (
    ApproximateIndependentSampling,
    IndependentSampling,
    NiceSampling,
    SerialSampling,
)
from impsamp.theory.minibatch import (
    StepSize,
    alpha,
    gammas,
    gradient_evaluations,
    minibatch_probabilities,
    step_size,
    table_updates,
    variance_factors,
)

SAMPLINGS = [
    NiceSampling(6, 3),
    IndependentSampling(np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])),
    ApproximateIndependentSampling(np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])),
    SerialSampling(np.array([0.1, 0.2, 0.3, 0.15, 0.15, 0.1])),
]


def subsets(n):
    return np.array(list(product((0, 1), repeat=n)), dtype=float)


def water_fill(L, b):
    "Lemma 2 in fractions: try every number of certain items, from the largest L down."
    L = [F(x) for x in L]
    order = sorted(range(len(L)), key=lambda i: L[i])
    for certain in range(len(L)):
        free = order[: len(L) - certain]
        total = sum(L[i] for i in free)
        p = {i: (b - certain) * L[i] / total for i in free} | {
            i: F(1) for i in order[len(L) - certain :]
        }
        if b - certain > 0 and all(x <= 1 for x in p.values()):
            return [p[i] for i in range(len(L))]
    return [F(1)] * len(L)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.data())
def test_minibatch_probabilities_are_the_water_filling_in_fractions(L, data):
    b = F(data.draw(st.integers(1, 4 * len(L))), 4)
    p = minibatch_probabilities(L, float(b))
    assert np.allclose(
        p, np.array(water_fill(L, b), dtype=float), atol=1e-12
    ) and p.sum() == pytest.approx(float(b), abs=1e-9)
    assert (p <= 1).all() and (p > 0).all()


def test_minibatch_probabilities_keep_order_kind_and_scale():
    L = torch.tensor([5.0, 1.0, 3.0, 0.0], dtype=torch.float32)
    p = minibatch_probabilities(L, 2)
    assert isinstance(p, torch.Tensor) and p.dtype == torch.float64 and p[3] == 0
    assert np.allclose(minibatch_probabilities(L.numpy() * 1e-30, 2), p) and np.allclose(
        minibatch_probabilities(L.numpy()[::-1], 2), p.numpy()[::-1]
    )
    g = np.array([1.0, 2.0, 5.0])
    assert np.allclose(
        minibatch_probabilities(g, 1), g / g.sum()
    )  # b = 1: the first paper's optimum
    assert (
        minibatch_probabilities([0.0, 2.0, 7.0], 2) == [0, 1, 1]
    ).all() and minibatch_probabilities([3.0], 1) == [1.0]


def test_importance_is_never_worse_than_nice():
    rng = np.random.default_rng(0)
    for _ in range(200):
        L, b = rng.pareto(1.5, 9) + 0.01, int(rng.integers(1, 9))
        p = minibatch_probabilities(L, b)
        best = alpha(L, p, 1 - p)
        assert best <= alpha(L, np.full(9, b / 9), np.full(9, (9 - b) / 8)) + 1e-12
        q = rng.uniform(0.05, 1, 9)
        q *= b / q.sum()
        if (q <= 1).all():
            assert best <= alpha(L, q, 1 - q) + 1e-12


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda s: type(s).__name__)
def test_variance_factors_agree_with_the_samplers_own(sampling):
    assert np.allclose(variance_factors(sampling), np.asarray(sampling.v), atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6))
def test_lemma_1_for_arbitrary_laws(seed):
    "Any law on the subsets of four items: matrix inequality, lower bound of v, and the bound on random vectors, by enumeration."
    rng = np.random.default_rng(seed)
    S, law = subsets(4), rng.dirichlet(np.full(16, rng.choice([0.2, 1.0, 5.0])))
    P = S.T @ (law[:, None] * S)
    p = np.diag(P).copy()
    if p.min() < 1e-6:
        return
    v = variance_factors(P)
    assert np.linalg.eigvalsh(np.diag(p * v) - P + np.outer(p, p))[0] > -1e-9
    assert (v >= 1 - p - 1e-9).all() and (v <= 4 * (1 - p) + 1e-9).all()
    z = rng.normal(size=(4, 2))
    error = law @ ((((S / (4 * p)) @ z) - z.mean(0)) ** 2).sum(1)
    assert error <= (v / p * (z**2).sum(1)).sum() / 16 + 1e-9


def test_alpha_at_points_without_rounding():
    p, v = [F(1, 2), F(1, 4), F(1), F(1, 4)], [F(1, 2), F(3, 4), F(0), F(3, 4)]  # mean L = 2, b = 2
    exact = 2 * sum(vi * x**2 / pi for vi, pi, x in zip(v, p, (1, 2, 4, 1))) / 16 / 4
    assert F(alpha([1, 2, 4, 1], [float(x) for x in p], [float(x) for x in v])) == exact == F(1, 2)
    assert (
        alpha([0.0, 1.0], [0.0, 1.0], [1.0, 0.0]) == 0
        and alpha([1.0, 1.0], [0.0, 1.0], [1.0, 0.0]) == np.inf
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_gammas_equal_the_recursion(seed):
    rng = np.random.default_rng(seed)
    n, b, a, L = (
        int(rng.integers(2, 500)),
        rng.uniform(0.5, 20),
        rng.exponential(),
        rng.exponential() + 0.1,
    )
    lr, refresh, steps = (
        rng.uniform(0.001, 0.5) / L,
        rng.choice([0.0, 0.05, 0.5]),
        int(rng.integers(1, 60)),
    )
    beta, c, slow = L / n ** (1 / 3), 0.0, []
    for _ in range(steps):
        slow.append((lr - c * lr / beta - lr**2 * L / 2 - c * lr**2) / lr)
        c = c * (1 - refresh + lr * beta + lr**2 * a * L**2 / b) + lr**2 * a * L**3 / (2 * b)
    fast = gammas(lr, n=n, b=b, alpha=a, L_mean=L, steps=steps, refresh=refresh)
    assert np.allclose(fast, slow[::-1], rtol=1e-9, atol=1e-9) and (np.diff(fast) >= -1e-12).all()


@pytest.mark.parametrize("mu", [0.25, 0.5])
def test_closed_forms_keep_what_the_theorems_promise(mu):
    rng = np.random.default_rng(0)
    for _ in range(500):
        n, a = int(10 ** rng.uniform(0.5, 7)), 10 ** rng.uniform(-2, 2.5)
        b = rng.uniform(0.2, 1) * min(n, a * n ** (2 / 3))
        r = mu * n ** (-1 / 3)
        step = step_size("svrg", n=n, b=b, alpha=a, L_mean=3.0, mu=mu)
        assert step.rule == "closed form" and step.lr == pytest.approx(
            mu * b / (a * 3 * n ** (2 / 3))
        )
        assert step.inner_steps == int(a * n / (2 * mu * b))
        if step.inner_steps < 10**6:
            assert (
                gammas(step.lr, n=n, b=b, alpha=a, L_mean=3.0, steps=step.inner_steps)[0]
                >= 1 - mu / 2 * np.exp((1 + r) / 2) - 1e-9
            )
        if mu == 0.25:
            J = table_updates(n, b, a)
            kept = gammas(
                step_size("saga", n=n, b=b, alpha=a, L_mean=3.0).lr,
                n=n,
                b=b,
                alpha=a,
                L_mean=3.0,
                steps=None,
                refresh=J / n,
            )
            assert kept >= 1 - mu / 2 - mu**2 / 2 * (1 + r) / (1 - mu * (1 + r)) - 1e-9


def test_a_universal_constant_of_0_59_does_not_hold_for_mu_one_half():
    n, b = 10**6, 9_999
    assert (
        0.5868
        < gammas(0.5 * b / n ** (2 / 3), n=n, b=b, alpha=1.0, L_mean=1.0, steps=n // b)[0]
        < 0.59
    )


def test_computed_steps_are_the_largest():
    for method, refresh in (("svrg", 0.0), ("saga", table_updates(690, 10, 0.028) / 690)):
        step = step_size(method, n=690, b=10, alpha=0.028, L_mean=2.0)
        assert step.rule == "computed Gamma"
        betas = 2 * 690 ** (-1 / 3) * np.geomspace(1e-2, 1e3, 101)

        def least(lr):
            return max(
                np.min(
                    gammas(
                        lr,
                        n=690,
                        b=10,
                        alpha=0.028,
                        L_mean=2.0,
                        steps=step.inner_steps,
                        beta=x,
                        refresh=refresh,
                    )
                )
                for x in betas
            )

        assert least(step.lr) >= 0.5 - 1e-9 and least(step.lr * 1.001) < 0.5
    assert (
        step_size("svrg", n=690, b=10, alpha=207.0, L_mean=1.0, inner_steps=69).rule
        == "computed Gamma"
    )  # a given m leaves the closed form


def test_sarah_step_is_the_root_of_its_condition():
    for a, b, m, L in ((0.5, 3.0, 40, 2.0), (7.0, 1.0, 5, 0.1), (0.0, 5.0, 9, 1.0)):
        lr, steps, rule = step_size("sarah", n=50, b=b, alpha=a, L_mean=L, inner_steps=m)
        assert a * m / b * (lr * L) ** 2 + lr * L == pytest.approx(1) and (steps, rule) == (
            m,
            "closed form",
        )
    assert (
        step_size("sarah", n=50, b=7, alpha=1.0, L_mean=1.0).inner_steps == 7
        and step_size("sarah", n=5, b=5, alpha=0.0, L_mean=1.0).inner_steps == 1
    )


def test_sarah_bound_holds_for_every_path():
    "Two inner steps on random nonconvex quadratics, all pairs of subsets: E||grad f(x_a)||^2 <= 2 (f(x0) - min over a ball)/(lr (m + 1))."
    rng = np.random.default_rng(0)
    for _ in range(10):
        A = rng.normal(size=(3, 2, 2))
        A = (A + A.transpose(0, 2, 1)) / 2 + np.eye(2) * 0.2
        mean, L = A.mean(0), np.abs(np.linalg.eigvalsh(A)).max(1)
        if np.linalg.eigvalsh(mean)[0] < 0.05:
            continue
        p = minibatch_probabilities(L, 1.5)
        S = subsets(3)
        law = np.prod(np.where(S == 1, p, 1 - p), axis=1)
        m, lr = (
            2,
            step_size(
                "sarah", n=3, b=1.5, alpha=alpha(L, p, 1 - p), L_mean=L.mean(), inner_steps=2
            ).lr,
        )
        x0 = rng.normal(size=2)
        g0 = mean @ x0
        x1 = x0 - lr * g0
        total = (g0**2).sum() + ((mean @ x1) ** 2).sum()
        for w, s in zip(law, S):
            v1 = g0 + (s / (3 * p)) @ (A @ (x1 - x0))
            x2 = x1 - lr * v1
            total += w * ((mean @ x2) ** 2).sum()
        assert total / (m + 1) <= 2 * (x0 @ mean @ x0 / 2) / (lr * (m + 1)) + 1e-12


def test_gradient_evaluations_by_hand():
    # SVRG: lr = 1/40, m = 200, share from the recursion; SAGA: J = 10; SARAH, alpha = 0: m + 1 = 2 gap/tol
    share = gammas(1 / 40, n=1000, b=10, alpha=1.0, L_mean=1.0, steps=200)[0]
    T = np.ceil(1 / (share / 40 * 0.01))
    common = dict(n=1000, b=10, alpha=1.0, L_mean=1.0, gap=1.0, tol=0.01)
    assert gradient_evaluations("svrg", **common) == 1000 * np.ceil(T / 200) + 20 * T
    assert (
        gradient_evaluations("sarah", n=1000, b=10, alpha=0.0, L_mean=1.0, gap=1.0, tol=0.01)
        == 1000 + 20 * 199
    )
    kept = float(gammas(1 / 40, n=1000, b=10, alpha=1.0, L_mean=1.0, steps=None, refresh=0.01))
    assert gradient_evaluations("saga", **common) == 1000 + np.ceil(1 / (kept / 40 * 0.01)) * 20


@pytest.mark.parametrize(
    "b, a, L, gap, tol",
    [
        (1.0, 0.8, 1.0, 1.0, 0.1),
        (10.0, 0.03, 2.0, 3.0, 0.01),
        (10.0, 5.0, 0.5, 1.0, 0.3),
        (3.0, 40.0, 1.0, 2.0, 0.5),
    ],
)
def test_sarah_runs_just_long_enough(b, a, L, gap, tol):
    "The least m whose bound 2 gap/(lr (m + 1)) is at most tol: m does, m - 1 does not."
    m = round(
        (gradient_evaluations("sarah", n=100, b=b, alpha=a, L_mean=L, gap=gap, tol=tol) - 100)
        / (2 * b)
    )

    def bound(m):
        return (
            2
            * gap
            / (step_size("sarah", n=100, b=b, alpha=a, L_mean=L, inner_steps=m).lr * (m + 1))
        )

    assert bound(m) <= tol < bound(m - 1)


BAD = [
    (lambda: minibatch_probabilities([1.0, 0.0], 2), InvalidArgument, "exceeds the 1 items"),
    (lambda: minibatch_probabilities([1.0, 2.0], 0), InvalidArgument, "b must be"),
    (lambda: minibatch_probabilities([1.0, 2.0], 3), InvalidArgument, "exceeds"),
    (lambda: minibatch_probabilities([0.0, 0.0], 1), InvalidScores, "all zero"),
    (lambda: minibatch_probabilities([1.0, float("nan")], 1), InvalidScores, "not finite"),
    (lambda: minibatch_probabilities([], 1), InvalidShape, "empty"),
    (lambda: variance_factors([[0.5, 0.2], [0.3, 0.5]]), InvalidProbabilities, "symmetric"),
    (lambda: variance_factors([[0.5, 0.6], [0.6, 0.5]]), InvalidProbabilities, "min"),
    (lambda: variance_factors([[0.0, 0.0], [0.0, 0.5]]), InvalidProbabilities, "zero at index 0"),
    (lambda: variance_factors([[0.5, 0.2]]), InvalidShape, "square"),
    (lambda: alpha([1.0, 1.0], [0.5, 1.5], [1.0, 1.0]), InvalidProbabilities, "exceeds 1"),
    (lambda: alpha([1.0, 1.0], [0.5, 0.5], [1.0, -1.0]), InvalidScores, "negative"),
    (lambda: alpha([1.0, 1.0], [0.5], [1.0, 1.0]), InvalidShape, "entries"),
    (lambda: step_size("sgav", n=10, b=1, alpha=1.0, L_mean=1.0), UnknownName, "choose from"),
    (lambda: step_size("svrg", n=10, b=11, alpha=1.0, L_mean=1.0), InvalidArgument, "b must be"),
    (lambda: step_size("svrg", n=10, b=1, alpha=-1.0, L_mean=1.0), InvalidArgument, "alpha"),
    (
        lambda: step_size("svrg", n=10, b=1, alpha=float("inf"), L_mean=1.0),
        InvalidArgument,
        "alpha",
    ),
    (lambda: step_size("sarah", n=10, b=1, alpha=1.0, L_mean=0.0), InvalidArgument, "L_mean"),
    (
        lambda: step_size("sarah", n=10, b=1, alpha=1.0, L_mean=1.0, inner_steps=0),
        InvalidArgument,
        "inner_steps",
    ),
    (lambda: step_size("svrg", n=10, b=1, alpha=1.0, L_mean=1.0, mu=0.9), InvalidArgument, "mu"),
    (
        lambda: gradient_evaluations("svrg", n=10, b=1, alpha=1.0, L_mean=1.0, gap=0.0, tol=1.0),
        InvalidArgument,
        "gap",
    ),
    (lambda: table_updates(10, -1, 1.0), InvalidArgument, "b must be"),
]


@pytest.mark.parametrize("call, error, words", BAD, ids=range(len(BAD)))
def test_bad_input_is_refused_with_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_step_size_is_a_plain_triple():
    lr, inner_steps, rule = step_size("saga", n=100, b=5, alpha=1.0, L_mean=1.0)
    assert (
        isinstance(step_size("sarah", n=9, b=1, alpha=1.0, L_mean=1.0), StepSize)
        and type(lr) is float
        and inner_steps is None
        and rule == "closed form"
    )
    assert (
        step_size("svrg", n=10, b=10 * (1 + 1e-12), alpha=0.0, L_mean=1.0).lr == 1
    )  # sum p = n up to rounding
