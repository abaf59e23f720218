"""Arithmetic of an assessment: what a subset hides, a pool adds, and a distance proves."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.assess.measures import (
    MEASURES,
    best_pool,
    compare_with_uniform,
    distances,
    log_ratio_error,
    measure,
    pool_variance_ratio,
    pull,
    restrict,
    summarise,
    unpull,
)
from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidScores, InvalidShape
from impsamp.theory.convergence import optimal_probabilities, second_moment
from tests.assess.helpers import a_row

positive = st.floats(0.01, 100)


def vectors(n):
    return st.lists(positive, min_size=n, max_size=n).map(np.array)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 6).flatmap(lambda n: st.tuples(vectors(n), vectors(n), st.integers(2, n))))
def test_unpull_is_exactly_unbiased_over_every_subset(case):
    g, s, m = case
    k = pull(m, g.size)
    fixed = []
    for j in map(list, combinations(range(g.size), m)):
        squares = g[j] ** 2
        product_of_means = np.mean(squares / s[j]) * np.mean(s[j])
        fixed.append(unpull(product_of_means, np.mean(squares), k))
    assert np.isclose(np.mean(fixed), second_moment(s / s.sum(), g), rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12).flatmap(lambda n: st.tuples(vectors(n), vectors(n))))
def test_chi2_from_the_optimum_is_the_extra_second_moment(case):
    g, s = case
    p, gn = s / s.sum(), optimal_probabilities(g)
    ratio = second_moment(p, g) / second_moment(gn, g)
    assert np.isclose(1 + distances(p, gn)["chi2_reverse"], ratio, rtol=1e-8)


def vector_second_moment(p, G):
    return (np.square(G).sum(1) / p).sum() / len(p) ** 2


@pytest.mark.parametrize("seed", range(4))
def test_variance_ratio_is_that_of_weighted_draws_of_vectors(seed):
    rng = np.random.default_rng(seed)
    G, s = rng.normal(size=(7, 3)) + 0.3, rng.uniform(0.2, 2, 7)
    p, mean = s / s.sum(), G.mean(0)

    def cov(q):
        return sum(q[i] * np.square(G[i] / (7 * q[i]) - mean).sum() for i in range(7))

    u = np.full(7, 1 / 7)
    row = measure(s, np.linalg.norm(G, axis=1), mean_norm=np.linalg.norm(mean))
    assert np.isclose(row["variance_ratio"], cov(p) / cov(u))
    ratio = vector_second_moment(p, G) / vector_second_moment(u, G)
    assert np.isclose(row["second_moment_ratio"], ratio)


@pytest.mark.parametrize("seed", range(3))
def test_sample_variances_carry_one_common_factor(seed):
    "By enumeration: V(p~) and V(u~) have expectation (1 - k) V, the ratio needs no correction."
    rng = np.random.default_rng(seed)
    G, s = rng.normal(size=(6, 2)) + 0.5, rng.uniform(0.2, 2, 6)
    m = 3
    k, u = pull(m, 6), np.full(6, 1 / 6)

    def V(p, G):
        return vector_second_moment(p / p.sum(), G) - np.square(G.mean(0)).sum()

    def over(p):
        subsets = map(list, combinations(range(6), m))
        return np.mean([V(p[j], G[j]) for j in subsets])

    assert np.isclose(over(s), (1 - k) * V(s, G))
    assert np.isclose(over(u), (1 - k) * V(u, G))


@pytest.mark.parametrize("pool,batch", [(2, 1), (3, 1), (2, 2)])
def test_pool_variance_by_enumeration_of_pools_and_draws(pool, batch):
    G, s = np.array([[1.0, 0.0], [3.0, 1.0], [-1.0, 2.0]]), np.array([1.0, 2.5, 1.5])
    outcomes = []
    for members in product(range(3), repeat=pool):
        q = s[list(members)] / s[list(members)].sum()
        for picks in product(range(pool), repeat=batch):
            estimate = sum(G[members[i]] / (batch * pool * q[i]) for i in picks)
            outcomes.append((np.prod(q[list(picks)]) / 3**pool, estimate))
    mean = sum(w * e for w, e in outcomes)
    variance = sum(w * np.square(e - mean).sum() for w, e in outcomes)
    assert np.allclose(mean, G.mean(0))  # unbiased
    row = measure(s, np.linalg.norm(G, axis=1), mean_norm=np.linalg.norm(G.mean(0)))
    V_u = np.square(G - G.mean(0)).sum(1).mean()
    ratio = pool_variance_ratio(row["variance_ratio"], batch, pool)
    assert np.isclose(variance, V_u / batch * ratio)


def test_pool_of_distinct_items_by_enumeration():
    G = np.array([[1.0, 0.0], [3.0, 1.0], [-1.0, 2.0], [0.0, 1.5]])
    s = np.array([1.0, 2.5, 1.5, 0.7])
    outcomes = []
    for members in map(list, combinations(range(4), 3)):
        within = s[members] / s[members].sum()
        outcomes += [(1 / 4 * q, G[i] / (3 * q)) for i, q in zip(members, within)]
    mean = sum(w * e for w, e in outcomes)
    row = measure(s, np.linalg.norm(G, axis=1), mean_norm=np.linalg.norm(G.mean(0)))
    V_u = np.square(G - G.mean(0)).sum(1).mean()
    variance = sum(w * np.square(e - mean).sum() for w, e in outcomes)
    assert np.isclose(variance, V_u * pool_variance_ratio(row["variance_ratio"], 1, 3, 4))
    assert pool_variance_ratio(0.3, 5, 4, 4) == 0.3  # the whole set is no pool


@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 0.999), st.floats(0.001, 2), st.floats(0.1, 1))
def test_best_pool_is_the_minimum_over_pool_factors(v, c, a):
    r, value = best_pool(v, c, draw_cost=a)
    grid = np.linspace(1, 200, 20000)
    assert value <= ((v + 1 / grid) * (a + grid * c)).min() + 1e-12
    if r > 1:
        assert np.isclose(value, (np.sqrt(a * v) + np.sqrt(c)) ** 2)


def test_scores_as_dear_as_gradients_never_pay_through_a_pool():
    assert all(best_pool(v, c)[1] >= 1 for v in (0, 0.01, 0.5, 1) for c in (1.0, 1.5))
    assert best_pool(0.5, 0.0) == (float("inf"), 0.5)


def test_praised_by_total_variation_condemned_by_theory():
    row = measure([0.75, 0.249, 0.001], [7, 2, 1])
    closer = {m: row[m + "_p"] < row[m + "_u"] for m in MEASURES}
    assert closer == {
        "tv": True,
        "kl": True,
        "chi2": True,
        "kl_reverse": False,
        "chi2_reverse": False,
    }
    assert row["second_moment_ratio"] > 6 and row["speed_gain"] < 0 and not row["between"]


def test_zero_probability_with_a_gradient_is_infinitely_bad_and_harmless_without():
    row = measure([0.5, 0.5, 0], [1, 1, 1])
    for key in ("second_moment_ratio", "max_weight", "chi2_reverse_p"):
        assert row[key] == np.inf
    row = measure([0.5, 0.5, 0], [1, 1, 0])
    assert np.isclose(row["second_moment_ratio"], 2 / 3) and np.isclose(row["speed_gain"], 1)


def test_tiny_norms_do_not_underflow():
    row = measure([3, 1], [3e-170, 1e-170], mean_norm=2.5**0.5 * 1e-170)
    assert np.isclose(row["second_moment_ratio"], 0.8) and np.isclose(row["variance_ratio"], 0.6)


@pytest.mark.parametrize(
    "call,error,words",
    [
        (lambda: measure([0.5, 0.5], [0, 0]), InvalidScores, "all zero"),
        (lambda: measure([0.5, 0.5], [1, np.nan]), InvalidScores, "not finite at index 1"),
        (lambda: measure([0.5, 0.5], [1, 2, 3]), InvalidShape, "3 norms"),
        (lambda: measure([0.5, -0.5], [1, 2]), InvalidProbabilities, "negative at index 1"),
        (lambda: measure([1.0], [1.0]), InvalidArgument, "at least two"),
        (lambda: restrict([0.0, 0.0, 1.0], [0, 1]), InvalidProbabilities, "never draws"),
        (lambda: restrict([np.nan, 1.0]), InvalidProbabilities, "not finite"),
        (lambda: pull(5, 4), InvalidArgument, "at most 4"),
        (lambda: unpull(1.0, 1.0, 1.0), InvalidArgument, "at least two items"),
        (lambda: pool_variance_ratio(0.5, 0, 4), InvalidArgument, "batch"),
        (lambda: best_pool(-1, 0.5), InvalidArgument, "variance_ratio >= 0"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_error_is_zero_on_the_whole_set_and_shrinks_with_m():
    rng = np.random.default_rng(1)
    g, s = rng.lognormal(size=500), rng.uniform(0.5, 2, 500)
    assert log_ratio_error(s, g) == 0
    few = log_ratio_error(s, g, population=10**9)
    many = log_ratio_error(np.tile(s, 4), np.tile(g, 4), population=10**9)
    assert few > many
    assert np.isnan(log_ratio_error([1, 0], [1, 1], population=5))


@pytest.mark.parametrize(
    "change,word",
    [
        ({}, "better"),
        (dict(second_moment_ratio=1.5), "worse"),
        (dict(second_moment_ratio=0.99), "undecided"),
        (dict(tv_to_u=0.0), "equal"),
        (dict(second_moment_ratio=np.inf), "worse"),
    ],
)
def test_comparison_with_uniform(change, word):
    assert compare_with_uniform(a_row(**change)) == word


def test_summary_by_hand():
    "Two rows: ratios 1/2 and 2 average to 1, costs by their median, TV praises both."
    rows = [a_row(tv_p=0.05), a_row(tv_p=0.05, second_moment_ratio=2.0, seconds_norms=2.5)]
    s = summarise(rows)
    assert (s["evaluations"], s["better"], s["worse"], s["undecided"]) == (2, 1, 1, 0)
    assert s["second_moment_ratio"] == pytest.approx(1)
    assert (s["norms_cost"], s["scores_cost"]) == (2.0, 0.5)
    assert (s["tv_says_better"], s["tv_misleads"], s["tv_silent"]) == (2, 1, 0)
    assert (s["kl_says_better"], s["kl_misleads"], s["kl_silent"]) == (0, 0, 2)


def test_summary_of_infinite_distances_and_of_nothing_timed():
    row = a_row(chi2_p=np.inf, chi2_u=np.inf, kl_p=np.inf, seconds_plain=0.0)
    s = summarise([row])
    assert (s["chi2_silent"], s["kl_says_better"], s["kl_misleads"]) == (1, 0, 1)
    assert np.isnan(s["norms_cost"]) and s["chi2_p"] == np.inf
