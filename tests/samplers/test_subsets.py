"""Random subsets: exact laws by enumeration on small n, by counts on large n; Lemma 1; refusals."""

import copy
import pickle
from collections import Counter
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidShape
from impsamp.samplers import (
    ApproximateIndependentSampling,
    IndependentSampling,
    NiceSampling,
    SerialSampling,
    SystematicSampling,
)
from impsamp.samplers.enumeration import Script, enumerated_pairs, expected_coefficients, outcomes
from impsamp.samplers.subsets import _floyd, _skip, uniform_subset
from impsamp.theory.minibatch import minibatch_probabilities, variance_factors
from impsamp.typing import SubsetSampling
from tests.samplers.helpers import rng

BY_P = {"independent": IndependentSampling, "approximate": ApproximateIndependentSampling}
tenths_of_items = st.lists(st.integers(0, 10), min_size=1, max_size=4).filter(any)


# ---- exact laws ------------------------------------------------------------------------------
@settings(deadline=None, max_examples=20)
@given(tenths_of_items, st.sampled_from(sorted(BY_P)))
def test_marginals_pairs_and_unbiasedness_by_enumeration(tenths, kind):
    p = np.array(tenths) / 10
    s = BY_P[kind](p)
    assert sum(chance for chance, _ in outcomes(s)) == 1
    P = enumerated_pairs(s)
    assert np.allclose(P, s.pairwise_probabilities(), rtol=0, atol=1e-15)
    assert np.allclose(np.diag(P), p, rtol=0, atol=1e-16)
    assert np.allclose(expected_coefficients(s), (p > 0) / p.size, rtol=1e-14, atol=0)


def test_independent_coins_are_independent_in_every_subset_of_items():
    "Not the pairs alone: the probability of each whole subset is the product of its coins."
    p = np.array([0.5, 0.3, 1.0, 0.4, 0.3, 0.05, 0.06])
    law = Counter()
    for chance, d in outcomes(IndependentSampling(p)):
        law[tuple(sorted(d.idx.tolist()))] += chance
    for items, chance in law.items():
        inside = np.isin(np.arange(p.size), items)
        assert np.isclose(float(chance), np.where(inside, p, 1 - p).prod(), rtol=1e-13)
    assert len(law) == 2**6


@pytest.mark.parametrize("n, b", [(1, 1), (4, 1), (4, 4), (5, 3), (6, 2)])
def test_every_nice_subset_is_equally_likely(n, b):
    s = NiceSampling(n, b)
    law = Counter()
    for chance, d in outcomes(s):
        items = tuple(d.idx.tolist())
        assert len(set(items)) == b
        assert np.allclose(d.weight, 1 / b, rtol=1e-15)
        law[items] += chance
    assert len(set(law.values())) == 1
    assert len(law) == comb(n, b)
    assert np.allclose(enumerated_pairs(s), s.pairwise_probabilities(), rtol=1e-14)


twentieths = st.lists(st.integers(1, 20), min_size=2, max_size=7)


@given(twentieths.filter(lambda c: sum(c) >= 20))
@settings(deadline=None, max_examples=30)
def test_systematic_pairs_are_overlaps_of_arcs(c):
    p = np.array([*c, 20 - sum(c) % 20]) / 20
    s = SystematicSampling(p)
    assert {len(d.idx) for _, d in outcomes(s)} == {s.b}
    assert np.isclose(s.b, p.sum())
    assert np.allclose(enumerated_pairs(s), s.pairwise_probabilities(), rtol=0, atol=1e-12)
    assert np.allclose(expected_coefficients(s), 1 / p.size, rtol=1e-13)


def test_serial_is_one_item():
    p = np.array([3, 1, 0, 4]) / 8
    s = SerialSampling(p)
    assert np.allclose(enumerated_pairs(s), np.diag(p), atol=1e-16)
    assert (s.v == 1).all()
    assert s.b == 1
    assert SerialSampling([1.0]).v.tolist() == [0]


# ---- Lemma 1 ---------------------------------------------------------------------------------
@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.02, 1), min_size=2, max_size=9), st.integers(1, 9))
def test_v_satisfies_lemma_1_and_agrees_with_theory(p, b):
    p = np.array(p)
    b = min(b, p.size)
    samplings = [
        IndependentSampling(p),
        ApproximateIndependentSampling(p),
        SerialSampling(p / p.sum()),
        NiceSampling(p.size, b),
        SystematicSampling(minibatch_probabilities(p, b)),
    ]
    for s in samplings:
        q = np.asarray(s.inclusion_probabilities)
        v = s.v
        covariance = s.pairwise_probabilities() - np.outer(q, q)
        assert np.linalg.eigvalsh(np.diag(q * v) - covariance).min() > -1e-12
        assert (v >= 1 - q - 1e-9).all()
        z = rng(b).normal(size=(p.size, 3))
        x = z / (p.size * q[:, None])
        # E || sum_S z_i/(n p_i) - mean ||^2, exactly
        variance = np.einsum("id,ij,jd->", x, covariance, x)
        bound = (v / q * (z**2).sum(1)).sum() / p.size**2
        assert variance <= bound + 1e-12
        assert np.allclose(v, variance_factors(s), atol=1e-6)


def test_v_of_the_approximate_sampling_is_below_the_papers():
    p = np.array([0.5, 0.25, 0.125, 0.3])
    s = ApproximateIndependentSampling(p)
    assert (s.a, s.k) == (2, 4)
    assert np.isclose(s.c, 4 * 1 / (2 * 3))
    papers = 1 - p * (1 - 1 / s.a)
    assert (s.v <= papers + 1e-15).all()
    assert (s.v >= IndependentSampling(p).v).all()


def test_approximate_sampling_contains_nice_and_independent_as_ends():
    nice = ApproximateIndependentSampling(np.full(5, 2 / 5))
    wanted = NiceSampling(5, 2).pairwise_probabilities()
    assert np.allclose(nice.pairwise_probabilities(), wanted)
    assert len(nice.draw(rng()).idx) == 2
    full = ApproximateIndependentSampling(np.array([0.99, 0.1, 0.1]))
    assert full.a == full.k == 3
    assert full.c == 1
    assert np.allclose(full.v, 1 - full.p)


# ---- large n ---------------------------------------------------------------------------------
def pareto(n, b, seed=0):
    return minibatch_probabilities(rng(seed).pareto(1.3, n) + 0.01, b)


@pytest.mark.parametrize("kind", sorted(BY_P))
def test_marginals_and_pairs_by_counts_at_large_n(kind):
    """Counts of 20 cells of items: means, variances and covariances are those of the stated P.

    For coins: independent cells."""
    n = 200_000
    b = 40
    draws = 4000
    p = pareto(n, b)
    if kind == "approximate":  # a of a few thousand
        p = np.minimum(p, 0.02)
        p = p * b / p.sum()
    s = BY_P[kind](p)
    g = rng(1)
    cell = np.minimum((np.cumsum(p) / b * 20).astype(int), 19)
    counts = np.array([np.bincount(cell[s.draw(g).idx], minlength=20) for _ in range(draws)])
    mean = np.bincount(cell, weights=p)
    square = np.bincount(cell, weights=p**2)
    c = getattr(s, "c", 1.0)
    # sum over cells of P_ij - p_i p_j
    cov = np.diag(mean - c * square) + (c - 1) * np.outer(mean, mean)
    variance = np.diag(cov)
    z = (counts.mean(0) - mean) / np.sqrt(variance / draws)
    assert stats.chi2.sf((z**2).sum(), 20) > 1e-4
    spread = (counts - mean).T @ (counts - mean) / draws - cov
    fourth = np.outer(variance, variance) * (1 + np.eye(20)) + np.diag(variance)
    assert np.abs(spread / np.sqrt(fourth / draws)).max() < 5.5
    sizes = counts.sum(1)
    assert np.isclose(sizes.var(), cov.sum(), rtol=0.15)


def test_pairs_of_neighbours_in_one_class_are_independent():
    """Chi-square of the 2x2 tables of adjacent items in the skipping order.

    There dependence would show first."""
    p = np.full(60, 0.11) * (1 + 0.3 * rng(2).random(60))
    s = IndependentSampling(p)
    g = rng(3)
    draws = 20_000
    seen = np.zeros((draws, 60), bool)
    for row in seen:
        row[s.draw(g).idx] = True
    order = s._table[:, 1].astype(int)
    both = (seen[:, order[:-1]] & seen[:, order[1:]]).mean(0)
    wanted = p[order[:-1]] * p[order[1:]]
    z = (both - wanted) / np.sqrt(wanted * (1 - wanted) / draws)
    assert stats.chi2.sf((z**2).sum(), 59) > 1e-4
    # draws do not depend on each other
    sizes = seen.sum(1)
    correlations = [np.corrcoef(sizes[:-k], sizes[k:])[0, 1] for k in (1, 2, 3)]
    assert np.abs(correlations).max() < 5 / draws**0.5


def test_skipping_is_what_n_coins_give():
    """The law of the size (Poisson binomial), against explicit coins on the same p."""
    p = pareto(2000, 10, 4)
    g = rng(5)
    s = IndependentSampling(p)
    draws = 5000
    sizes = np.array([len(s.draw(g).idx) for _ in range(draws)])
    coins = (rng(9).random((draws, 2000)) < p).sum(1)
    edges = np.arange(3, 19)
    table = np.array([np.histogram(np.clip(x, 3, 17), edges)[0] for x in (sizes, coins)])
    assert stats.chi2_contingency(table[:, table.sum(0) > 10]).pvalue > 1e-4


def test_compiled_skipping_and_floyd_are_the_plain_python_ones():
    p = pareto(500, 20, 6)
    fast = IndependentSampling(p)
    slow = IndependentSampling(p)
    slow._walk = _skip
    for seed in range(20):
        a = fast.draw(rng(seed))
        b = slow.draw(rng(seed))
        assert (a.idx == b.idx).all()
        assert (a.prob == b.prob).all()
        u = rng(seed).random(30)
        rows = np.empty(30, np.int64)
        _floyd(u, 90, np.full(64, -1), rows)
        assert (uniform_subset(90, 30, Script(u)) == rows).all()


def test_skipping_goes_on_when_its_uniforms_run_out():
    p = pareto(3000, 30, 7)
    s = IndependentSampling(p)
    short = IndependentSampling(p)
    short._need = 5  # many refills
    g = rng(0)
    h = rng(1)
    a = np.array([len(s.draw(g).idx) for _ in range(3000)])
    b = np.array([len(short.draw(h).idx) for _ in range(3000)])
    assert abs(a.mean() - b.mean()) < 5 * np.sqrt(2 * p @ (1 - p) / 3000)
    d = short.draw(h)
    assert len(set(d.idx.tolist())) == len(d.idx)
    assert np.allclose(d.prob, p[d.idx])


@pytest.mark.parametrize("n", [10**3, 10**5, 10**6])
def test_expected_cost_is_of_order_b_plus_log_n(n):
    "Uniforms used in the mean: at most 4 b + classes, whatever n is."
    s = IndependentSampling(pareto(n, 64))
    hits = float(s._q @ np.diff(s._start))
    assert hits <= 2 * 64 + 2
    assert s._q.size <= np.log2(n) + 2


# ---- edges and refusals ----------------------------------------------------------------------
by_p = pytest.mark.parametrize("make", BY_P.values(), ids=BY_P)


@by_p
def test_certain_items_are_always_there(make):
    assert make([1.0, 1.0, 1.0]).draw(rng()).idx.tolist() == [0, 1, 2]
    both = make([1.0, 1.0])
    assert both.draw(rng()).weight.tolist() == [0.5, 0.5]
    assert (both.v == 0).all()


@by_p
def test_items_that_hardly_ever_or_never_come(make):
    g = rng()
    tiny = make([1e-300, 0.5])
    assert all(0 not in tiny.draw(g).idx for _ in range(50))
    zero = make([0.0, 0.5, 0.5])
    assert all(0 not in zero.draw(g).idx for _ in range(200))


@by_p
def test_an_empty_subset_estimates_zero(make):
    g = rng()
    draws = [make([0.1, 0.1]).draw(g) for _ in range(40)]
    empty = [d for d in draws if len(d.idx) == 0]
    assert empty
    assert empty[0].weight.dtype == torch.float64
    assert empty[0].estimate(torch.empty(0, 2)).tolist() == [0, 0]


@by_p
def test_one_item(make):
    one = make([0.25])
    assert one.pairwise_probabilities().tolist() == [[0.25]]
    assert one.v.tolist() == [0.75]  # k = 1: c is 0/0 on paper


@by_p
def test_tensors_in_tensors_out_and_any_generator(make):
    t = make(torch.tensor([0.5, 0.25]))
    for x in (t.inclusion_probabilities, t.v, t.pairwise_probabilities()):
        assert isinstance(x, torch.Tensor)
    assert make([0.5] * 20).draw(torch.Generator().manual_seed(0), step=3).step == 3


@pytest.mark.parametrize(
    "make",
    [IndependentSampling, ApproximateIndependentSampling, SystematicSampling, SerialSampling],
)
@pytest.mark.parametrize(
    "p, error, words",
    [
        ([np.nan, 0.5], InvalidProbabilities, "not finite at index 0"),
        ([-0.5, 1.5], InvalidProbabilities, "negative"),
        ([], InvalidShape, "empty"),
        ([0.0, 0.0], InvalidProbabilities, "zero|sums to 0"),
        ([1.0, 1e-310], InvalidProbabilities, "subnormal"),
        ([[0.5]], InvalidShape, "dimension"),
    ],
)
def test_refusals(make, p, error, words):
    with pytest.raises(error, match=words):
        make(p)


def test_refusals_of_their_own():
    for make in (IndependentSampling, ApproximateIndependentSampling, SystematicSampling):
        with pytest.raises(InvalidProbabilities, match="above 1 at index 1: cap it"):
            make([0.5, 1.5])
    with pytest.raises(InvalidProbabilities, match=r"sums to 1\.2"):
        SerialSampling([0.6, 0.6])
    with pytest.raises(InvalidProbabilities, match="whole number"):
        SystematicSampling([0.6, 0.6])
    with pytest.raises(InvalidArgument, match="20 000"):
        NiceSampling(30_000, 3).pairwise_probabilities()


@pytest.mark.parametrize(
    "n, b, words",
    [
        (0, 1, "n must"),
        (5, 0, "b must"),
        (5, 6, "b must be at least 1 and at most 5"),
        (5, 2.5, "whole number"),
    ],
)
def test_refusals_of_nice(n, b, words):
    with pytest.raises(InvalidArgument, match=words):
        NiceSampling(n, b)


def test_systematic_beyond_the_size_of_eigenvalues_uses_the_size_bound():
    p = np.r_[np.full(1999, 5 / 1999), 1.0]
    s = SystematicSampling(p)
    assert s.b == 6
    assert s.v[0] == 6
    assert s.v[-1] == 0
    assert len(s.draw(rng()).idx) == 6


@pytest.mark.parametrize("n, b", [(10, 10), (10**7, 64), (1000, 999), (2**24 + 1, 5000)])
def test_nice_at_any_size(n, b):
    d = NiceSampling(n, b).draw(rng(b))
    assert len(set(d.idx.tolist())) == b
    assert d.idx.max() < n
    assert np.allclose(d.weight, 1 / b, rtol=1e-15)


def test_nice_of_one():
    assert NiceSampling(1, 1).v.tolist() == [0]
    assert NiceSampling(1, 1).pairwise_probabilities().tolist() == [[1]]


# ---- the one way to draw some items alike ----------------------------------------------------
def test_a_uniform_subset_by_hand():
    # j = 1, 2, 3: floor(u (j + 1)) is 1, 1, 0; the second 1 is there already, so 2 itself is taken
    assert uniform_subset(4, 3, Script([0.9, 0.4, 0.1])).tolist() == [1, 2, 0]
    assert uniform_subset(5, 0, rng()).size == 0


def test_a_uniform_subset_takes_any_generator_and_refuses_what_cannot_be():
    for make in (rng, lambda: torch.Generator().manual_seed(1)):
        rows = uniform_subset(1000, 10, make())
        assert rows.dtype == np.int64
        assert len(set(rows.tolist())) == 10
        assert (rows == uniform_subset(1000, 10, make())).all()
    with pytest.raises(InvalidArgument, match="b must be at least 0 and at most 5, got 6"):
        uniform_subset(5, 6, rng())
    with pytest.raises(InvalidArgument, match="n must be at least 1"):
        uniform_subset(0, 0, rng())


# ---- what a sampling is ----------------------------------------------------------------------
SEVERAL = [
    NiceSampling(4, 2),
    IndependentSampling([0.5, 1.0, 0.25]),
    ApproximateIndependentSampling([0.5, 1.0, 0.25]),
    SystematicSampling([0.5, 0.5, 1.0]),
    SerialSampling([0.5, 0.5]),
]


@pytest.mark.parametrize("s", SEVERAL, ids=lambda s: type(s).__name__)
def test_a_sampling_is_a_sampling_and_survives_copies(s):
    for twin in (copy.copy(s), copy.deepcopy(s), pickle.loads(pickle.dumps(s))):
        assert isinstance(twin, SubsetSampling)
        assert twin.draw(rng()).idx.equal(s.draw(rng()).idx)
    assert repr(s) == f"{type(s).__name__}(n={s.n}, b={s.b:g})"


def test_a_sampling_is_known_without_its_eigenvalues(monkeypatch):
    def computed(self):
        raise AssertionError("v was computed only to see what this is")

    monkeypatch.setattr(SystematicSampling, "_v", computed)
    assert isinstance(SystematicSampling([0.5, 0.5]), SubsetSampling)
    assert not isinstance(np.ones(3), SubsetSampling)


@pytest.mark.parametrize(
    "make, p",
    [
        (IndependentSampling, [1 + 1e-12, 0.5]),
        (ApproximateIndependentSampling, [1 + 1e-12, 0.5]),
        (SystematicSampling, [1 + 1e-12, 0.5, 0.5]),
    ],
)
def test_a_probability_above_one_by_rounding_counts_as_one(make, p):
    s = make(p)
    assert s.inclusion_probabilities[0] == 1
    assert s.v[0] == 0
    for seed in range(20):
        draw = s.draw(np.random.default_rng(seed))
        assert 0 in draw.idx
        assert np.isclose(draw.weight[draw.idx == 0], 1 / len(p))
    with pytest.raises(InvalidProbabilities, match="above 1 at index 0"):
        make([1 + 2e-9, *p[1:]])


@pytest.mark.parametrize("kind", ["nice", "independent", "approximate", "systematic", "serial"])
def test_a_subset_takes_an_int_as_the_seed_of_all_its_uniforms(kind):
    "Also where one draw asks for uniforms more than once."
    p = np.r_[np.full(40, 0.5), np.full(400, 0.01)]
    sampling = {
        "nice": lambda: NiceSampling(440, 24),
        "independent": lambda: IndependentSampling(p),
        "approximate": lambda: ApproximateIndependentSampling(p),
        "systematic": lambda: SystematicSampling(p),
        "serial": lambda: SerialSampling(p / p.sum()),
    }[kind]()
    for seed in range(5):
        wanted = sampling.draw(np.random.default_rng(seed))
        assert sampling.draw(seed).idx.equal(wanted.idx)
    sampling.draw(None)
