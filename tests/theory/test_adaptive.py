"""S(p) under RMSProp and Adam against real optimizers and the definition; what schemes are best."""

import numpy as np
import pytest
import sympy as sp
import torch

from impsamp.errors import InvalidArgument, InvalidScores, InvalidShape, UnknownName
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
from impsamp.theory.convergence import optimal_probabilities
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

RMSPROP = dict(lr=0.1, alpha=0.9, eps=1e-3)
ADAM = dict(lr=0.1, betas=(0.8, 0.95), eps=1e-3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("warm_steps", [0, 3])
def test_elementwise_rmsprop_speed_is_what_torch_rmsprop_does(seed, warm_steps):
    problem, warm = setting(seed)
    real, state, _ = enumerated(
        lambda q: torch.optim.RMSprop(q, **RMSPROP), problem, warm[:warm_steps]
    )
    v = state.get("square_avg", np.zeros(3))
    ours = convergence_speed_rmsprop(*problem, v, elementwise=True, **RMSPROP)
    assert abs(ours - real) < TOLERANCE


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("warm_steps", [0, 3])
def test_elementwise_adam_speed_is_what_torch_adam_does(seed, warm_steps):
    problem, warm = setting(seed)
    real, state, _ = enumerated(lambda q: torch.optim.Adam(q, **ADAM), problem, warm[:warm_steps])
    m = state.get("exp_avg", np.zeros(3))
    v = state.get("exp_avg_sq", np.zeros(3))
    ours = convergence_speed_adam(*problem, m, v, step=warm_steps + 1, elementwise=True, **ADAM)
    assert abs(ours - real) < TOLERANCE


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("warm_steps", [0, 3])
def test_scalar_rmsprop_speed_is_what_scalar_rmsprop_does(seed, warm_steps):
    problem, warm = setting(seed)
    real, _, group = enumerated(lambda q: ScalarRMSprop(q, **RMSPROP), problem, warm[:warm_steps])
    v = 0.0
    for g in warm[:warm_steps]:
        v = 0.9 * v + 0.1 * (g @ g)
    assert abs(convergence_speed_rmsprop(*problem, v, **RMSPROP) - real) < TOLERANCE
    assert group["square_norm"] == pytest.approx(v)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("warm_steps", [0, 3])
def test_scalar_adam_speed_is_what_scalar_adam_does(seed, warm_steps):
    problem, warm = setting(seed)
    real, _, group = enumerated(lambda q: ScalarAdam(q, **ADAM), problem, warm[:warm_steps])
    m = np.zeros(3)
    v = 0.0
    for t, g in enumerate(warm[:warm_steps], 1):
        _, m, v = adam_step(g, m, v, step=t, **ADAM)
    v = float(np.squeeze(v))
    ours = convergence_speed_adam(*problem, m, v, step=warm_steps + 1, **ADAM)
    assert abs(ours - real) < TOLERANCE
    assert group["square_norm"] == pytest.approx(v)


def squares(G, elementwise):
    "What the second moment adds, for each coordinate."
    return [x**2 for x in G] if elementwise else [sum(x**2 for x in G)] * 2


def weighted(G, p):
    "Gradients whose importance-weighted estimates are the whole numbers G."
    return G * 4 * np.array([[float(x)] for x in p])


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_rmsprop_equals_the_definition_exactly(seed, elementwise):
    "alpha = 1/2, v = 49, |G| in {1, 17}, eps = 3: eps + sqrt((49 + G^2)/2) is 8 or 16."
    rng, p = shuffled(seed)
    if elementwise:
        G = rng.choice([1, -1, 17, -17], (4, 2))
    else:
        G = np.array([[1, 0], [0, -1], [8, 15], [-15, 8]])[rng.permutation(4)]
    grads = weighted(G, p)
    theta, star = rng.integers(-9, 10, (2, 2))
    half = sp.Rational(1, 2)

    def step(G):
        roots = [sp.sqrt(half * 49 + half * s) for s in squares(G, elementwise)]
        return [sp.Rational(1, 4) * x / (3 + root) for x, root in zip(G, roots)]

    q = [float(x) for x in p]
    v = np.full(2, 49.0) if elementwise else 49.0
    hyper = dict(lr=0.25, alpha=0.5, eps=3, elementwise=elementwise)
    ours = convergence_speed_rmsprop(q, grads, theta, star, v, **hyper)
    assert exactly(ours) == definition(p, grads, theta, star, step)


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_adam_equals_the_definition_exactly(seed, elementwise):
    "Step 1, betas 1/2, v = 225, |G| in {8, 112}, eps = 15: eps + sqrt(225 + G^2) is 32 or 128."
    rng, p = shuffled(seed)
    if elementwise:
        G = rng.choice([8, -8, 112, -112], (4, 2))
    else:
        G = np.array([[8, 0], [0, -8], [112, 0], [0, 112]])[rng.permutation(4)]
    grads = weighted(G, p)
    theta, star, m = rng.integers(-9, 10, (3, 2))
    half = sp.Rational(1, 2)

    def step(G):
        m_hat = [(half * int(mi) + half * x) / (1 - half) for mi, x in zip(m, G)]
        v_hat = [(half * 225 + half * s) / (1 - half) for s in squares(G, elementwise)]
        return [sp.Rational(1, 4) * a / (15 + sp.sqrt(b)) for a, b in zip(m_hat, v_hat)]

    q = [float(x) for x in p]
    v = np.full(2, 225.0) if elementwise else 225.0
    hyper = dict(step=1, lr=0.25, betas=(0.5, 0.5), eps=15, elementwise=elementwise)
    ours = convergence_speed_adam(q, grads, theta, star, m, v, **hyper)
    assert exactly(ours) == definition(p, grads, theta, star, step)


def test_frozen_scheme_beats_every_other_when_the_preconditioner_does_not_see_the_draw():
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(6, 3))
    v = rng.exponential(size=3)
    theta = rng.normal(size=3)
    star = rng.normal(size=3)

    def speed(p):
        hyper = dict(lr=0.1, alpha=1.0, elementwise=True)  # alpha = 1: v stays
        return convergence_speed_rmsprop(p, grads, theta, star, v, **hyper)

    best = speed(frozen_optimal_probabilities(grads, v))
    others = [rng.dirichlet(np.ones(6) * 5) for _ in range(200)]
    assert all(speed(p) <= best for p in others)
    assert speed(np.full(6, 1 / 6)) < best
    assert speed(optimal_probabilities(np.linalg.norm(grads, axis=1))) < best


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
@pytest.mark.parametrize("seed", range(3))
def test_optimum_given_theta_star_is_within_its_dual_bound_and_beats_random_schemes(
    optimizer, seed
):
    (_, grads, theta, star), _ = setting(seed, n=5)
    hyper = dict(m=np.full(3, 0.1), step=4) if optimizer == "adam" else dict(alpha=0.8)
    best = optimal_probabilities_given_optimum(
        grads, theta, star, 0.7, lr=0.4, optimizer=optimizer, floor=0.02, **hyper
    )
    assert best.sum() == pytest.approx(1)
    assert best.min() >= 0.02 - 1e-12

    move = _MOVES[optimizer](3, 0.7, lr=0.4, **hyper)

    def cost(q):
        return _costs(q, grads, theta - star, move, 5)

    speed = -cost(best).sum()
    others = np.random.default_rng(seed).dirichlet(np.ones(5), 500) * 0.9 + 0.02
    assert all(-cost(q).sum() <= speed + 1e-9 for q in others)
    _, bound = _dual(cost, 5, 0.02)
    assert speed <= bound + 1e-4


def test_the_kind_is_kept():
    ones = torch.ones(2, 3)
    assert isinstance(frozen_optimal_probabilities(ones, torch.ones(3)), torch.Tensor)
    p = optimal_probabilities_given_optimum(torch.ones(2, 1), [1.0], [0.0], 1.0, lr=0.1)
    assert isinstance(p, torch.Tensor)


def rmsprop(v, p=P, **options):
    return convergence_speed_rmsprop(p, GRADS, THETA, STAR, v, **{"lr": 1, **options})


def adam(m=(0.0, 0.0), step=1, **options):
    return convergence_speed_adam(P, GRADS, THETA, STAR, m, 0.0, step=step, lr=1, **options)


def given_optimum(**options):
    return optimal_probabilities_given_optimum(GRADS, THETA, STAR, 1.0, lr=1, **options)


BAD = [
    (lambda: rmsprop(-1.0), InvalidScores, "nonnegative"),
    (lambda: rmsprop([1.0, 1.0]), InvalidShape, "scalar"),
    (lambda: rmsprop(1.0, elementwise=True), InvalidShape, "elementwise"),
    (lambda: rmsprop(1.0, alpha=1.1), InvalidArgument, "alpha"),
    (lambda: adam(step=0), InvalidArgument, "step"),
    (lambda: adam(betas=(1.0, 0.9)), InvalidArgument, "betas"),
    (lambda: adam(m=[0.0]), InvalidShape, "columns"),
    (lambda: frozen_optimal_probabilities(GRADS, [1.0] * 3), InvalidShape, "v has shape"),
    (lambda: frozen_optimal_probabilities(GRADS, [1.0, -1.0]), InvalidScores, "nonnegative"),
    (lambda: given_optimum(optimizer="rmsporp"), UnknownName, "did you mean 'rmsprop'"),
    (lambda: given_optimum(floor=0.9), InvalidArgument, "floor"),
    (lambda: given_optimum(optimizer="adam"), InvalidArgument, "needs m and step"),
]


@pytest.mark.parametrize("call, error, words", BAD, ids=range(len(BAD)))
def test_bad_input_is_refused_with_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_an_item_that_is_never_drawn_does_not_count():
    "The step is bounded, and that is the limit."
    lost = rmsprop(0.1, [0.0, 1.0], lr=0.1)
    assert lost == pytest.approx(rmsprop(0.1, [1e-9, 1 - 1e-9], lr=0.1), abs=1e-6)


def test_no_gradient_no_step():
    step, _ = rmsprop_step(np.zeros(2), 0.0, lr=1.0, eps=0)
    assert (step == 0).all()
