"""Cheap scores of the literature: their laws by hand, and settings that make none."""

import numpy as np
import pytest

from impsamp.errors import InvalidArgument, InvalidScores, InvalidShape, UnknownName
from impsamp.schemes import Lipschitz, Loss, LossRank, Prioritized, UpperBound


@pytest.mark.parametrize(
    "build, error",
    [
        (lambda: Loss("some"), UnknownName),
        (lambda: UpperBound(pool_size=0), InvalidArgument),
        (lambda: LossRank(pressure=0.5), InvalidArgument),
        (lambda: LossRank(steps=0), InvalidArgument),
        (lambda: Prioritized(alpha=-1), InvalidArgument),
        (lambda: Prioritized(beta0=2), InvalidArgument),
        (lambda: Prioritized(needs="size"), UnknownName),
        (lambda: Prioritized(eps=0), InvalidArgument),
        (lambda: Lipschitz([0, 0]), InvalidScores),
        (lambda: Lipschitz([0, 1]), InvalidScores),
        (lambda: Lipschitz([1, 2]).init(3), InvalidShape),
        (lambda: Lipschitz([1, np.nan]), InvalidScores),
    ],
)
def test_bad_settings(build, error):
    with pytest.raises(error):
        build()


def test_loss_rank_is_the_published_law_and_its_pressure_decays():
    n = 50
    s = LossRank(pressure=100, end=1, steps=10).init(n)
    losses = np.random.default_rng(0).permutation(n) / 10
    s.update(np.arange(n), losses)
    p = s.probabilities()
    order = np.argsort(-losses)
    assert np.allclose(p[order][1:] / p[order][:-1], np.exp(-np.log(100) / n))
    for _ in range(10):
        p = s.probabilities()
    assert np.allclose(p, 1 / n)


def test_loss_rank_sorts_as_rarely_as_asked():
    s = LossRank(sort_every=3).init(3)
    s.update([0, 1, 2], [1.0, 2.0, 3.0])
    first = s.probabilities()
    s.update([0], [9.0])
    assert (s.probabilities() == first).all()
    assert (s.probabilities() == first).all()
    assert s.probabilities().argmax() == 0


def test_the_exponent_of_priorities_is_known_before_the_first_step():
    s = Prioritized(beta0=0.5, steps=4)
    assert s.beta == 0.5 and not s.unbiased
    assert Prioritized(alpha=0).unbiased
