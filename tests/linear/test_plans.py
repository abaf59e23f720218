"""On six items every subset is enumerated: conditional means of the compiled steps, Lemma 1's bound, and the laws of the compiled draws."""

from itertools import chain, combinations

import numpy as np
import pytest

from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.linear import convex_sarah_factor, convex_sarah_step, make_plan, minimize, restart
from impsamp.linear.blocks import block_drawer, block_of
from impsamp.problems import LogisticRegression, SigmoidLeastSquares
from impsamp.randomness import as_numpy_generator
from impsamp.samplers import (
    ApproximateIndependentSampling,
    IndependentSampling,
    NiceSampling,
    SerialSampling,
)
from impsamp.theory.minibatch import minibatch_probabilities

N, LR = 6, 0.3
X = np.array(
    [
        [1.0, 0.0, 0.5],
        [0.0, 2.0, 0.0],
        [3.0, 1.0, 0.0],
        [0.0, 0.0, 1.0],
        [1.0, 1.0, 1.0],
        [-2.0, 0.0, 2.0],
    ]
)
PROBLEM = LogisticRegression(X, [0, 1, 1, 0, 1, 0], l2=0.1)
P = minibatch_probabilities(PROBLEM.L, 2.5)
SAMPLINGS = {
    "nice": NiceSampling(N, 2),
    "independent": IndependentSampling(P),
    "approximate": ApproximateIndependentSampling(P),
    "serial": SerialSampling(PROBLEM.L / PROBLEM.L.sum()),
}
SUBSETS = list(chain.from_iterable(combinations(range(N), k) for k in range(N + 1)))


def law(name):
    "Probability of every subset, from the sampling's definition."
    s = SAMPLINGS[name]
    if name == "nice":
        return {S: float(len(S) == 2) / 15 for S in SUBSETS}
    if name == "serial":
        return {S: float(s.inclusion_probabilities[S[0]]) if len(S) == 1 else 0.0 for S in SUBSETS}
    if name == "independent":
        return {
            S: float(np.prod([P[i] if i in S else 1 - P[i] for i in range(N)])) for S in SUBSETS
        }
    free, certain, out = (
        [i for i in range(N) if P[i] < 1],
        {i for i in range(N) if P[i] >= 1},
        dict.fromkeys(SUBSETS, 0.0),
    )
    a = int(np.ceil(len(free) * P[free].max()))
    for chosen in combinations(free, a):
        for S in chain.from_iterable(combinations(chosen, k) for k in range(a + 1)):
            coins = np.prod(
                [len(free) * P[i] / a if i in S else 1 - len(free) * P[i] / a for i in chosen]
            )
            out[tuple(sorted({*S, *certain}))] += coins / len(list(combinations(free, a)))
    return out


def run(method, draws, tables=None, **options):
    s = options.pop("sampling")
    return minimize(
        PROBLEM,
        method,
        s,
        lr=LR,
        inner_steps=50,
        draws=[np.array(d, dtype=int) for d in draws],
        table_draws=tables,
        max_passes=1e6,
        output="last",
        record_every=1e6,
        x0=np.array([0.3, -0.2, 0.5]),
        **options,
    ).x


def data_grads(x):
    return PROBLEM.grad_items(x, np.arange(N)) - PROBLEM.regulariser_grad(x)


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize(
    "method, one_draw",
    [("sgd", False), ("svrg", False), ("saga", False), ("saga", True), ("sarah", False)],
)
def test_conditional_mean_and_the_variance_bound_of_lemma_1(name, method, one_draw):
    s, x0 = SAMPLINGS[name], np.array([0.3, -0.2, 0.5])
    first, second = (0, 2), (1, 2, 5)
    tables = (
        [np.array([4]), np.array([0, 5]), np.array([3])]
        if method == "saga" and not one_draw
        else None
    )
    states = [x0] + [
        run(
            method,
            (first, second)[:k],
            tables[:k] if tables else None,
            sampling=s,
            one_draw=one_draw,
        )
        for k in (1, 2)
    ]
    x = states[2]
    ends = {
        S: run(method, (first, second, S), tables, sampling=s, one_draw=one_draw) for S in SUBSETS
    }
    probability = law(name)
    assert abs(sum(probability.values()) - 1) < 1e-12
    mean = sum(probability[S] * ends[S] for S in SUBSETS)
    if method == "sarah":
        start = x0 - LR * PROBLEM.grad(x0)
        states = [start, *states[1:]]
        estimate = (states[1] - x) / LR - PROBLEM.regulariser_grad(states[1])
        z = data_grads(x) - data_grads(states[1])
        expected = (
            estimate + z.mean(axis=0) + PROBLEM.regulariser_grad(x)
        )  # only the increment is unbiased
    else:
        anchors = np.zeros((N, 3)) if method == "sgd" else data_grads(x0)
        if method == "saga":
            anchors[[0, 5] if tables else list(second)] = data_grads(states[1])[
                [0, 5] if tables else list(second)
            ]
        z, expected = data_grads(x) - anchors, PROBLEM.grad(x)
    assert np.abs((x - mean) / LR - expected).max() < 1e-12
    spread = sum(probability[S] * np.sum((ends[S] - mean) ** 2) for S in SUBSETS) / LR**2
    p, v = np.asarray(s.inclusion_probabilities), np.asarray(s.v)
    bound = np.sum(v / p * np.sum(z**2, axis=1)) / N**2
    assert spread <= bound * (1 + 1e-9)
    if name == "independent":
        assert np.isclose(spread, bound)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_compiled_draws_follow_the_law(name):
    "Every subset's frequency in 40 000 draws within five standard errors of its enumerated probability."
    s, T = SAMPLINGS[name], 40_000
    block = block_drawer(s, np.asarray(s.inclusion_probabilities))(np.random.default_rng(7), T)
    seen = dict.fromkeys(SUBSETS, 0)
    for t in range(T):
        seen[tuple(sorted(block.idx[block.ptr[t] : block.ptr[t + 1]]))] += 1
    for S, q in law(name).items():
        assert abs(seen[S] / T - q) <= 5 * np.sqrt(q * (1 - q) / T) + 1e-12, S


def test_large_and_tiny_probabilities_in_compiled_draws():
    p = np.r_[1.0, 1 - 1e-9, np.full(1000, 1e-3), 1e-12, 1.0]
    block = block_drawer(IndependentSampling(p), p)(np.random.default_rng(0), 3000)
    counts = np.bincount(block.idx, minlength=p.size)
    assert (
        counts[0] == counts[1] == counts[-1] == 3000
        and counts[-2] == 0
        and abs(counts[2:1002].sum() / 3000 - 1) < 0.1
    )


def test_a_sampling_of_ones_own_is_asked_draw_by_draw():
    class Mine(NiceSampling):
        def draw(self, generator, *, step=0):
            return super().draw(generator, step=step)

    s = Mine(N, 2)
    block = block_drawer(s, np.asarray(s.inclusion_probabilities))(np.random.default_rng(0), 30)
    assert len(block.ptr) == 31 and (np.diff(block.ptr) == 2).all()
    import torch

    assert minimize(
        PROBLEM,
        "svrg",
        s,
        lr="convex",
        max_passes=5000,
        tol=1e-3,
        generator=torch.Generator().manual_seed(0),
    ).converged


def test_blocks_refuse_items_outside_and_strange_generators():
    with pytest.raises(InvalidShape, match="item 6"):
        block_of([[0, 6]], N)
    with pytest.raises(InvalidArgument, match="generator"):
        as_numpy_generator("3")


def test_the_random_iterate_is_uniform():
    "Over many runs of 12 SGD steps the kept iterate is each of x_0 .. x_11 equally often (chi-square at the 1e-4 level)."
    draws, kept = [[i % N] for i in range(12)], []
    path = [np.array([0.3, -0.2, 0.5])] + [
        run("sgd", draws[:k], sampling=SAMPLINGS["serial"]) for k in range(1, 12)
    ]
    for seed in range(1200):
        x = minimize(
            PROBLEM,
            "sgd",
            SAMPLINGS["serial"],
            lr=LR,
            draws=draws,
            x0=path[0],
            record_every=0.5,
            generator=np.random.default_rng(seed),
            max_passes=1e6,
        ).x
        kept.append(int(np.argmin([np.abs(x - y).max() for y in path])))
    counts = np.bincount(kept, minlength=12)
    assert ((counts - 100) ** 2 / 100).sum() < 38.0


@pytest.mark.parametrize(
    "method, rule", [("svrg", None), ("saga", None), ("sarah", None), ("sarah", "convex")]
)
def test_each_round_of_a_restart_halves_the_squared_norm(method, rule):
    "Mean over 20 seeds of ||grad f(x^k)||^2 against 2^-k ||grad f(x^0)||^2, k = 1..4."
    start = np.linalg.norm(PROBLEM.grad(np.zeros(3))) ** 2
    norms = [
        [
            row["grad_norm"] ** 2
            for row in restart(
                PROBLEM, method, "importance", rounds=4, lr=rule, generator=np.random.default_rng(s)
            ).rounds
        ]
        for s in range(20)
    ]
    assert (np.mean(norms, axis=0) <= start * 0.5 ** np.arange(1, 5)).all()


def test_convex_sarah_factor_is_a_half_and_its_epoch_the_shortest():
    s = convex_sarah_step(L=3.0, mu=0.01)
    assert convex_sarah_factor(s.lr, s.inner_steps, L=3.0, mu=0.01) <= 0.5 + 1e-12
    rates = np.linspace(1e-3, 0.66, 400)
    assert (
        min(np.ceil(1 / (0.01 * lr / 3 * (0.5 - lr / (2 - lr)))) for lr in rates)
        >= s.inner_steps - 1
    )


def test_the_rule_that_applied_is_part_of_the_plan():
    "b above alpha n^(2/3): the closed form must give way to the computed Gamma_t (the paper's headline case has alpha = 0.028)."
    rng = np.random.default_rng(0)
    A = rng.normal(size=(200, 2)) * np.exp(2.5 * rng.normal(size=(200, 1)))
    problem = SigmoidLeastSquares(A, np.arange(200) % 2)
    p = minibatch_probabilities(problem.L, 40)
    strong = make_plan(problem, "svrg", IndependentSampling(p))
    assert (
        strong.b > strong.alpha * 200 ** (2 / 3)
        and "closed form" not in strong.rule
        and "Gamma" in strong.rule
        and strong.inner_steps == 5
    )
    assert "closed form" in make_plan(problem, "svrg", NiceSampling(200, 2)).rule
    assert (
        make_plan(problem, "saga", IndependentSampling(p)).table > 40
        and make_plan(problem, "saga", IndependentSampling(p), one_draw=True).table == 0
    )
