"""What alias table, tree and inverse CDF have in common: their law at any size, bad input."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidShape, UnknownName
from impsamp.samplers import AliasTable, InverseCDF, SumTree
from impsamp.samplers.draws import weights_of
from impsamp.samplers.enumeration import expected_coefficients
from impsamp.typing import Sampler, SubsetSampling
from tests.samplers.helpers import KINDS, POINTS, counts_of_items, rng


# ---- exactly ---------------------------------------------------------------------------------
@settings(deadline=None, max_examples=15)
@given(counts_of_items, st.sampled_from(list(KINDS)), st.sampled_from(POINTS))
def test_every_outcome_adds_up_to_the_mean(counts, kind, method):
    p = np.array(counts) / sum(counts)
    options = {} if kind == "alias" else {"method": method}
    E = expected_coefficients(KINDS[kind](p), 2, **options)
    assert np.allclose(E, (p > 0) / p.size, rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_one_formula(kind):
    "To the last bit, wherever a sampler computes them."
    p = rng(3).pareto(1.0, 1001)
    p /= p.sum()
    for size in (1, 64, 77):
        d = KINDS[kind](p).draw(size, rng(size))
        wanted = weights_of(d.prob.numpy(), n=p.size, batch=size)
        assert (d.weight.numpy() == wanted).all()


@pytest.mark.parametrize("method", ["systematic", "stratified"])
@pytest.mark.parametrize("kind", ["tree", "cdf"])
def test_counts_of_the_lower_variance_siblings(kind, method):
    p = rng(3).dirichlet(np.ones(30))
    B = 50
    s = KINDS[kind](p)
    g = rng()
    draws = [s.draw(B, g, method=method) for _ in range(400)]
    counts = np.array([np.bincount(d.idx, minlength=30) for d in draws])
    # floor and ceil of B p; a stratum at each end may add one
    slack = 1 if method == "systematic" else 2
    assert (np.abs(counts - B * p) < slack).all()
    assert counts.var(0).sum() < 0.7 * (B * p * (1 - p)).sum()
    z = (counts.mean(0) - B * p) / (counts.std(0) / 20 + 1e-9)
    assert np.abs(z[counts.std(0) > 0.1]).max() < 5


# ---- chi-square at the size where torch.multinomial stops ------------------------------------
def cells_of(p):
    "200 cells of nearly equal probability by position, and one more for each item above 1/400."
    heavy = np.flatnonzero(p > 1 / 400)
    light = np.where(p > 1 / 400, 0, p)
    cell = np.minimum((np.cumsum(light) / light.sum() * 200).astype(np.int64), 199)
    cell[heavy] = 200 + np.arange(heavy.size)
    return cell, 200 + heavy.size


def chi_square(sampler, p, draws, seed):
    "p-value of the counts in the cells of `p`; no item of probability zero may come."
    cell, cells = cells_of(p)
    counts = np.zeros(cells)
    g = rng(seed)
    size = 500_000
    for _ in range(draws // size):
        idx = sampler.draw(size, g).idx.numpy()
        assert (p[idx] > 0).all()
        counts += np.bincount(cell[idx], minlength=cells)
    expected = np.bincount(cell, weights=p, minlength=cells) * counts.sum()
    keep = expected > 5
    wanted = expected[keep] * counts[keep].sum() / expected[keep].sum()
    return stats.chisquare(counts[keep], wanted).pvalue


@pytest.mark.parametrize("kind", ["alias", "tree"])
def test_law_at_more_than_2_to_the_24_items(kind):
    n = 2**24 + 1
    spread = rng(5).random(n, dtype=np.float32).astype(np.float64)
    p = 10.0 ** -(12 * spread)  # ratios of 10^12
    p[::3] = 0
    p[-1] = 2e5  # the item that torch.multinomial refuses, heavy
    p[n // 2] = 1e4
    p /= p.sum()
    assert chi_square(KINDS[kind](p), p, 1_000_000, 6) > 1e-4


@pytest.mark.full
@pytest.mark.parametrize("kind", ["alias", "tree", "cdf"])
def test_no_zero_item_in_10_to_the_8_draws_and_the_law_holds(kind):
    n = 2**24 + 1
    p = 10.0 ** -(12 * rng(7).random(n))
    p[rng(8).random(n) < 0.5] = 0
    p /= p.sum()
    assert chi_square(KINDS[kind](p), p, 100_000_000, 9) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_no_zero_item_in_a_million_draws(kind):
    p = rng(4).random(1001) * (np.arange(1001) % 2)
    p[0] = 0
    p[-1] = 0
    p /= p.sum()
    assert chi_square(KINDS[kind](p), p, 1_000_000, 1) > 1e-4


# ---- bad input -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["alias", "cdf"])
@pytest.mark.parametrize(
    "p, error, words",
    [
        ([np.nan, 1.0], InvalidProbabilities, "not finite"),
        ([-0.1, 1.1], InvalidProbabilities, "negative"),
        ([0.0, 0.0], InvalidProbabilities, "sums to 0"),
        ([0.5, 0.6], InvalidProbabilities, "sums to 1.1"),
        ([0.5, 0.5 + 1e-5], InvalidProbabilities, "normalise"),
        ([1.0, 1e-310], InvalidProbabilities, "subnormal at index 1"),
        ([], InvalidShape, "empty"),
        ([[1.0]], InvalidShape, "dimension"),
    ],
)
def test_laws_refuse(kind, p, error, words):
    with pytest.raises(error, match=words):
        KINDS[kind](p)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_within_tolerance_are_normalised(kind):
    d = KINDS[kind]([0.5 + 4e-7, 0.5]).draw(50, rng())
    wanted = np.where(d.idx == 0, 0.5 + 4e-7, 0.5) / (1 + 4e-7)
    assert np.allclose(d.prob, wanted, rtol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_one_item_and_sizes(kind):
    s = KINDS[kind]([1.0])
    d = s.draw(3, rng(), step=7)
    assert d.idx.tolist() == [0, 0, 0]
    assert d.weight.tolist() == [1 / 3] * 3
    assert d.prob.tolist() == [1.0] * 3
    assert d.step == 7
    assert d.idx.dtype == torch.int64
    assert d.weight.dtype == torch.float64
    assert d.prob.dtype == torch.float64
    for bad in (0, -1, 2.5, True):
        with pytest.raises(InvalidArgument, match="size"):
            s.draw(bad, rng())
    with pytest.raises(InvalidArgument, match="generator"):
        s.draw(1, "42")
    with pytest.raises(UnknownName if kind != "alias" else TypeError):
        s.draw(1, rng(), method="stratifed")


# ---- generators, threads, copies -------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_torch_generators_and_reproducibility(kind):
    p = rng(1).dirichlet(np.ones(50))
    for make in (rng, lambda: torch.Generator().manual_seed(3)):
        a = KINDS[kind](p).draw(64, make()).idx
        b = KINDS[kind](p).draw(64, make()).idx
        assert (a == b).all()


def test_results_do_not_depend_on_threads():
    p = rng().dirichlet(np.ones(3000))
    samplers = [AliasTable(p), SumTree(p), InverseCDF(p)]

    def draws(threads):
        torch.set_num_threads(threads)
        # large enough for torch to use its threads
        return [s.draw(70_000, torch.Generator().manual_seed(1)).idx for s in samplers]

    before = torch.get_num_threads()
    try:
        seen = [draws(k) for k in (1, 2, 3)]
    finally:
        torch.set_num_threads(before)
    for a, b, c in zip(*seen):
        assert (a == b).all()
        assert (a == c).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_is_a_sampler_and_survives_copies(kind):
    s = KINDS[kind]([0.5, 0.0, 0.25, 0.25])
    wanted = s.draw(20, rng())
    for twin in (copy.copy(s), copy.deepcopy(s), pickle.loads(pickle.dumps(s))):
        assert isinstance(twin, Sampler)
        assert not isinstance(twin, SubsetSampling)
        assert twin.p.tolist() == [0.5, 0.0, 0.25, 0.25]
        assert twin.draw(20, rng()).idx.equal(wanted.idx)


# ---- seeds -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_takes_an_int_as_the_seed_of_its_generator(kind):
    sampler = KINDS[kind](np.full(20, 0.05))
    wanted = sampler.draw(5, rng(3))
    assert sampler.draw(5, 3).idx.equal(wanted.idx)
    assert len(sampler.draw(5, None).idx) == 5
    with pytest.raises(InvalidArgument, match="generator"):
        sampler.draw(5, "seed")
