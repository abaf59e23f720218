"""Lemma 1 on arbitrary laws, Lemma 2 against brute force, step sizes against the recursions."""

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

ONE_CERTAIN = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
SAMPLINGS = [
    NiceSampling(6, 3),
    IndependentSampling(ONE_CERTAIN),
    ApproximateIndependentSampling(ONE_CERTAIN),
    SerialSampling(np.array([0.1, 0.2, 0.3, 0.15, 0.15, 0.1])),
]


def subsets(n):
    return np.array(list(product((0, 1), repeat=n)), dtype=float)


def water_fill(L, b):
    "Lemma 2 in fractions: try every number of certain items, from the largest L down."
    n = len(L)
    L = [F(x) for x in L]
    order = sorted(range(n), key=lambda i: L[i])
    for certain in range(n):
        free = order[: n - certain]
        total = sum(L[i] for i in free)
        p = [F(1)] * n
        for i in free:
            p[i] = (b - certain) * L[i] / total
        if b - certain > 0 and max(p) <= 1:
            return p
    return [F(1)] * n


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.data())
def test_minibatch_probabilities_are_the_water_filling_in_fractions(L, data):
    b = F(data.draw(st.integers(1, 4 * len(L))), 4)
    p = minibatch_probabilities(L, float(b))
    assert np.allclose(p, np.array(water_fill(L, b), dtype=float), atol=1e-12)
    assert p.sum() == pytest.approx(float(b), abs=1e-9)
    assert (p <= 1).all()
    assert (p > 0).all()


def test_minibatch_probabilities_keep_order_kind_and_scale():
    L = torch.tensor([5.0, 1.0, 3.0, 0.0], dtype=torch.float32)
    p = minibatch_probabilities(L, 2)
    assert isinstance(p, torch.Tensor)
    assert p.dtype == torch.float64
    assert p[3] == 0
    assert np.allclose(minibatch_probabilities(L.numpy() * 1e-30, 2), p)
    assert np.allclose(minibatch_probabilities(L.numpy()[::-1], 2), p.numpy()[::-1])


def test_minibatch_probabilities_at_the_ends_of_b():
    g = np.array([1.0, 2.0, 5.0])
    assert np.allclose(minibatch_probabilities(g, 1), g / g.sum())  # the first paper's optimum
    assert (minibatch_probabilities([0.0, 2.0, 7.0], 2) == [0, 1, 1]).all()
    assert minibatch_probabilities([3.0], 1) == [1.0]


def test_importance_is_never_worse_than_nice():
    rng = np.random.default_rng(0)
    for _ in range(200):
        L = rng.pareto(1.5, 9) + 0.01
        b = int(rng.integers(1, 9))
        p = minibatch_probabilities(L, b)
        best = alpha(L, p, 1 - p)
        nice = alpha(L, np.full(9, b / 9), np.full(9, (9 - b) / 8))
        assert best <= nice + 1e-12
        q = rng.uniform(0.05, 1, 9)
        q *= b / q.sum()
        if (q <= 1).all():
            assert best <= alpha(L, q, 1 - q) + 1e-12


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda s: type(s).__name__)
def test_variance_factors_agree_with_the_samplers_own(sampling):
    assert np.allclose(variance_factors(sampling), np.asarray(sampling.v), atol=1e-12)


class OnlyPairs:
    "A sampling of one's own that does not know its v."

    def pairwise_probabilities(self):
        return np.outer(ONE_CERTAIN, ONE_CERTAIN) + np.diag(ONE_CERTAIN * (1 - ONE_CERTAIN))


def test_variance_factors_ask_only_for_the_pairs():
    assert np.allclose(variance_factors(OnlyPairs()), 1 - ONE_CERTAIN, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6))
def test_lemma_1_for_arbitrary_laws(seed):
    "The matrix inequality, bounds of v and the bound on random vectors, by enumeration."
    rng = np.random.default_rng(seed)
    S = subsets(4)
    law = rng.dirichlet(np.full(16, rng.choice([0.2, 1.0, 5.0])))
    P = S.T @ (law[:, None] * S)
    p = np.diag(P).copy()
    if p.min() < 1e-6:
        return
    v = variance_factors(P)
    assert np.linalg.eigvalsh(np.diag(p * v) - P + np.outer(p, p))[0] > -1e-9
    assert (v >= 1 - p - 1e-9).all()
    assert (v <= 4 * (1 - p) + 1e-9).all()
    z = rng.normal(size=(4, 2))
    estimates = (S / (4 * p)) @ z
    error = law @ ((estimates - z.mean(0)) ** 2).sum(1)
    bound = (v / p * (z**2).sum(1)).sum() / 16
    assert error <= bound + 1e-9


def test_alpha_at_points_without_rounding():
    L = [1, 2, 4, 1]  # mean 2
    p = [F(1, 2), F(1, 4), F(1), F(1, 4)]  # b = 2
    v = [F(1, 2), F(3, 4), F(0), F(3, 4)]
    exact = 2 * sum(vi * x**2 / pi for vi, pi, x in zip(v, p, L)) / 16 / 4
    assert exact == F(1, 2)
    assert F(alpha(L, [float(x) for x in p], [float(x) for x in v])) == exact


def test_alpha_of_an_item_that_is_never_drawn():
    assert alpha([0.0, 1.0], [0.0, 1.0], [1.0, 0.0]) == 0
    assert alpha([1.0, 1.0], [0.0, 1.0], [1.0, 0.0]) == np.inf


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_gammas_equal_the_recursion(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 500))
    b = rng.uniform(0.5, 20)
    a = rng.exponential()
    L = rng.exponential() + 0.1
    lr = rng.uniform(0.001, 0.5) / L
    refresh = rng.choice([0.0, 0.05, 0.5])
    steps = int(rng.integers(1, 60))

    beta = L / n ** (1 / 3)
    growth = 1 - refresh + lr * beta + lr**2 * a * L**2 / b
    source = lr**2 * a * L**3 / (2 * b)
    c = 0.0
    slow = []
    for _ in range(steps):
        slow.append((lr - c * lr / beta - lr**2 * L / 2 - c * lr**2) / lr)
        c = c * growth + source
    fast = gammas(lr, n=n, b=b, alpha=a, L_mean=L, steps=steps, refresh=refresh)
    assert np.allclose(fast, slow[::-1], rtol=1e-9, atol=1e-9)
    assert (np.diff(fast) >= -1e-12).all()


def random_closed_forms(seed, cases):
    "Constants for which the closed forms apply."
    rng = np.random.default_rng(seed)
    for _ in range(cases):
        n = int(10 ** rng.uniform(0.5, 7))
        a = 10 ** rng.uniform(-2, 2.5)
        b = rng.uniform(0.2, 1) * min(n, a * n ** (2 / 3))
        yield dict(n=n, b=b, alpha=a, L_mean=3.0)


@pytest.mark.parametrize("mu", [0.25, 0.5])
def test_closed_form_of_svrg_keeps_what_the_theorem_promises(mu):
    for known in random_closed_forms(0, 500):
        n, b, a, _ = known.values()
        r = mu * n ** (-1 / 3)
        step = step_size("svrg", mu=mu, **known)
        assert step.rule == "closed form"
        assert step.lr == pytest.approx(mu * b / (a * 3 * n ** (2 / 3)))
        assert step.inner_steps == int(a * n / (2 * mu * b))
        if step.inner_steps < 10**6:
            kept = gammas(step.lr, steps=step.inner_steps, **known)[0]
            assert kept >= 1 - mu / 2 * np.exp((1 + r) / 2) - 1e-9


def test_closed_form_of_saga_keeps_what_the_theorem_promises():
    mu = 0.25
    for known in random_closed_forms(0, 500):
        n, b, a, _ = known.values()
        r = mu * n ** (-1 / 3)
        lr = step_size("saga", **known).lr
        kept = gammas(lr, steps=None, refresh=table_updates(n, b, a) / n, **known)
        assert kept >= 1 - mu / 2 - mu**2 / 2 * (1 + r) / (1 - mu * (1 + r)) - 1e-9


def test_a_universal_constant_of_0_59_does_not_hold_for_mu_one_half():
    n = 10**6
    b = 9_999
    lr = 0.5 * b / n ** (2 / 3)
    least = gammas(lr, n=n, b=b, alpha=1.0, L_mean=1.0, steps=n // b)[0]
    assert 0.5868 < least < 0.59


AUSTRALIAN = dict(n=690, b=10, alpha=0.028, L_mean=2.0)
NO_REFRESH = 0.0
REFRESH = table_updates(690, 10, 0.028) / 690


@pytest.mark.parametrize("method, refresh", [("svrg", NO_REFRESH), ("saga", REFRESH)])
def test_computed_steps_are_the_largest(method, refresh):
    step = step_size(method, **AUSTRALIAN)
    assert step.rule == "computed Gamma"
    betas = 2 * 690 ** (-1 / 3) * np.geomspace(1e-2, 1e3, 101)
    options = dict(steps=step.inner_steps, refresh=refresh, **AUSTRALIAN)

    def least(lr):
        return max(np.min(gammas(lr, beta=beta, **options)) for beta in betas)

    assert least(step.lr) >= 0.5 - 1e-9
    assert least(step.lr * 1.001) < 0.5


def test_a_given_m_leaves_the_closed_form():
    step = step_size("svrg", n=690, b=10, alpha=207.0, L_mean=1.0, inner_steps=69)
    assert step.rule == "computed Gamma"


@pytest.mark.parametrize(
    "a, b, m, L", [(0.5, 3.0, 40, 2.0), (7.0, 1.0, 5, 0.1), (0.0, 5.0, 9, 1.0)]
)
def test_sarah_step_is_the_root_of_its_condition(a, b, m, L):
    lr, steps, rule = step_size("sarah", n=50, b=b, alpha=a, L_mean=L, inner_steps=m)
    assert a * m / b * (lr * L) ** 2 + lr * L == pytest.approx(1)
    assert steps == m
    assert rule == "closed form"


def test_sarah_takes_one_pass_by_default():
    assert step_size("sarah", n=50, b=7, alpha=1.0, L_mean=1.0).inner_steps == 7
    assert step_size("sarah", n=5, b=5, alpha=0.0, L_mean=1.0).inner_steps == 1


def convex_means(seed, cases):
    "(A (3, 2, 2), x0 (2,)) of random nonconvex quadratics whose mean is convex."
    rng = np.random.default_rng(seed)
    for _ in range(cases):
        A = rng.normal(size=(3, 2, 2))
        A = (A + A.transpose(0, 2, 1)) / 2 + np.eye(2) * 0.2
        if np.linalg.eigvalsh(A.mean(0))[0] >= 0.05:
            yield A, rng.normal(size=2)


def test_sarah_bound_holds_for_every_path():
    """Two inner steps, all subsets: E||grad f(x_a)||^2 <= 2 (f(x0) - min f)/(lr (m + 1))."""
    m = 2
    done = 0
    for A, x0 in convex_means(0, 60):
        mean = A.mean(0)
        L = np.abs(np.linalg.eigvalsh(A)).max(1)
        p = minibatch_probabilities(L, 1.5)
        known = dict(n=3, b=1.5, alpha=alpha(L, p, 1 - p), L_mean=L.mean())
        lr = step_size("sarah", inner_steps=m, **known).lr

        g0 = mean @ x0
        x1 = x0 - lr * g0
        total = (g0**2).sum() + ((mean @ x1) ** 2).sum()
        for S in subsets(3):
            probability = np.prod(np.where(S == 1, p, 1 - p))
            v1 = g0 + (S / (3 * p)) @ (A @ (x1 - x0))
            x2 = x1 - lr * v1
            total += probability * ((mean @ x2) ** 2).sum()
        gap = x0 @ mean @ x0 / 2
        assert total / (m + 1) <= 2 * gap / (lr * (m + 1)) + 1e-12
        done += 1
    assert done >= 10


KNOWN = dict(n=1000, b=10, alpha=1.0, L_mean=1.0)
TARGET = dict(gap=1.0, tol=0.01)


def test_gradient_evaluations_of_svrg_by_hand():
    "lr = 1/40, m = 200; the share is that of the recursion."
    share = gammas(1 / 40, steps=200, **KNOWN)[0]
    T = np.ceil(1 / (share / 40 * 0.01))
    assert gradient_evaluations("svrg", **KNOWN, **TARGET) == 1000 * np.ceil(T / 200) + 20 * T


def test_gradient_evaluations_of_saga_by_hand():
    "lr = 1/40, J = 10: ten gradients for the estimate, ten for the table."
    share = float(gammas(1 / 40, steps=None, refresh=0.01, **KNOWN))
    T = np.ceil(1 / (share / 40 * 0.01))
    assert gradient_evaluations("saga", **KNOWN, **TARGET) == 1000 + T * 20


def test_gradient_evaluations_of_sarah_by_hand():
    "alpha = 0: m + 1 = 2 gap/tol."
    known = {**KNOWN, "alpha": 0.0}
    assert gradient_evaluations("sarah", **known, **TARGET) == 1000 + 20 * 199


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
    known = dict(n=100, b=b, alpha=a, L_mean=L)
    m = round((gradient_evaluations("sarah", gap=gap, tol=tol, **known) - 100) / (2 * b))

    def bound(m):
        lr = step_size("sarah", inner_steps=m, **known).lr
        return 2 * gap / (lr * (m + 1))

    assert bound(m) <= tol < bound(m - 1)


def step(method="svrg", **options):
    return step_size(method, **{"n": 10, "b": 1, "alpha": 1.0, "L_mean": 1.0, **options})


def evaluations(**options):
    known = dict(n=10, b=1, alpha=1.0, L_mean=1.0, gap=1.0, tol=1.0)
    return gradient_evaluations("svrg", **{**known, **options})


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
    (lambda: step("sgav"), UnknownName, "choose from"),
    (lambda: step(b=11), InvalidArgument, "b must be"),
    (lambda: step(alpha=-1.0), InvalidArgument, "alpha"),
    (lambda: step(alpha=float("inf")), InvalidArgument, "alpha"),
    (lambda: step("sarah", L_mean=0.0), InvalidArgument, "L_mean"),
    (lambda: step("sarah", inner_steps=0), InvalidArgument, "inner_steps"),
    (lambda: step(mu=0.9), InvalidArgument, "mu"),
    (lambda: evaluations(gap=0.0), InvalidArgument, "gap"),
    (lambda: table_updates(10, -1, 1.0), InvalidArgument, "b must be"),
]


@pytest.mark.parametrize("call, error, words", BAD, ids=range(len(BAD)))
def test_bad_input_is_refused_with_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_step_size_is_a_plain_triple():
    lr, inner_steps, rule = step_size("saga", n=100, b=5, alpha=1.0, L_mean=1.0)
    assert type(lr) is float
    assert inner_steps is None
    assert rule == "closed form"
    assert isinstance(step_size("sarah", n=9, b=1, alpha=1.0, L_mean=1.0), StepSize)


def test_a_batch_of_all_items_may_exceed_n_by_rounding():
    assert step_size("svrg", n=10, b=10 * (1 + 1e-12), alpha=0.0, L_mean=1.0).lr == 1
