"""Closed forms of S(p) against what real optimizers do: every draw enumerated, one step taken, the squared distance averaged."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import sympy as sp
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
from impsamp.optimizers import ScalarAdam, ScalarRMSprop
from impsamp.theory.adaptive import (
    _MOVES,
    _costs,
    _dual,
    adam_step,
    convergence_speed_adam,
    convergence_speed_rmsprop,
    frozen_optimal_probabilities,
    optimal_probabilities_given_optimum,
    rmsprop_step,
)
from impsamp.theory.convergence import (
    convergence_speed_momentum,
    convergence_speed_sgd,
    optimal_probabilities,
    second_moment,
)

TOLERANCE = 1e-10


def setting(seed, n=4, d=3):
    rng = np.random.default_rng(seed)
    return (
        rng.dirichlet(np.ones(n)),
        rng.normal(size=(n, d)),
        rng.normal(size=d),
        rng.normal(size=d),
        rng.normal(size=(3, d)),
    )


def stepped(make, theta, warm, grad):
    "theta after warm-up steps on the gradients `warm`, restored to `theta`, and one step on `grad`; also the optimizer before that step."
    param = torch.tensor(theta, requires_grad=True)
    optimizer = make([param])
    for g in warm:
        param.grad = torch.tensor(g)
        optimizer.step()
    with torch.no_grad():
        param.copy_(torch.tensor(theta))
    before = {
        k: v.clone() if isinstance(v, torch.Tensor) else v
        for k, v in optimizer.state[param].items()
    }
    group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    param.grad = torch.tensor(grad)
    optimizer.step()
    return param.detach().numpy(), before, group


def enumerated(make, p, grads, theta, star, warm, batch=1):
    "S(p) by enumeration of all batches, and the optimizer's state before the step."
    n, expected = len(p), 0.0
    for draw in product(range(n), repeat=batch):
        estimate = sum(grads[i] / (n * p[i]) for i in draw) / batch
        after, state, group = stepped(make, theta, warm, estimate)
        expected += np.prod([p[i] for i in draw]) * ((after - star) ** 2).sum()
    return ((theta - star) ** 2).sum() - expected, state, group


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_sgd_speed_is_what_torch_sgd_does(seed, batch):
    p, grads, theta, star, _ = setting(seed)
    real, _, _ = enumerated(lambda q: torch.optim.SGD(q, lr=0.3), p, grads, theta, star, [], batch)
    assert abs(convergence_speed_sgd(p, grads, theta, star, lr=0.3, batch=batch) - real) < TOLERANCE


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [1, 2])
def test_momentum_speed_is_what_torch_sgd_with_momentum_does(seed, batch):
    p, grads, theta, star, warm = setting(seed)
    real, state, _ = enumerated(
        lambda q: torch.optim.SGD(q, lr=0.3, momentum=0.5), p, grads, theta, star, warm, batch
    )
    velocity = state["momentum_buffer"]
    assert (
        abs(
            convergence_speed_momentum(
                p, grads, theta, star, velocity, lr=0.3, momentum=0.5, batch=batch
            )
            - real
        )
        < TOLERANCE
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("warm_steps", [0, 3])
def test_elementwise_rmsprop_speed_is_what_torch_rmsprop_does(seed, warm_steps):
    p, grads, theta, star, warm = setting(seed)
    real, state, _ = enumerated(
        lambda q: torch.optim.RMSprop(q, lr=0.1, alpha=0.9, eps=1e-3),
        p,
        grads,
        theta,
        star,
        warm[:warm_steps],
    )
    v = state.get("square_avg", np.zeros(3))
    assert (
        abs(
            convergence_speed_rmsprop(
                p, grads, theta, star, v, lr=0.1, alpha=0.9, eps=1e-3, elementwise=True
            )
            - real
        )
        < TOLERANCE
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("warm_steps", [0, 3])
def test_elementwise_adam_speed_is_what_torch_adam_does(seed, warm_steps):
    p, grads, theta, star, warm = setting(seed)
    hyper = dict(lr=0.1, betas=(0.8, 0.95), eps=1e-3)
    real, state, _ = enumerated(
        lambda q: torch.optim.Adam(q, **hyper), p, grads, theta, star, warm[:warm_steps]
    )
    m, v = state.get("exp_avg", np.zeros(3)), state.get("exp_avg_sq", np.zeros(3))
    ours = convergence_speed_adam(
        p, grads, theta, star, m, v, step=warm_steps + 1, elementwise=True, **hyper
    )
    assert abs(ours - real) < TOLERANCE


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("warm_steps", [0, 3])
def test_scalar_rmsprop_speed_is_what_scalar_rmsprop_does(seed, warm_steps):
    p, grads, theta, star, warm = setting(seed)
    real, _, group = enumerated(
        lambda q: ScalarRMSprop(q, lr=0.1, alpha=0.9, eps=1e-3),
        p,
        grads,
        theta,
        star,
        warm[:warm_steps],
    )
    v = 0.0
    for g in warm[:warm_steps]:
        v = 0.9 * v + 0.1 * (g @ g)
    assert (
        abs(convergence_speed_rmsprop(p, grads, theta, star, v, lr=0.1, alpha=0.9, eps=1e-3) - real)
        < TOLERANCE
    )
    assert group["square_norm"] == pytest.approx(v)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("warm_steps", [0, 3])
def test_scalar_adam_speed_is_what_scalar_adam_does(seed, warm_steps):
    p, grads, theta, star, warm = setting(seed)
    hyper = dict(lr=0.1, betas=(0.8, 0.95), eps=1e-3)
    real, _, group = enumerated(
        lambda q: ScalarAdam(q, **hyper), p, grads, theta, star, warm[:warm_steps]
    )
    m, v = np.zeros(3), 0.0
    for t, g in enumerate(warm[:warm_steps], 1):
        _, m, v = adam_step(g, m, v, step=t, **hyper)
    assert (
        abs(
            convergence_speed_adam(
                p, grads, theta, star, m, float(np.squeeze(v)), step=warm_steps + 1, **hyper
            )
            - real
        )
        < TOLERANCE
    )
    assert group["square_norm"] == pytest.approx(float(np.squeeze(v)))


# --- exact zeros: points at which float64 makes no rounding error at all, against the symbolic definition -------------------------------

DYADIC = [Fraction(1, 2), Fraction(1, 4), Fraction(1, 8), Fraction(1, 8)]


def definition(p, grads, theta, star, step):
    "S(p) from its definition in SymPy rationals; step(G) is the displacement for a weighted gradient."

    def R(row):
        return [sp.nsimplify(x) for x in row]

    theta, star, n = R(theta), R(star), len(p)
    before = sum((a - b) ** 2 for a, b in zip(theta, star))
    total = 0
    for pi, row in zip(p, grads):
        pi = sp.Rational(pi.numerator, pi.denominator)
        move = step([x / (n * pi) for x in R(row)])
        total += pi * sum((a - m - b) ** 2 for a, m, b in zip(theta, move, star))
    return before - total


def exactly(value):
    return sp.Rational(*Fraction(value).as_integer_ratio())


def shuffled(seed):
    rng = np.random.default_rng(seed)
    return rng, [DYADIC[i] for i in rng.permutation(4)]


@pytest.mark.parametrize("seed", range(8))
def test_sgd_and_momentum_equal_the_definition_exactly(seed):
    rng, p = shuffled(seed)
    grads = np.array([[3, 4], [-5, 12], [8, 15], [0, -1]])[rng.permutation(4)] * rng.integers(
        1, 4, (4, 1)
    )
    theta, star, vel = rng.integers(-9, 10, (3, 2))
    eta, mu = sp.Rational(1, 4), sp.Rational(1, 2)
    q = [float(x) for x in p]
    assert exactly(convergence_speed_sgd(q, grads, theta, star, lr=0.25)) == definition(
        p, grads, theta, star, lambda G: [eta * x for x in G]
    )
    momentum = definition(
        p, grads, theta, star, lambda G: [eta * (mu * int(v) + x) for v, x in zip(vel, G)]
    )
    assert (
        exactly(convergence_speed_momentum(q, grads, theta, star, vel, lr=0.25, momentum=0.5))
        == momentum
    )


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_rmsprop_equals_the_definition_exactly(seed, elementwise):
    rng, p = shuffled(
        seed
    )  # alpha = 1/2, v = 49, |G| in {1, 17}, eps = 3: eps + sqrt((49 + G^2)/2) in {8, 16}
    G = (
        rng.choice([1, -1, 17, -17], (4, 2))
        if elementwise
        else np.array([[1, 0], [0, -1], [8, 15], [-15, 8]])[rng.permutation(4)]
    )
    grads = G * 4 * np.array([[float(x)] for x in p])
    theta, star = rng.integers(-9, 10, (2, 2))

    def step(G):
        sq = [x**2 for x in G] if elementwise else [sum(x**2 for x in G)] * 2
        return [
            sp.Rational(1, 4) * x / (3 + sp.sqrt(sp.Rational(1, 2) * 49 + sp.Rational(1, 2) * s))
            for x, s in zip(G, sq)
        ]

    v = np.full(2, 49.0) if elementwise else 49.0
    ours = convergence_speed_rmsprop(
        [float(x) for x in p],
        grads,
        theta,
        star,
        v,
        lr=0.25,
        alpha=0.5,
        eps=3,
        elementwise=elementwise,
    )
    assert exactly(ours) == definition(p, grads, theta, star, step)


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_adam_equals_the_definition_exactly(seed, elementwise):
    rng, p = shuffled(
        seed
    )  # step 1, betas 1/2, v = 225, |G| in {8, 112}, eps = 15: eps + sqrt(225 + G^2) in {32, 128}
    G = (
        rng.choice([8, -8, 112, -112], (4, 2))
        if elementwise
        else np.array([[8, 0], [0, -8], [112, 0], [0, 112]])[rng.permutation(4)]
    )
    grads = G * 4 * np.array([[float(x)] for x in p])
    theta, star, m = rng.integers(-9, 10, (3, 2))
    half = sp.Rational(1, 2)

    def step(G):
        sq = [x**2 for x in G] if elementwise else [sum(x**2 for x in G)] * 2
        hat = [(half * int(mi) + half * x) / (1 - half) for mi, x in zip(m, G)]
        return [
            sp.Rational(1, 4) * h / (15 + sp.sqrt((half * 225 + half * s) / (1 - half)))
            for h, s in zip(hat, sq)
        ]

    v = np.full(2, 225.0) if elementwise else 225.0
    ours = convergence_speed_adam(
        [float(x) for x in p],
        grads,
        theta,
        star,
        m,
        v,
        step=1,
        lr=0.25,
        betas=(0.5, 0.5),
        eps=15,
        elementwise=elementwise,
    )
    assert exactly(ours) == definition(p, grads, theta, star, step)


# --- optimality ------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_second_moment_is_least_at_the_norms_and_equals_the_completed_square(seed, n):
    rng = np.random.default_rng(seed)
    g, p = rng.exponential(size=n), rng.dirichlet(np.ones(n)) + 1e-9
    p /= p.sum()
    T = g.sum()
    gap = (p * (g / p - T) ** 2).sum() / n**2
    assert second_moment(p, g) - second_moment(optimal_probabilities(g), g) == pytest.approx(
        gap, rel=1e-6, abs=1e-12 * (1 + T**2)
    )


def test_frozen_scheme_beats_every_other_when_the_preconditioner_does_not_see_the_draw():
    rng = np.random.default_rng(0)
    grads, v, theta, star = (
        rng.normal(size=(6, 3)),
        rng.exponential(size=3),
        rng.normal(size=3),
        rng.normal(size=3),
    )

    def speed(p):
        return convergence_speed_rmsprop(
            p, grads, theta, star, v, lr=0.1, alpha=1.0, elementwise=True
        )  # alpha = 1: v stays

    best = speed(frozen_optimal_probabilities(grads, v))
    assert (
        all(speed(rng.dirichlet(np.ones(6) * 5)) <= best for _ in range(200))
        and speed(np.full(6, 1 / 6)) < best
    )
    assert best > speed(optimal_probabilities(np.linalg.norm(grads, axis=1)))


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
@pytest.mark.parametrize("seed", range(3))
def test_optimum_given_theta_star_is_within_its_dual_bound_and_beats_random_schemes(
    optimizer, seed
):
    p, grads, theta, star, _ = setting(seed, n=5)
    hyper = dict(m=np.full(3, 0.1), step=4) if optimizer == "adam" else dict(alpha=0.8)
    best = optimal_probabilities_given_optimum(
        grads, theta, star, 0.7, lr=0.4, optimizer=optimizer, floor=0.02, **hyper
    )
    move = _MOVES[optimizer](3, 0.7, lr=0.4, **hyper)

    def cost(q):
        return _costs(q, grads, theta - star, move, 5)

    speed = -cost(best).sum()
    others = np.random.default_rng(seed).dirichlet(np.ones(5), 500) * 0.9 + 0.02
    assert best.sum() == pytest.approx(1) and best.min() >= 0.02 - 1e-12
    assert all(-cost(q).sum() <= speed + 1e-9 for q in others)
    assert speed <= _dual(cost, 5, 0.02)[1] + 1e-4


def test_kinds_and_dtypes_are_kept():
    g = torch.tensor([1.0, 3.0], dtype=torch.float32)
    assert (
        isinstance(optimal_probabilities(g), torch.Tensor)
        and optimal_probabilities(g).dtype == torch.float64
    )
    assert isinstance(frozen_optimal_probabilities(torch.ones(2, 3), torch.ones(3)), torch.Tensor)
    assert isinstance(
        optimal_probabilities_given_optimum(torch.ones(2, 1), [1.0], [0.0], 1.0, lr=0.1),
        torch.Tensor,
    )
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert (
            second_moment(torch.tensor([0.5, 0.5], dtype=dtype), torch.tensor([1, 3], dtype=dtype))
            == 5
        )
        assert (
            convergence_speed_sgd(
                torch.tensor([0.5, 0.5], dtype=dtype),
                torch.tensor([[1], [3]], dtype=dtype),
                torch.tensor([2], dtype=dtype),
                torch.tensor([0], dtype=dtype),
                lr=0.5,
            )
            == 2.75
        )


P, G, TH, ST = [0.5, 0.5], [[1.0, 0.0], [0.0, 2.0]], [1.0, 1.0], [0.0, 0.0]
BAD = [
    (lambda: second_moment([0.5, 0.6], [1, 1]), InvalidProbabilities, "sums to"),
    (lambda: second_moment([1.5, -0.5], [1, 1]), InvalidProbabilities, "negative at index 1"),
    (lambda: second_moment([0.5, 0.5], [1, float("inf")]), InvalidScores, "not finite at index 1"),
    (lambda: second_moment([0.5, 0.5], [1, 1, 1]), InvalidShape, "3"),
    (lambda: second_moment([[0.5, 0.5]], [1, 1]), InvalidShape, "dimension"),
    (lambda: optimal_probabilities([0.0, 0.0]), InvalidScores, "all zero"),
    (lambda: optimal_probabilities([]), InvalidShape, "empty"),
    (lambda: convergence_speed_sgd(P, G, TH, ST, lr=-1), InvalidArgument, "lr"),
    (lambda: convergence_speed_sgd(P, G, TH, ST, lr=1, batch=0), InvalidArgument, "batch"),
    (lambda: convergence_speed_sgd(P, G[:1], TH, ST, lr=1), InvalidShape, "one gradient per item"),
    (lambda: convergence_speed_sgd(P, G, TH[:1], ST, lr=1), InvalidShape, "columns"),
    (
        lambda: convergence_speed_sgd(P, [[1.0, float("nan")], [0.0, 2.0]], TH, ST, lr=1),
        InvalidScores,
        "not finite",
    ),
    (
        lambda: convergence_speed_momentum(P, G, TH, ST, [1.0, 1.0], lr=1, momentum=-0.1),
        InvalidArgument,
        "momentum",
    ),
    (lambda: convergence_speed_rmsprop(P, G, TH, ST, -1.0, lr=1), InvalidScores, "nonnegative"),
    (lambda: convergence_speed_rmsprop(P, G, TH, ST, [1.0, 1.0], lr=1), InvalidShape, "scalar"),
    (
        lambda: convergence_speed_rmsprop(P, G, TH, ST, 1.0, lr=1, elementwise=True),
        InvalidShape,
        "elementwise",
    ),
    (
        lambda: convergence_speed_rmsprop(P, G, TH, ST, 1.0, lr=1, alpha=1.1),
        InvalidArgument,
        "alpha",
    ),
    (
        lambda: convergence_speed_adam(P, G, TH, ST, [0.0, 0.0], 0.0, step=0, lr=1),
        InvalidArgument,
        "step",
    ),
    (
        lambda: convergence_speed_adam(
            P, G, TH, ST, [0.0, 0.0], 0.0, step=1, lr=1, betas=(1.0, 0.9)
        ),
        InvalidArgument,
        "betas",
    ),
    (
        lambda: convergence_speed_adam(P, G, TH, ST, [0.0], 0.0, step=1, lr=1),
        InvalidShape,
        "columns",
    ),
    (lambda: frozen_optimal_probabilities(G, [1.0, 1.0, 1.0]), InvalidShape, "v has shape"),
    (lambda: frozen_optimal_probabilities(G, [1.0, -1.0]), InvalidScores, "nonnegative"),
    (
        lambda: optimal_probabilities_given_optimum(G, TH, ST, 1.0, lr=1, optimizer="rmsporp"),
        UnknownName,
        "did you mean 'rmsprop'",
    ),
    (
        lambda: optimal_probabilities_given_optimum(G, TH, ST, 1.0, lr=1, floor=0.9),
        InvalidArgument,
        "floor",
    ),
    (
        lambda: optimal_probabilities_given_optimum(G, TH, ST, 1.0, lr=1, optimizer="adam"),
        InvalidArgument,
        "needs m and step",
    ),
]


@pytest.mark.parametrize("call, error, words", BAD, ids=range(len(BAD)))
def test_bad_input_is_refused_with_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_an_item_that_is_never_drawn():
    assert (
        convergence_speed_sgd([0.0, 1.0], G, TH, ST, lr=0.1) == -np.inf
    )  # the limit: its weight grows without bound
    lost = convergence_speed_rmsprop(
        [0.0, 1.0], G, TH, ST, 0.1, lr=0.1
    )  # bounded step: it simply does not count,
    assert lost == pytest.approx(
        convergence_speed_rmsprop([1e-9, 1 - 1e-9], G, TH, ST, 0.1, lr=0.1), abs=1e-6
    )  # and that is the limit
    assert (rmsprop_step(np.zeros(2), 0.0, lr=1.0, eps=0)[0] == 0).all()  # no gradient, no step
