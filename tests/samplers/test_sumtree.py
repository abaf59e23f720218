"""The sum tree: exact walks, no drift over many updates, refusals that change nothing."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidScores, InvalidShape
from impsamp.samplers import SumTree
from impsamp.samplers.enumeration import Script
from impsamp.samplers.sumtree import _set_leaves, _walk_down
from tests.samplers.helpers import rng


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200).filter(any))
def test_tree_walk_is_exact_on_whole_numbers(weights):
    tree = SumTree(np.array(weights, float))
    x = np.arange(float(sum(weights)))
    rows = np.empty(x.size, np.int64)
    _walk_down(tree._tree, tree._starts, x, rows)
    assert (np.bincount(rows, minlength=len(weights)) == weights).all()
    assert (np.diff(rows) >= 0).all()


# ---- over time -------------------------------------------------------------------------------
def relative_error(number, exact):
    return abs(float((Fraction(float(number)) - exact) / exact))


def worst_node(tree):
    "Largest relative error of any node against the exact sum of its leaves."
    level = [Fraction(x) for x in tree.weights.tolist()]
    worst = 0.0
    for start in tree._starts[1:]:
        level = [sum(level[i : i + 8]) for i in range(0, len(level), 8)]
        for node, exact in zip(tree._tree[start:], level):
            if exact:
                worst = max(worst, relative_error(node, exact))
            else:
                assert node == 0
    return worst


def many_updates(updates, n, seed):
    tree = SumTree(rng(seed).random(n))
    g = rng(seed + 1)
    size = 1000
    for _ in range(updates // size):
        w = 10.0 ** g.uniform(-12, 12, size) * (g.random(size) > 0.2)
        tree.update(g.integers(n, size=size), w)
    return tree


def test_tree_does_not_drift():
    tree = many_updates(100_000, 20_001, 0)
    assert worst_node(tree) < 1e-14
    assert (SumTree(tree.weights)._tree == tree._tree).all()  # a function of the leaves alone


@pytest.mark.full
def test_tree_after_10_to_the_7_updates_equals_exact_fractions():
    tree = many_updates(10_000_000, 200_003, 2)
    assert worst_node(tree) < 1e-12
    assert (SumTree(tree.weights)._tree == tree._tree).all()


weight = st.floats(0, 1e6, allow_subnormal=False)
one_update = st.lists(st.tuples(st.integers(0, 79), weight), min_size=1, max_size=9)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 80), st.lists(one_update, max_size=8))
def test_tree_against_a_plain_list(n, updates):
    leaves = np.ones(n)
    tree = SumTree(np.ones(n))
    for update in updates:
        idx = np.array([i % n for i, _ in update])
        w = np.array([x for _, x in update])
        for i, x in zip(idx, w):
            leaves[i] = x  # the last of duplicates counts
        tree.update(idx, w)
    assert (tree.weights == leaves).all()
    assert np.isclose(tree.total, leaves.sum(), rtol=1e-14)
    if leaves.any():
        d = tree.draw(20, rng())
        assert (leaves[d.idx] > 0).all()
        assert np.allclose(d.prob, leaves[d.idx] / leaves.sum())
        assert np.allclose(d.weight, 1 / (20 * n * d.prob))


def test_compiled_tree_is_the_plain_python_one():
    w = rng(1).random(700)
    tree = SumTree(w)
    slow = SumTree(w)
    slow._set = _set_leaves
    slow._walk = _walk_down
    for t in (tree, slow):
        t.update(np.r_[5, 5, 699], [0.0, 3.0, 9.0])
    assert (tree._tree == slow._tree).all()
    u = rng(2).random(200)
    assert (tree.draw(200, Script(u)).idx == slow.draw(200, Script(u)).idx).all()


# ---- refusals --------------------------------------------------------------------------------
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


def test_subnormal_tree_weights_are_refused():
    with pytest.raises(InvalidScores, match="subnormal"):
        SumTree([1e-310, 1.0])
    with pytest.raises(InvalidScores, match="overflow"):
        SumTree([1e308, 1.0])


def test_tree_with_nothing_to_draw_and_back():
    tree = SumTree(np.zeros(9))
    with pytest.raises(InvalidProbabilities, match="all 9 weights are zero"):
        tree.draw(1, rng())
    tree.update([8], [2.0])
    assert tree.draw(3, rng()).idx.tolist() == [8, 8, 8]
    tree.update([], [])
    tree.update(torch.tensor([0, 1]), 2.0)
    assert tree.total == 6
    assert repr(tree) == "SumTree(n=9, total=6)"


def test_tree_state_round_trip_and_foreign_state():
    tree = SumTree([1.0, 2.0, 3.0])
    other = SumTree(np.zeros(3))
    other.load_state_dict(tree.state_dict())
    assert (other._tree == tree._tree).all()
    with pytest.raises(InvalidShape, match="tree of 3 items, this one has 4"):
        SumTree(np.ones(4)).load_state_dict(tree.state_dict())


# ---- a buffer that fills ---------------------------------------------------------------------
@pytest.mark.parametrize("filled", [1, 3, 8])
def test_population_makes_the_mean_of_the_filled_slots(filled):
    "All outcomes of one draw, each slot by its probability: the estimate's mean is the mean."
    values = rng(0).normal(size=filled)
    tree = SumTree(np.r_[rng(1).random(filled) + 0.1, np.zeros(8 - filled)])
    mean = 0.0
    for u in np.cumsum(tree.p)[:filled] - tree.p[:filled] / 2:
        draw = tree.draw(1, Script([u]), population=filled)
        i = int(draw.idx[0])
        mean += tree.p[i] * float(draw.weight[0]) * values[i]
    assert np.isclose(mean, values.mean())


@pytest.mark.parametrize("population", [0, 9, 2.5])
def test_a_population_that_the_tree_cannot_hold_is_refused(population):
    with pytest.raises(InvalidArgument, match="population"):
        SumTree(np.ones(8)).draw(1, 0, population=population)
