"""Bins of remembered scores: four statements searched for a violation; by hand, in fractions."""

from fractions import Fraction as F

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidArgument, InvalidScores, InvalidShape
from impsamp.theory import bin_norms, binned_probabilities, kantorovich_factor, second_moment

SLACK = 1e-9


def random_case(rng):
    """Norms, stale and fresh bins, their ratio, estimates within kappa of each bin's, a weight.

    Old scores are the norms times something: nothing, a little, or so much that nothing is left."""
    n = int(rng.integers(1, 60))
    g = np.exp(rng.choice([0.1, 1, 4]) * rng.standard_normal(n))
    old = g * np.exp(rng.choice([0, 1, 9]) * rng.standard_normal(n))
    beta = 2 ** rng.choice([0.25, 0.5, 1, 3])
    stale = np.floor(np.log(old) / np.log(beta)).astype(int)
    fresh = np.floor(np.log(g) / np.log(beta)).astype(int)
    kappa = np.exp(rng.exponential())
    _, k = np.unique(stale, return_inverse=True)
    power = rng.choice([rng.random(n), rng.integers(2, size=n)])[k]
    return g, stale, fresh, beta, kappa**power, kappa, rng.random()


def violated(case):
    "Which of the statements `case` violates."
    g, stale, fresh, beta, x, kappa, w = case
    u = np.full(g.size, 1 / g.size)
    G = bin_norms(g, stale)
    p = binned_probabilities(g, stale)
    hat = G * x / (G * x).sum()
    at_u = second_moment(u, g)
    at_p = second_moment(p, g)
    at_hat = second_moment(hat, g)
    best = second_moment(g / g.sum(), g)
    at_fresh = second_moment(binned_probabilities(g, fresh), g)
    at_mixed = second_moment(w * hat + (1 - w) * u, g)
    up = 1 + SLACK
    held = {
        "(E G)^2": np.isclose(at_p, G.mean() ** 2, rtol=SLACK, atol=0),
        "Var G / E g^2": abs(1 - at_p / at_u - G.var() / at_u) < SLACK,
        "never worse": at_p <= at_u * up,
        "fresh": at_fresh <= kantorovich_factor(beta) * best * up,
        "estimates": at_hat <= kantorovich_factor(kappa) * at_p * up,
        "mixture": at_mixed <= (w * at_hat + (1 - w) * at_u) * up,
    }
    return [name for name, true in held.items() if not true]


def search(cases, seed):
    rng = np.random.default_rng(seed)
    for k in range(cases):
        found = violated(random_case(rng))
        assert not found, f"case {k}: {found}"


def test_no_violation_in_400_random_cases():
    search(400, seed=0)


@pytest.mark.full
def test_no_violation_in_20_000_random_cases():
    search(20_000, seed=1)


def test_the_search_can_fail():
    "Estimates that differ within a bin, or a factor that is too small, are found out."
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(300):
        g, stale, fresh, beta, x, kappa, w = random_case(rng)
        per_item = kappa ** rng.random(g.size)
        found |= set(violated((g, stale, fresh, beta, per_item, kappa, w)))
        found |= set(violated((g, stale, fresh, 1.0, x, kappa, w)))
    assert {"estimates", "fresh"} <= found


def test_in_fractions_H_is_the_square_of_the_mean():
    "Bins {1, 7}, {2, 2, 2}: G = 5, 2, all numbers rational."
    g = [F(1), F(7), F(2), F(2), F(2)]
    G = [F(5), F(5), F(2), F(2), F(2)]
    p = [x / sum(G) for x in G]
    H = sum(x * x / q for x, q in zip(g, p)) / 25
    assert H == (sum(G) / 5) ** 2 == F(256, 25)
    ours = binned_probabilities([float(x) for x in g], [0, 0, 1, 1, 1])
    assert np.allclose(ours, [float(q) for q in p], rtol=1e-15)


def test_no_law_alike_in_each_bin_is_better():
    rng = np.random.default_rng(3)
    g = rng.lognormal(0, 2, 30)
    bins = rng.integers(4, size=30)
    least = second_moment(binned_probabilities(g, bins), g)
    for _ in range(200):
        p = rng.lognormal(0, 1, 4)[bins]
        assert second_moment(p / p.sum(), g) >= least * (1 - 1e-12)


@pytest.mark.parametrize("beta", [1.0, 2**0.5, 2.0, 10.0])
def test_the_factors_are_attained(beta):
    "One bin with norms 1 and beta in the proportion beta : 1; estimates off by 1 and beta."
    for few in (1000, 3000):
        many = round(few * beta)
        g = np.repeat([1.0, beta], [many, few])
        ratio = second_moment(np.full(g.size, 1 / g.size), g) / g.mean() ** 2
        assert np.isclose(ratio, kantorovich_factor(beta), rtol=1e-3)
    half = np.array([1.0, beta]) / (1 + beta)
    assert np.isclose(second_moment(half, np.ones(2)), kantorovich_factor(beta))


def test_huge_and_tiny_norms():
    for scale in (1e-300, 1e300):
        assert np.allclose(bin_norms(scale * np.array([1.0, 7.0]), [3, 3]), 5 * scale, rtol=1e-14)
    assert bin_norms([0.0, 0.0], [0, 1]).tolist() == [0, 0]


def test_kinds_and_refusals():
    p = binned_probabilities(torch.tensor([1.0, 3.0]), torch.tensor([-5, 9]))
    assert isinstance(p, torch.Tensor) and p.tolist() == [0.25, 0.75]
    with pytest.raises(InvalidShape, match="bins"):
        bin_norms([1.0, 2.0], [0])
    with pytest.raises(InvalidShape, match="mask"):
        bin_norms([1.0, 2.0], [True, False])
    with pytest.raises(InvalidScores):
        bin_norms([1.0, np.nan], [0, 0])
    with pytest.raises(InvalidScores, match="zero"):
        binned_probabilities([0.0, 0.0], [0, 1])
    with pytest.raises(InvalidArgument, match="ratio"):
        kantorovich_factor(0.5)
