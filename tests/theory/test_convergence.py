"""Closed forms of S(p) for SGD and momentum against what torch does, and against the definition."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidScores, InvalidShape
from impsamp.theory.convergence import (
    check_step,
    convergence_speed_momentum,
    convergence_speed_sgd,
    optimal_probabilities,
    second_moment,
)
from tests.theory.helpers import (
    GRADS,
    STAR,
    THETA,
    TOLERANCE,
    P,
    definition,
    enumerated,
    exactly,
    setting,
    shuffled,
)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_sgd_speed_is_what_torch_sgd_does(seed, batch):
    problem, _ = setting(seed)
    real, _, _ = enumerated(lambda q: torch.optim.SGD(q, lr=0.3), problem, batch=batch)
    assert abs(convergence_speed_sgd(*problem, lr=0.3, batch=batch) - real) < TOLERANCE


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [1, 2])
def test_momentum_speed_is_what_torch_sgd_with_momentum_does(seed, batch):
    problem, warm = setting(seed)
    hyper = dict(lr=0.3, momentum=0.5)
    real, state, _ = enumerated(lambda q: torch.optim.SGD(q, **hyper), problem, warm, batch)
    ours = convergence_speed_momentum(*problem, state["momentum_buffer"], batch=batch, **hyper)
    assert abs(ours - real) < TOLERANCE


@pytest.mark.parametrize("seed", range(8))
def test_sgd_and_momentum_equal_the_definition_exactly(seed):
    rng, p = shuffled(seed)
    pythagorean = np.array([[3, 4], [-5, 12], [8, 15], [0, -1]])  # whole norms
    grads = pythagorean[rng.permutation(4)] * rng.integers(1, 4, (4, 1))
    theta, star, velocity = rng.integers(-9, 10, (3, 2))
    eta = sp.Rational(1, 4)
    mu = sp.Rational(1, 2)
    q = [float(x) for x in p]

    def sgd(G):
        return [eta * x for x in G]

    def momentum(G):
        return [eta * (mu * int(v) + x) for v, x in zip(velocity, G)]

    ours = convergence_speed_sgd(q, grads, theta, star, lr=0.25)
    assert exactly(ours) == definition(p, grads, theta, star, sgd)
    ours = convergence_speed_momentum(q, grads, theta, star, velocity, lr=0.25, momentum=0.5)
    assert exactly(ours) == definition(p, grads, theta, star, momentum)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_second_moment_is_least_at_the_norms_and_equals_the_completed_square(seed, n):
    rng = np.random.default_rng(seed)
    g = rng.exponential(size=n)
    p = rng.dirichlet(np.ones(n)) + 1e-9
    p /= p.sum()
    T = g.sum()
    gap = (p * (g / p - T) ** 2).sum() / n**2
    above_the_least = second_moment(p, g) - second_moment(optimal_probabilities(g), g)
    assert above_the_least == pytest.approx(gap, rel=1e-6, abs=1e-12 * (1 + T**2))


def test_zeros_by_hand():
    assert second_moment([0.0, 1.0], [0.0, 3.0]) == 9 / 4
    assert second_moment([0.0, 1.0], [1.0, 3.0]) == np.inf
    assert second_moment([0.0, 1.0], [1e-200, 3.0]) == np.inf  # though g * g is 0


def test_the_optimum_of_large_norms_does_not_overflow():
    assert optimal_probabilities([1e308, 1e308, 0.0]).tolist() == [0.5, 0.5, 0.0]


def test_a_step_is_checked_and_turned_into_float64():
    p, grads, theta = check_step(P, torch.tensor(GRADS, dtype=torch.float32), THETA)
    assert all(a.dtype == np.float64 for a in (p, grads, theta))
    assert p.tolist() == P
    assert grads.tolist() == GRADS
    assert theta.tolist() == THETA


def test_the_kind_is_kept():
    p = optimal_probabilities(torch.tensor([1.0, 3.0], dtype=torch.float32))
    assert isinstance(p, torch.Tensor)
    assert p.dtype == torch.float64


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_every_dtype_is_read(dtype):
    def tensor(x):
        return torch.tensor(x, dtype=dtype)

    p = tensor([0.5, 0.5])
    assert second_moment(p, tensor([1, 3])) == 5
    speed = convergence_speed_sgd(p, tensor([[1], [3]]), tensor([2]), tensor([0]), lr=0.5)
    assert speed == 2.75


def sgd(p=P, grads=GRADS, theta=THETA, star=STAR, **options):
    return convergence_speed_sgd(p, grads, theta, star, **{"lr": 1, **options})


NOT_FINITE = [[1.0, float("nan")], [0.0, 2.0]]
BAD = [
    (lambda: second_moment([0.5, 0.6], [1, 1]), InvalidProbabilities, "sums to"),
    (lambda: second_moment([1.5, -0.5], [1, 1]), InvalidProbabilities, "negative at index 1"),
    (lambda: second_moment(P, [1, float("inf")]), InvalidScores, "not finite at index 1"),
    (lambda: second_moment(P, [1, 1, 1]), InvalidShape, "3"),
    (lambda: second_moment([P], [1, 1]), InvalidShape, "dimension"),
    (lambda: optimal_probabilities([0.0, 0.0]), InvalidScores, "all zero"),
    (lambda: optimal_probabilities([]), InvalidShape, "empty"),
    (lambda: sgd(lr=-1), InvalidArgument, "lr"),
    (lambda: sgd(batch=0), InvalidArgument, "batch"),
    (lambda: sgd(grads=GRADS[:1]), InvalidShape, "one gradient per item"),
    (lambda: sgd(theta=THETA[:1]), InvalidShape, "columns"),
    (lambda: sgd(grads=NOT_FINITE), InvalidScores, "not finite"),
    (
        lambda: convergence_speed_momentum(P, GRADS, THETA, STAR, [1.0, 1.0], lr=1, momentum=-0.1),
        InvalidArgument,
        "momentum",
    ),
]


@pytest.mark.parametrize("call, error, words", BAD, ids=range(len(BAD)))
def test_bad_input_is_refused_with_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_an_item_that_is_never_drawn_makes_the_speed_minus_infinity():
    "The limit: its weight grows without bound."
    assert sgd([0.0, 1.0], lr=0.1) == -np.inf
