"""Draws from a draw: the mean given the large draw, whatever it was; refusals."""

from itertools import product

import numpy as np
import pytest
import torch

from impsamp.errors import ImpsampError, InvalidArgument, InvalidScores, InvalidShape
from impsamp.samplers import Draw, IndependentSampling, SumTree, downsample, outcomes
from impsamp.samplers.enumeration import Script

VALUES = np.array([2.0, -1.0, 5.0, 7.0])
SCORES = np.array([1.0, 3.0, 0.5, 2.0])


def mean_given(draw, scores, size):
    "E of the small draw's estimate, over all of its outcomes."
    W = draw.weight.numpy()
    shares = W * scores if (W * scores > 0).any() else W
    r = shares / shares.sum()
    middles = np.cumsum(r) - r / 2
    mean = 0.0
    for rows in product(np.flatnonzero(r), repeat=size):
        small = downsample(draw, scores, size, Script(middles[list(rows)]))
        assert small.idx.tolist() == draw.idx[list(rows)].tolist()
        mean += r[list(rows)].prod() * float(small.weight @ torch.from_numpy(VALUES)[small.idx])
    return mean


@pytest.mark.parametrize("size", [1, 2])
def test_over_both_stages_the_mean_is_the_plain_one(size):
    "Prioritized large draws of two, or random subsets; then all draws from each."
    tree = SumTree(np.array([1.0, 2.0, 3.0, 4.0]))
    subset = IndependentSampling([0.5, 0.25, 1.0, 0.75])
    for large_draws in (outcomes(tree, 2), outcomes(subset)):
        total = 0.0
        for chance, large in large_draws:
            small = min(size, len(large.idx))
            total += float(chance) * mean_given(large, SCORES[large.idx.numpy()], small)
        assert np.isclose(total, VALUES.mean(), rtol=1e-12)


def test_scores_of_zero_leave_the_weights_to_decide():
    large = Draw(*map(torch.tensor, ([0, 1], [0.1, 0.3], [0.5, 0.5])))
    assert np.isclose(mean_given(large, np.zeros(2), 2), 0.1 * 2 - 0.3)


def test_probabilities_and_steps_are_carried_on():
    columns = ([0.5, 0.5], [0.125, 0.25])
    large = Draw(torch.tensor([4, 7]), *map(torch.tensor, columns), step=9)
    small = downsample(large, [1.0, 1.0], 1, Script([0.9]))
    assert small.step == 9 and small.idx.tolist() == [7]
    assert small.prob.tolist() == [0.25] and small.weight.tolist() == [1.0]


@pytest.mark.parametrize(
    "scores, size, error",
    [
        ([1.0, 1.0], 3, InvalidArgument),
        ([1.0, 1.0], 0, InvalidArgument),
        ([1.0], 1, InvalidShape),
        ([1.0, -1.0], 1, InvalidScores),
        ([1.0, np.nan], 1, InvalidScores),
    ],
)
def test_bad_input(scores, size, error):
    large = Draw(*map(torch.tensor, ([0, 1], [0.5, 0.5], [0.5, 0.5])))
    with pytest.raises(error):
        downsample(large, scores, size, 0)


@pytest.mark.parametrize("weight", [[], [0.5, -0.5]])
def test_large_draws_that_are_none(weight):
    idx = torch.arange(len(weight))
    large = Draw(idx, torch.tensor(weight), torch.tensor(weight).abs())
    with pytest.raises(ImpsampError):
        downsample(large, torch.ones(len(weight)), 1, 0)
