"""The between theorem searched for violations, divergences in fractions, what orders schemes."""

from fractions import Fraction as F
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import InvalidProbabilities, InvalidScores, InvalidShape
from impsamp.theory.convergence import optimal_probabilities, second_moment
from impsamp.theory.divergences import (
    chi2_divergence,
    is_between,
    kl_divergence,
    speed_gain,
    total_variation,
)


def random_between(rng, cases, n, spread, reference=None):
    "Norms g (cases, n), the optimum q, a reference r (or u) and schemes p between r and q."
    g = np.exp(spread * rng.standard_normal((cases, n)))
    q = g / g.sum(1, keepdims=True)
    r = np.full((cases, n), 1 / n) if reference is None else reference
    move = rng.random((cases, n)) ** rng.choice([0.2, 1, 5]) * (q - r)
    up = np.maximum(move, 0).sum(1, keepdims=True)
    down = np.maximum(-move, 0).sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.nan_to_num(np.minimum(up, down) / np.where(move > 0, up, down))
    return g, q, r, r + move * part


def fractions(row):
    return [F(float(x)) for x in row]


def H(p, g):
    return sum(a * a / b for a, b in zip(g, p))


def is_worse_exactly(g, p, r):
    "H(p) > H(r), decided in fractions; schemes with a zero do not count."
    p = fractions(p)
    return all(p) and H(p, fractions(g)) > H(fractions(r), fractions(g))


def violations_among(rng, cases, n, spread, reference):
    g, _, r, p = random_between(rng, cases, n, spread, reference)
    with np.errstate(divide="ignore", over="ignore"):
        suspicious = (g**2 / p).sum(1) > (g**2 / r).sum(1) * (1 + 1e-9)
    return sum(is_worse_exactly(g[k], p[k], r[k]) for k in np.flatnonzero(suspicious))


def violations(rng, cases, sizes):
    "(violations of H(p) <= H(r), cases) over sizes, spreads and references."
    found = done = 0
    for n, spread in product(sizes, (0.1, 1.0, 3.0)):
        for reference in (None, rng.dirichlet(np.ones(n), cases)):
            found += violations_among(rng, cases, n, spread, reference)
            done += cases
    return found, done


def test_between_theorem_survives_a_search():
    found, done = violations(np.random.default_rng(0), 400, (2, 3, 5, 10, 50))
    assert found == 0
    assert done == 12_000


@pytest.mark.full
def test_between_theorem_survives_a_million_cases():
    sizes = (2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 33, 36, 40, 43, 46, 50) * 3
    found, done = violations(np.random.default_rng(1), 4_000, sizes)
    assert found == 0
    assert done > 10**6


def test_the_search_can_find_a_violation():
    "With 'closer in every coordinate by a factor two' for the box it would fail at once."
    rng = np.random.default_rng(2)
    bad = 0
    for _ in range(500):
        g = np.exp(2 * rng.standard_normal(5))
        q = g / g.sum()
        p = np.abs(q + rng.uniform(-1, 1, 5) * np.abs(q - 0.2))
        p /= p.sum()
        bad += second_moment(p, g) > second_moment(np.full(5, 0.2), g)
    assert bad > 0


def test_overshoot_by_the_same_factor_is_safe():
    "The wider box of the proof: p_i between u_i and q_i^2/u_i."
    rng = np.random.default_rng(3)
    n = 4
    u = np.full(n, 1 / n)
    hits = 0
    for _ in range(3_000):
        g = np.exp(rng.standard_normal(n))
        q = g / g.sum()
        low = np.minimum(u, q**2 / u)
        high = np.maximum(u, q**2 / u)
        p = low + rng.random(n) * (high - low)
        p /= p.sum()
        if ((low <= p) & (p <= high)).all():
            hits += not is_between(p, q)
            assert second_moment(p, g) <= second_moment(u, g) * (1 + 1e-12)
    assert hits > 20


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30))
def test_between_is_faster_and_monotone(seed, n):
    rng = np.random.default_rng(seed)
    g, q, r, p = (x[0] for x in random_between(rng, 1, n, 1.0))
    assert is_between(p, q)
    assert second_moment(p, g) <= second_moment(r, g) * (1 + 1e-12)
    *_, between_p_and_q = random_between(np.random.default_rng(seed), 1, n, 1.0, p[None])
    (nearer,) = between_p_and_q
    assert is_between(nearer, q, p)
    assert second_moment(nearer, g) <= second_moment(p, g) * (1 + 1e-12)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20))
def test_chi_square_is_the_order_of_speed(seed, n):
    rng = np.random.default_rng(seed)
    g = rng.exponential(size=n) + 1e-3
    p = rng.dirichlet(np.ones(n)) + 1e-6
    p /= p.sum()
    q = optimal_probabilities(g)
    by_chi2 = g.sum() ** 2 / n**2 * (1 + chi2_divergence(q, p))
    assert second_moment(p, g) == pytest.approx(by_chi2, rel=1e-9)
    of_u, of_p, of_q = (second_moment(x, g) for x in (np.full(n, 1 / n), p, q))
    gain = (of_u - of_p) / (of_u - of_q)
    assert speed_gain(p, g) == pytest.approx(gain, rel=1e-6, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.integers(0, 100))
def test_divergences_equal_exact_fractions(weights, seed):
    rng = np.random.default_rng(seed)
    other = [int(x) for x in rng.integers(1, 60, len(weights))]
    p = [F(w, sum(weights)) for w in weights]
    q = [F(w, sum(other)) for w in other]
    tv = sum(abs(a - b) for a, b in zip(p, q)) / 2
    chi2 = sum((a - b) ** 2 / b for a, b in zip(p, q))
    kl = sum(float(a) * np.log(float(a / b)) for a, b in zip(p, q))

    x = np.array(p, float)
    y = np.array(q, float)
    assert total_variation(x, y) == pytest.approx(float(tv), abs=1e-15)
    assert chi2_divergence(x, y) == pytest.approx(float(chi2), rel=1e-12, abs=1e-15)
    assert kl_divergence(x, y) == pytest.approx(kl, abs=1e-13)
    assert chi2_divergence(x, x) == total_variation(x, x) == kl_divergence(x, x) == 0
    assert kl_divergence(x, y) <= np.log1p(chi2_divergence(x, y)) + 1e-12
    assert kl_divergence(x, y) >= 2 * total_variation(x, y) ** 2 - 1e-12


EVEN = [0.5, 0.5]
SECOND_ONLY = [0.0, 1.0]


def test_zero_probabilities():
    assert chi2_divergence(SECOND_ONLY, SECOND_ONLY) == 0
    assert chi2_divergence(EVEN, SECOND_ONLY) == np.inf
    assert kl_divergence(SECOND_ONLY, EVEN) == pytest.approx(np.log(2))
    assert kl_divergence(EVEN, SECOND_ONLY) == np.inf


def test_boundaries():
    assert speed_gain([1.0], [2.0]) == 0  # one item: nothing to gain
    assert is_between(EVEN, EVEN)
    assert is_between(SECOND_ONLY, SECOND_ONLY)
    assert not is_between([0.4, 0.6], [0.6, 0.4])


def test_tensors_are_read():
    even = torch.tensor(EVEN)
    assert is_between(even, torch.tensor([0.25, 0.75]))
    assert speed_gain(even, torch.tensor([1.0, 3.0])) == 0


DISTANCES = [total_variation, kl_divergence, chi2_divergence, is_between]
BAD = [
    ([0.5, 0.6], EVEN, InvalidProbabilities, "sums to"),
    (EVEN, [1.5, -0.5], InvalidProbabilities, "q is negative|p_gn is negative"),
    ([float("nan"), 1.0], EVEN, InvalidProbabilities, "not finite"),
    (EVEN, [1.0], InvalidShape, "entries"),
    ([], [], InvalidShape, "empty"),
]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("p, q, error, words", BAD, ids=range(len(BAD)))
def test_bad_input_is_refused_with_words(distance, p, q, error, words):
    with pytest.raises(error, match=words):
        distance(p, q)


def test_speed_gain_refuses_norms_that_say_nothing():
    with pytest.raises(InvalidScores, match="all zero"):
        speed_gain([0.5, 0.5], [0.0, 0.0])
    with pytest.raises(InvalidScores, match="negative"):
        speed_gain([0.5, 0.5], [1.0, -1.0])
    with pytest.raises(InvalidShape):
        speed_gain([0.5, 0.5], [1.0, 1.0, 1.0])
