"""Draws with replacement: weights, alias table, sum tree, inverse CDF; laws at 2^24 + 1 items, zeros, drift, refusals."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from impsamp.errors import (
    InvalidArgument,
    InvalidProbabilities,
    InvalidScores,
    InvalidShape,
    UnknownName,
    UnsupportedModel,
)
from impsamp.samplers import (
    AliasTable,
    Draw,
    InverseCDF,
    SumTree,
    choose_sampler,
    importance_weights,
    inverse_cdf,
)
from impsamp.samplers.alias import _fill
from impsamp.samplers.draws import weights_of
from impsamp.samplers.enumeration import Script, expected_coefficients, outcomes
from impsamp.samplers.sumtree import _walk_down, _set_leaves

KINDS = {"alias": AliasTable, "tree": SumTree, "cdf": InverseCDF}
rational = st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any)


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- weights -------------------------------------------------------------------------------------------------------
def test_weights_by_hand():
    p = np.array([0.1, 0.2, 0.3, 0.4])
    assert np.allclose(
        importance_weights(p, [0, 3, 3], batch=3), [1 / 1.2, 1 / 4.8, 1 / 4.8], rtol=1e-15
    )
    assert np.allclose(importance_weights(2 * p, [1], batch=2, replacement=False), [1 / 1.6])
    assert np.allclose(importance_weights(2 * p, [1], batch=None, replacement=False), [1 / 1.6])
    assert np.allclose(
        importance_weights(p, [0], batch=2, beta=0.5), [0.5 * 2.5**0.5]
    )  # (1/(N p))^beta / B
    assert np.allclose(
        importance_weights(p, [0], batch=2, beta=0), [0.5]
    )  # plain mean of the batch
    assert np.allclose(importance_weights(p, [3], batch=1, target=[0, 0, 0.5, 0.5]), [1.25])


def test_weights_keep_the_kind_and_are_float64_and_detached():
    p = torch.tensor([0.25, 0.75], requires_grad=True)
    w = importance_weights(p, torch.tensor([1, 0]), batch=2)
    assert isinstance(w, torch.Tensor) and w.dtype == torch.float64 and not w.requires_grad
    assert isinstance(importance_weights([0.25, 0.75], [1], batch=1), np.ndarray)
    assert isinstance(importance_weights([0.25, 0.75], torch.tensor([1]), batch=1), torch.Tensor)


@given(rational, st.lists(st.floats(-9, 9), min_size=5, max_size=5), st.floats(0.1, 5))
def test_a_target_mean_is_estimated_without_bias(counts, g, t0):
    p = np.array(counts) / sum(counts)
    n, g = p.size, np.array(g[: len(counts)]) * (p > 0)
    target = np.r_[t0, np.ones(n - 1)] / (t0 + n - 1)
    items = np.flatnonzero(p)
    mean = sum(p[i] * importance_weights(p, [i], batch=1, target=target)[0] * g[i] for i in items)
    assert np.isclose(mean, target @ g, atol=1e-12)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(p=[0.5, np.nan]), InvalidProbabilities, "not finite at index 1"),
        (dict(p=[-0.5, 1.5]), InvalidProbabilities, "negative at index 0"),
        (dict(p=[0.5, 0.4]), InvalidProbabilities, "sums to 0.9"),
        (dict(p=[0.0, 1.0]), InvalidProbabilities, "item 0 has p = 0"),
        (dict(p=[]), InvalidShape, "empty"),
        (dict(idx=[2]), InvalidShape, "outside the 2 items"),
        (dict(idx=[-1]), InvalidShape, "-1"),
        (dict(idx=[0.5]), InvalidShape, "integers"),
        (dict(idx=[[0]]), InvalidShape, "1 dim"),
        (dict(batch=0), InvalidArgument, "batch must be positive"),
        (dict(batch=np.nan), InvalidArgument, "batch"),
        (dict(beta=1.5), InvalidArgument, "beta"),
        (dict(target=[1.0]), InvalidShape, "target has 1"),
        (dict(target=[1.0, 1.0]), InvalidProbabilities, "target sums to 2"),
        (dict(p=[1.5, 0.5], replacement=False), InvalidProbabilities, "above 1"),
    ],
)
def test_weights_refuse(change, error, words):
    with pytest.raises(error, match=words):
        importance_weights(**{"p": [0.5, 0.5], "idx": [0], "batch": 1, **change})


def test_estimate_is_the_plain_weighted_sum_also_when_empty():
    d = Draw(
        torch.tensor([0, 2]),
        torch.tensor([0.5, 2.0], dtype=torch.float64),
        torch.tensor([0.5, 0.1], dtype=torch.float64),
    )
    assert (
        d.step == 0
        and d.estimate(torch.tensor([4.0, 1.0])) == 4.0
        and d.estimate(torch.eye(2)).tolist() == [0.5, 2.0]
    )
    assert (
        d.estimate(torch.tensor([4, 1])) == 4.0 and d.estimate(torch.tensor([True, False])) == 0.5
    )  # whole numbers do not truncate the weights
    none = torch.empty(0, dtype=torch.float64)
    assert Draw(none.long(), none, none).estimate(torch.empty(0, 3)).tolist() == [0, 0, 0]
    with pytest.raises(InvalidShape, match="3 values for 2"):
        d.estimate(torch.ones(3))


# ---- laws, exactly -------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=15)
@given(
    rational,
    st.sampled_from(["alias", "tree", "cdf"]),
    st.sampled_from(["multinomial", "stratified", "systematic"]),
)
def test_every_outcome_adds_up_to_the_mean(counts, kind, method):
    p = np.array(counts) / sum(counts)
    options = {} if kind == "alias" else {"method": method}
    E = expected_coefficients(KINDS[kind](p), 2, **options)
    assert np.allclose(E, (p > 0) / p.size, rtol=1e-13, atol=0)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40).filter(any))
def test_alias_sweep_is_exact_in_fractions(counts):
    p = np.array([Fraction(c, sum(counts)) for c in counts], dtype=object)
    n, table = p.size, np.empty((p.size, 4), dtype=object)
    _fill(p, table)
    law = [Fraction(0)] * n
    for j in range(n):
        law[j] += Fraction(table[j, 0]) / n
        law[table[j, 1]] += (1 - Fraction(table[j, 0])) / n
        assert 0 <= table[j, 0] <= 1 and table[j, 2] == p[j] and table[j, 3] == p[table[j, 1]]
    assert law == list(p)


@pytest.mark.parametrize("spread", [0, 3, 12])
def test_alias_table_keeps_the_law_to_the_last_bits(spread):
    p = 10.0 ** (spread * rng(spread).random(200_000))
    p[::7] = 0
    p /= p.sum()
    law = AliasTable(p).law()
    assert (law[p == 0] == 0).all() and np.allclose(
        law, p, rtol=p.size * 2**-51, atol=0
    )  # one item takes the rounding of all


def test_alias_with_one_item_that_holds_nearly_everything():
    p = np.r_[1e9, rng().random(300_000), 5e3]
    p /= p.sum()
    assert np.allclose(
        AliasTable(p).law(), p, rtol=p.size * 2**-51, atol=0
    )  # a plain running remainder is off by several 1e-9 at the last item


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200).filter(any))
def test_tree_walk_is_exact_on_whole_numbers(weights):
    tree = SumTree(np.array(weights, float))
    x, rows = np.arange(float(sum(weights))), np.empty(sum(weights), np.int64)
    _walk_down(tree._tree, tree._starts, x, rows)
    assert (np.bincount(rows, minlength=len(weights)) == weights).all() and (
        np.diff(rows) >= 0
    ).all()


def test_tree_and_cdf_turn_the_same_uniforms_into_the_same_items():
    p = rng(1).dirichlet(np.ones(1000))
    u = rng(2).random(500)
    assert (inverse_cdf(p, u) == SumTree(p).draw(500, Script(u)).idx.numpy()).all()
    assert (inverse_cdf(p, torch.from_numpy(u)) == InverseCDF(p).draw(500, Script(u)).idx).all()


def test_inverse_cdf_never_gives_a_zero_item_at_the_ends():
    last = np.nextafter(1, 0)
    for p in (
        [0, 0.5, 0, 0.5, 0],
        [0, 0, 1, 0],
        np.r_[np.full(10, 0.1), 0],
        np.r_[0, np.full(49, 1 / 49), 0],
    ):
        got = inverse_cdf(p, [0.0, last, 0.5])
        assert (np.asarray(p)[got] > 0).all()
        assert (np.asarray(p)[InverseCDF(p).draw(2, Script([0.0, last])).idx] > 0).all()
        assert (np.asarray(p)[SumTree(p).draw(2, Script([0.0, last])).idx] > 0).all()
        assert (np.asarray(p)[AliasTable(p).draw(2, Script([0.0, last, last, last])).idx] > 0).all()
    with pytest.raises(InvalidArgument, match="uniforms must lie"):
        inverse_cdf([0.5, 0.5], [1.0])


@pytest.mark.parametrize("method", ["systematic", "stratified"])
@pytest.mark.parametrize("kind", ["tree", "cdf"])
def test_counts_of_the_lower_variance_siblings(kind, method):
    p, B = rng(3).dirichlet(np.ones(30)), 50
    s, g = KINDS[kind](p), rng()
    counts = np.array(
        [np.bincount(s.draw(B, g, method=method).idx, minlength=30) for _ in range(400)]
    )
    slack = (
        1 if method == "systematic" else 2
    )  # floor and ceil of B p; a stratum at each end may add one
    assert (np.abs(counts - B * p) < slack).all()
    assert counts.var(0).sum() < 0.7 * (B * p * (1 - p)).sum()
    z = (counts.mean(0) - B * p) / (counts.std(0) / 20 + 1e-9)
    assert np.abs(z[counts.std(0) > 0.1]).max() < 5


# ---- chi-square at the size where torch.multinomial stops ----------------------------------------------------------
def chi_square(sampler, p, draws, seed):
    "p-value of the counts in 200 cells of nearly equal probability by position, one more for each item above 1/400."
    heavy = np.flatnonzero(p > 1 / 400)
    light = np.where(p > 1 / 400, 0, p)
    cell = np.minimum((np.cumsum(light) / light.sum() * 200).astype(np.int64), 199)
    cell[heavy] = 200 + np.arange(heavy.size)
    counts, g, size = np.zeros(200 + heavy.size), rng(seed), 500_000
    for _ in range(draws // size):
        idx = sampler.draw(size, g).idx.numpy()
        assert (p[idx] > 0).all()
        counts += np.bincount(cell[idx], minlength=counts.size)
    expected = np.bincount(cell, weights=p, minlength=counts.size) * counts.sum()
    keep = expected > 5
    return stats.chisquare(
        counts[keep], expected[keep] * counts[keep].sum() / expected[keep].sum()
    ).pvalue


@pytest.mark.parametrize("kind", ["alias", "tree"])
def test_law_at_more_than_2_to_the_24_items(kind):
    n = 2**24 + 1
    p = 10.0 ** -(12 * rng(5).random(n, dtype=np.float32).astype(np.float64))  # ratios of 10^12
    p[::3], p[-1], p[n // 2] = 0, 2e5, 1e4  # the item that torch.multinomial refuses, heavy
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
    p[-1], p[0] = 0, 0
    assert chi_square(KINDS[kind](p / p.sum()), p / p.sum(), 1_000_000, 1) > 1e-4


# ---- the tree over time --------------------------------------------------------------------------------------------
def exact_sums(tree):
    "Largest relative error of any node against the exact sum of its leaves."
    level = [Fraction(x) for x in tree.weights.tolist()]
    worst = 0.0
    for start in tree._starts[1:]:
        level = [sum(level[i : i + 8]) for i in range(0, len(level), 8)]
        for i, exact in enumerate(level):
            if exact:
                worst = max(
                    worst, abs(float((Fraction(float(tree._tree[start + i])) - exact) / exact))
                )
            else:
                assert tree._tree[start + i] == 0
    return worst


def many_updates(updates, n, seed):
    tree, g, size = SumTree(rng(seed).random(n)), rng(seed + 1), 1000
    for _ in range(updates // size):
        w = 10.0 ** g.uniform(-12, 12, size) * (g.random(size) > 0.2)
        tree.update(g.integers(n, size=size), w)
    return tree


def test_tree_does_not_drift():
    tree = many_updates(100_000, 20_001, 0)
    assert exact_sums(tree) < 1e-14
    assert (SumTree(tree.weights)._tree == tree._tree).all()  # a function of the leaves alone


@pytest.mark.full
def test_tree_after_10_to_the_7_updates_equals_exact_fractions():
    tree = many_updates(10_000_000, 200_003, 2)
    assert exact_sums(tree) < 1e-12
    assert (SumTree(tree.weights)._tree == tree._tree).all()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 80),
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 79), st.floats(0, 1e6, allow_subnormal=False)),
            min_size=1,
            max_size=9,
        ),
        max_size=8,
    ),
)
def test_tree_against_a_plain_list(n, updates):
    leaves, tree = np.ones(n), SumTree(np.ones(n))
    for update in updates:
        idx, w = np.array([i % n for i, _ in update]), np.array([x for _, x in update])
        for i, x in zip(idx, w):
            leaves[i] = x  # the last of duplicates counts
        tree.update(idx, w)
    assert (tree.weights == leaves).all() and np.isclose(tree.total, leaves.sum(), rtol=1e-14)
    if leaves.any():
        d = tree.draw(20, rng())
        assert (leaves[d.idx] > 0).all() and np.allclose(d.prob, leaves[d.idx] / leaves.sum())
        assert np.allclose(d.weight, 1 / (20 * n * d.prob))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_one_formula(kind):
    "To the last bit, wherever a sampler computes them."
    p = rng(3).pareto(1.0, 1001)
    p /= p.sum()
    for size in (1, 64, 77):
        d = KINDS[kind](p).draw(size, rng(size))
        assert (d.weight.numpy() == weights_of(d.prob.numpy(), n=p.size, batch=size)).all()


def test_compiled_tree_is_the_plain_python_one():
    w, g = rng(1).random(700), rng(2)
    tree, slow = SumTree(w), SumTree(w)
    slow._set, slow._walk = _set_leaves, _walk_down
    for t in (tree, slow):
        t.update(np.r_[5, 5, 699], [0.0, 3.0, 9.0])
    assert (tree._tree == slow._tree).all()
    u = g.random(200)
    assert (tree.draw(200, Script(u)).idx == slow.draw(200, Script(u)).idx).all()


@pytest.mark.parametrize(
    "idx, w, error, words",
    [
        ([0, 10], [1.0, 1.0], InvalidShape, "idx holds 10"),
        ([-1], [1.0], InvalidShape, "-1"),
        ([0, 1], [1.0, np.nan], InvalidScores, "not finite at index 1"),
        ([0], [np.inf], InvalidScores, "not finite"),
        ([0], [-1.0], InvalidScores, "negative"),
        ([0], [5e-324], InvalidScores, "subnormal"),
        ([0], [1e308], InvalidScores, "overflow"),
        ([0, 1], [1.0], InvalidShape, "weights for 2 items"),
        ([0.5], [1.0], InvalidShape, "integers"),
    ],
)
def test_a_refused_update_changes_nothing(idx, w, error, words):
    tree = SumTree(np.arange(1.0, 11.0))
    before = tree._tree.copy()
    with pytest.raises(error, match=words):
        tree.update(idx, w)
    assert (tree._tree == before).all()


def test_tree_with_nothing_to_draw_and_back():
    tree = SumTree(np.zeros(9))
    with pytest.raises(InvalidProbabilities, match="all 9 weights are zero"):
        tree.draw(1, rng())
    tree.update([8], [2.0])
    assert tree.draw(3, rng()).idx.tolist() == [8, 8, 8]
    tree.update([], [])
    tree.update(torch.tensor([0, 1]), 2.0)
    assert tree.total == 6


def test_tree_state_round_trip_and_foreign_state():
    tree, other = SumTree([1.0, 2.0, 3.0]), SumTree(np.zeros(3))
    other.load_state_dict(tree.state_dict())
    assert (other._tree == tree._tree).all()
    with pytest.raises(InvalidShape, match="tree of 3 items, this one has 4"):
        SumTree(np.ones(4)).load_state_dict(tree.state_dict())


# ---- bad input and generators --------------------------------------------------------------------------------------
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
    assert np.allclose(d.prob, np.where(d.idx == 0, 0.5 + 4e-7, 0.5) / (1 + 4e-7), rtol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_one_item_and_sizes(kind):
    s = KINDS[kind]([1.0])
    d = s.draw(3, rng(), step=7)
    assert (
        d.idx.tolist() == [0, 0, 0]
        and d.weight.tolist() == [1 / 3] * 3
        and d.prob.tolist() == [1.0] * 3
        and d.step == 7
    )
    assert (d.idx.dtype, d.weight.dtype, d.prob.dtype) == (
        torch.int64,
        torch.float64,
        torch.float64,
    )
    for bad in (0, -1, 2.5, True):
        with pytest.raises(InvalidArgument, match="size"):
            s.draw(bad, rng())
    with pytest.raises(InvalidArgument, match="generator"):
        s.draw(1, 42)
    with pytest.raises(UnknownName if kind != "alias" else TypeError):
        s.draw(1, rng(), method="stratifed")


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_torch_generators_and_reproducibility(kind):
    p = rng(1).dirichlet(np.ones(50))

    def draws(make):
        return [KINDS[kind](p).draw(64, make()).idx for _ in range(2)]

    for make in (rng, lambda: torch.Generator().manual_seed(3)):
        a, b = draws(make)
        assert (a == b).all()


def test_results_do_not_depend_on_threads():
    p, threads, seen = rng().dirichlet(np.ones(3000)), torch.get_num_threads(), []
    samplers = [AliasTable(p), SumTree(p), InverseCDF(p)]
    try:
        for k in (1, 2, 3):
            torch.set_num_threads(k)
            seen.append(
                [s.draw(70_000, torch.Generator().manual_seed(1)).idx for s in samplers]
            )  # large enough for torch to use its threads
    finally:
        torch.set_num_threads(threads)
    assert all((a == b).all() and (a == c).all() for a, b, c in zip(*seen))


def test_subnormal_tree_weights_are_refused():
    with pytest.raises(InvalidScores, match="subnormal"):
        SumTree([1e-310, 1.0])
    with pytest.raises(InvalidScores, match="overflow"):
        SumTree([1e308, 1.0])


def test_enumeration_knows_what_it_does_not_know():
    with pytest.raises(UnsupportedModel, match="no enumeration is written for object"):
        list(outcomes(object()))


# ---- the automatic choice ------------------------------------------------------------------------------------------
def test_automatic_choice_follows_its_rule():
    p = rng(1).dirichlet(np.ones(1000))
    assert isinstance(choose_sampler(p), AliasTable)
    assert isinstance(choose_sampler(p, changes="some"), SumTree)
    assert isinstance(choose_sampler(p, changes="all"), InverseCDF)
    assert isinstance(
        choose_sampler(np.full(9_999, 1 / 9_999), changes="all"), InverseCDF
    ) and isinstance(choose_sampler(np.full(10_000, 1e-4), changes="all"), SumTree)
    u = np.full(160_000, 1 / 160_000)  # pays from n/16 items drawn
    assert isinstance(choose_sampler(u, draws=9_999), SumTree) and isinstance(
        choose_sampler(u, draws=10_000), AliasTable
    )
    assert isinstance(choose_sampler(p, method="systematic"), SumTree)
    with pytest.raises(UnknownName, match="did you mean 'some'"):
        choose_sampler(p, changes="sone")
    with pytest.raises(InvalidProbabilities):
        choose_sampler([0.5, 0.4], changes="some")
