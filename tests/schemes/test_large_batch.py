"""LaBER: the mean over all large batches and draws; batches that are too large."""

from itertools import combinations, product

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidArgument, UnknownName
from impsamp.schemes import LaBER
from impsamp.training import choose, picked_batch

VALUES = np.array([2.0, -1.0, 5.0, 7.0])
SCORES = np.array([0.5, 2.0, 1.0, 4.0])


def test_the_mean_over_all_large_batches_and_draws():
    total = 0.0
    pools = [np.array(c) for c in combinations(range(4), 3)]
    for pool in pools:
        scheme = LaBER(3, "loss").init(4)
        p = scheme.probabilities(SCORES[pool])
        middles = np.cumsum(p) - p / 2
        for pair in product(range(3), repeat=2):
            u = middles[list(pair)]
            at, weight, _ = picked_batch(scheme, p, lambda k, u=u: u, 2)
            total += p[at].prod() * weight @ VALUES[pool[at]] / len(pools)
    assert np.isclose(total, VALUES.mean(), rtol=1e-12)


class Half(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.w * x


class Fixed:
    "Uniforms of 1/2."

    def uniforms(self, step, size):
        return np.full(size, 0.5)

    def pool(self, step, n, size):
        return np.arange(n - size, n)


def square(out, y):
    return (out - y).square().flatten(1).sum(1)


@pytest.mark.parametrize("needs", ["loss", "norm"])
def test_a_training_step_scores_the_large_batch_alone(needs):
    x = torch.arange(1.0, 9).unsqueeze(1)
    scheme = LaBER(4, needs).init(8)
    made = choose(scheme, Half(), square, x, 0 * x, batch=2, stream=Fixed(), step=0)
    assert made.scored == 4 and (made.idx >= 4).all() and made.p is None
    with pytest.raises(InvalidArgument, match="a batch of 5 from a large batch of 4"):
        choose(scheme, Half(), square, x, 0 * x, batch=5, stream=Fixed(), step=0)


def test_bad_settings():
    with pytest.raises(UnknownName):
        LaBER(4, "size")
    with pytest.raises(InvalidArgument):
        LaBER(0)
