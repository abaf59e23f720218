"""Multiple importance sampling: means and variances by enumeration, and the optimal weights."""

from itertools import product

import numpy as np
import pytest

from impsamp.errors import InvalidArgument, InvalidScores, InvalidShape
from impsamp.randomness import invert_cdf
from impsamp.schemes import (
    GradNorm,
    LaBER,
    Lipschitz,
    Loss,
    MultipleImportance,
    Uniform,
    optimal_multiple_weights,
)
from impsamp.training import picked_batch

LAWS = np.array([[6, 2, 1, 1], [1, 2, 3, 4]]) / 10
VALUES = np.array([2.0, -1.0, 5.0, 7.0])


def both(shares=None):
    return MultipleImportance(*(Lipschitz(p) for p in LAWS), shares=shares).init(4)


def outcomes(scheme, batch, shifts):
    "(chance, idx, weight) for every choice of a shift and of one item per draw."
    p = scheme.probabilities()
    for shift in shifts:
        points = (np.arange(batch) + shift) / batch
        part = invert_cdf(np.cumsum(scheme._shares), points)
        for items in product(range(4), repeat=batch):
            chances = LAWS[part, items]
            u = [np.cumsum(LAWS[k])[i] - LAWS[k, i] / 2 for k, i in zip(part, items)]
            played = np.r_[shift, u]
            idx, weight, _ = picked_batch(scheme, p, lambda k, played=played: played, batch)
            assert idx.tolist() == list(items)
            yield chances.prod() / len(shifts), idx, weight


@pytest.mark.parametrize(
    "shares, batch, shifts",
    [
        (None, 2, [0.5]),
        ([2, 1], 3, [0.5]),
        ([3, 2], 2, (np.arange(5) + 0.5) / 5),
        ([1, 0], 2, [0.5]),
    ],
)
def test_the_mean_is_right_whole_counts_or_not(shares, batch, shifts):
    mean = 0.0
    total = 0.0
    for chance, idx, weight in outcomes(both(shares), batch, shifts):
        total += chance
        mean += chance * weight @ VALUES[idx]
    assert np.isclose(total, 1)
    assert np.isclose(mean, VALUES.mean(), rtol=1e-12)


def test_the_variance_between_the_laws_is_gone():
    scheme = both()
    estimates = [(c, w @ VALUES[i]) for c, i, w in outcomes(scheme, 2, [0.5])]
    variance = sum(c * (e - VALUES.mean()) ** 2 for c, e in estimates)
    p = scheme.probabilities()
    each = VALUES / (4 * p)
    of_mixture = (p @ each**2 - VALUES.mean() ** 2) / 2
    between = 0.5 * ((LAWS @ each - VALUES.mean()) ** 2).sum() / 2
    assert np.isclose(variance, of_mixture - between, rtol=1e-12)
    assert between > 0


def mean_with_optimal_weights(values):
    found = 0.0
    for chance, idx, _ in outcomes(both(), 2, [0.5]):
        found += chance * optimal_multiple_weights(LAWS, [1, 1], idx) @ values[idx]
    return found


def test_optimal_weights_are_exact_on_combinations_and_biased_elsewhere():
    combination = 3 * LAWS[0] - LAWS[1]
    for _, idx, _ in outcomes(both(), 2, [0.5]):
        w = optimal_multiple_weights(LAWS, [1, 1], idx)
        told_apart = np.ptp(LAWS[0, idx] / LAWS[1, idx]) > 1e-9
        if told_apart:
            assert np.isclose(w @ combination[idx], combination.mean())
    assert abs(mean_with_optimal_weights(VALUES) / VALUES.mean() - 1) > 0.05


def test_a_pool_mixes_with_uniform_over_it():
    scheme = MultipleImportance(LaBER(2, "loss"), Uniform()).init(9)
    assert np.allclose(scheme.probabilities([1.0, 3.0]), [0.375, 0.625])
    assert scheme.pick(2, lambda k: np.array([0.5, 0.9, 0.1])).tolist() == [1, 0]


@pytest.mark.parametrize(
    "build, error",
    [
        (lambda: MultipleImportance(), InvalidArgument),
        (lambda: MultipleImportance(Loss(), GradNorm()), InvalidArgument),
        (lambda: both([1]), InvalidShape),
        (lambda: both([0, 0]), InvalidScores),
        (lambda: both([1, -1]), InvalidScores),
        (lambda: both([1, np.nan]), InvalidScores),
    ],
)
def test_bad_settings(build, error):
    with pytest.raises(error):
        build()


@pytest.mark.parametrize("idx", [[9], [-1], [0.5], [True, False], [[0, 1]]])
def test_weights_of_what_are_no_items_are_refused(idx):
    with pytest.raises((InvalidArgument, InvalidShape)):
        optimal_multiple_weights(LAWS, [1, 1], np.array(idx))
