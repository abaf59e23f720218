"""Weights by hand and without bias, the inverse of the distribution function, points, batches."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidShape, UnknownName
from impsamp.samplers import AliasTable, Draw, InverseCDF, SumTree, importance_weights, inverse_cdf
from impsamp.samplers.draws import DrawnBatch, aligned_zeros, draw_points
from impsamp.samplers.enumeration import Script
from tests.samplers.helpers import LAST, counts_of_items, rng


# ---- weights ---------------------------------------------------------------------------------
def test_weights_by_hand():
    p = np.array([0.1, 0.2, 0.3, 0.4])
    w = importance_weights(p, [0, 3, 3], batch=3)
    assert np.allclose(w, [1 / 1.2, 1 / 4.8, 1 / 4.8], rtol=1e-15)
    for size in (2, None):
        w = importance_weights(2 * p, [1], batch=size, replacement=False)
        assert np.allclose(w, [1 / 1.6])
    w = importance_weights(p, [0], batch=2, beta=0.5)  # (1/(N p))^beta / B
    assert np.allclose(w, [0.5 * 2.5**0.5])
    w = importance_weights(p, [0], batch=2, beta=0)  # plain mean of the batch
    assert np.allclose(w, [0.5])
    w = importance_weights(p, [3], batch=1, target=[0, 0, 0.5, 0.5])
    assert np.allclose(w, [1.25])


def test_weights_keep_the_kind_and_are_float64_and_detached():
    p = torch.tensor([0.25, 0.75], requires_grad=True)
    w = importance_weights(p, torch.tensor([1, 0]), batch=2)
    assert isinstance(w, torch.Tensor)
    assert w.dtype == torch.float64
    assert not w.requires_grad
    assert isinstance(importance_weights([0.25, 0.75], [1], batch=1), np.ndarray)
    assert isinstance(importance_weights([0.25, 0.75], torch.tensor([1]), batch=1), torch.Tensor)


five_gradients = st.lists(st.floats(-9, 9), min_size=5, max_size=5)


@given(counts_of_items, five_gradients, st.floats(0.1, 5))
def test_a_target_mean_is_estimated_without_bias(counts, g, t0):
    p = np.array(counts) / sum(counts)
    n = p.size
    g = np.array(g[:n]) * (p > 0)
    target = np.r_[t0, np.ones(n - 1)] / (t0 + n - 1)
    mean = 0.0
    for i in np.flatnonzero(p):
        mean += p[i] * importance_weights(p, [i], batch=1, target=target)[0] * g[i]
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
        (dict(batch=None), InvalidArgument, "batch must be positive"),
        (dict(beta=1.5), InvalidArgument, "beta"),
        (dict(target=[1.0]), InvalidShape, "target has 1"),
        (dict(target=[1.0, 1.0]), InvalidProbabilities, "target sums to 2"),
        (dict(p=[1.5, 0.5], replacement=False), InvalidProbabilities, "above 1"),
    ],
)
def test_weights_refuse(change, error, words):
    arguments = {"p": [0.5, 0.5], "idx": [0], "batch": 1, **change}
    with pytest.raises(error, match=words):
        importance_weights(**arguments)


# ---- draws -----------------------------------------------------------------------------------
def test_estimate_is_the_plain_weighted_sum_also_when_empty():
    weight = torch.tensor([0.5, 2.0], dtype=torch.float64)
    prob = torch.tensor([0.5, 0.1], dtype=torch.float64)
    d = Draw(torch.tensor([0, 2]), weight, prob)
    assert d.step == 0
    assert d.estimate(torch.tensor([4.0, 1.0])) == 4.0
    assert d.estimate(torch.eye(2)).tolist() == [0.5, 2.0]
    # whole numbers do not truncate the weights
    assert d.estimate(torch.tensor([4, 1])) == 4.0
    assert d.estimate(torch.tensor([True, False])) == 0.5
    none = torch.empty(0, dtype=torch.float64)
    assert Draw(none.long(), none, none).estimate(torch.empty(0, 3)).tolist() == [0, 0, 0]
    with pytest.raises(InvalidShape, match="3 values for 2"):
        d.estimate(torch.ones(3))


def test_a_draw_says_what_it_holds_on_one_line():
    third = torch.tensor([1 / 3], dtype=torch.float64)
    d = Draw(torch.tensor([7]), third, third, step=2)
    assert repr(d) == "Draw(idx=[7], weight=[0.3333], prob=[0.3333], step=2)"
    many = InverseCDF(np.full(100, 0.01)).draw(64, rng())
    assert len(repr(many)) < 200
    assert "\n" not in repr(many)


def test_a_drawn_batch_survives_pickling_without_tensors():
    draw = AliasTable([0.5, 0.25, 0.25]).draw(6, rng(), step=3)
    batch = DrawnBatch(draw)
    _, columns = batch.__reduce__()
    assert not any(isinstance(c, torch.Tensor) for c in columns)
    copy = pickle.loads(pickle.dumps(batch))
    assert isinstance(copy, DrawnBatch)
    assert isinstance(copy.draw, Draw)
    assert copy == batch == draw.idx.tolist()
    assert copy.draw.step == 3
    for mine, theirs in zip(copy.draw[:3], draw[:3]):
        assert mine.equal(theirs)


# ---- the inverse of the distribution function ------------------------------------------------
def test_tree_and_cdf_turn_the_same_uniforms_into_the_same_items():
    p = rng(1).dirichlet(np.ones(1000))
    u = rng(2).random(500)
    assert (inverse_cdf(p, u) == SumTree(p).draw(500, Script(u)).idx.numpy()).all()
    assert (inverse_cdf(p, torch.from_numpy(u)) == InverseCDF(p).draw(500, Script(u)).idx).all()


@pytest.mark.parametrize(
    "p",
    [
        [0, 0.5, 0, 0.5, 0],
        [0, 0, 1, 0],
        np.r_[np.full(10, 0.1), 0],
        np.r_[0, np.full(49, 1 / 49), 0],
    ],
    ids=["between", "one", "last", "both ends"],
)
def test_inverse_cdf_never_gives_a_zero_item_at_the_ends(p):
    p = np.asarray(p)
    assert (p[inverse_cdf(p, [0.0, LAST, 0.5])] > 0).all()
    assert (p[InverseCDF(p).draw(2, Script([0.0, LAST])).idx] > 0).all()
    assert (p[SumTree(p).draw(2, Script([0.0, LAST])).idx] > 0).all()
    assert (p[AliasTable(p).draw(2, Script([0.0, LAST, LAST, LAST])).idx] > 0).all()


def test_a_uniform_of_one_is_refused():
    with pytest.raises(InvalidArgument, match="uniforms must lie"):
        inverse_cdf([0.5, 0.5], [1.0])


# ---- points and memory -----------------------------------------------------------------------
def test_points_by_hand():
    assert draw_points(2, Script([0.5, 0.25])).tolist() == [0.5, 0.25]
    assert draw_points(2, Script([0.5, 0.25]), "stratified").tolist() == [0.25, 0.625]
    assert draw_points(2, Script([0.5]), "systematic").tolist() == [0.25, 0.75]
    assert draw_points(3, Script([LAST] * 3), "stratified").max() < 1
    with pytest.raises(UnknownName, match="did you mean 'stratified'"):
        draw_points(2, rng(), "stratifed")


@pytest.mark.parametrize("size", [1, 8, 1001, 100_000])
def test_zeros_start_on_a_cache_line(size):
    zeros = aligned_zeros(size)
    assert zeros.ctypes.data % 64 == 0
    assert zeros.shape == (size,)
    assert not zeros.any()


def test_a_draw_of_arrays_shows_itself_too():
    drawn = Draw(np.arange(2), np.full(2, 0.5), None, 3)
    assert repr(drawn) == "Draw(idx=[0, 1], weight=[0.5, 0.5], prob=None, step=3)"


def test_an_inclusion_probability_above_one_by_rounding_counts_as_one():
    w = importance_weights([1 + 1e-12, 0.5], [0, 1], batch=None, replacement=False)
    assert w.tolist() == [0.5, 1.0]
    with pytest.raises(InvalidProbabilities, match="index 0: cap it at 1"):
        importance_weights([1 + 1e-8, 0.5], [0], batch=None, replacement=False)
