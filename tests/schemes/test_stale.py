"""Remembered scores: bins, calibration against what the draws show, the bound on weights."""

import numpy as np
import pytest

from impsamp.errors import InvalidArgument, InvalidShape, UnknownName
from impsamp.schemes import Stale
from impsamp.schemes.stale import score_bin
from tests.schemes.helpers import uniform_ratio


@pytest.mark.parametrize(
    "build, error",
    [
        (lambda: Stale("size"), UnknownName),
        (lambda: Stale(weight=1), InvalidArgument),
        (lambda: Stale(memory=1), InvalidArgument),
    ],
)
def test_bad_settings(build, error):
    with pytest.raises(error):
        build()


def test_stale_never_exceeds_its_weight_bound_and_unvisited_items_are_a_bin():
    s = Stale("norm", weight=0.8).init(100)
    rng = np.random.default_rng(0)
    for _ in range(30):
        p = s.probabilities()
        idx = rng.choice(100, 5, p=p)
        s.update(idx, rng.lognormal(0, 3, 5))
        assert p.min() >= 0.2 / 100 * (1 - 1e-12)
        unseen = np.isnan(s.scores)
        if unseen.any():
            assert np.ptp(s.probabilities()[unseen]) == 0


def ratio_after_a_swap(calibrate, then, now):
    """H(p)/H(u) for norms `now`, where `then` was remembered and forty batches bore witness.

    The memory of visited items is put back, so that each group stays in its old bin."""
    n = now.size
    rng = np.random.default_rng(0)
    s = Stale("norm", weight=0.9, calibrate=calibrate).init(n)
    for _ in range(40):
        p = s.probabilities(then)
        idx = rng.choice(n, 50, p=p)
        s.update(idx, now[idx], p[idx])
    s.probabilities(then)
    return uniform_ratio(s.probabilities(), now)


def test_calibration_recovers_the_law_that_bins_allow():
    """Two groups whose scores swapped since they were remembered: p follows the present.

    Its second moment is near the best that bins can do."""
    n = 1000
    few = np.arange(n) < 100
    then = np.where(few, 10.0, 0.1)
    now = np.where(few, 0.1, 1.0)
    best = uniform_ratio(0.9 * now / now.sum() + 0.1 / n, now)
    assert ratio_after_a_swap(True, then, now) < 1.02 * best < 1
    assert ratio_after_a_swap(False, then, now) > 2


def test_score_bins_are_monotone_and_cover_everything():
    made = np.random.default_rng(0).lognormal(0, 9, 500)
    s = np.sort(np.concatenate([[0.0, 5e-324, 1e308], made]))
    k = score_bin(s)
    assert (np.diff(k) >= 0).all() and k.min() >= 0 and k.max() < 161


def test_stale_update_refuses_what_does_not_fit():
    s = Stale().init(4)
    with pytest.raises(InvalidShape):
        s.update([0, 1], [1.0, 2.0], [0.5])
    with pytest.raises(ValueError):
        s.update([0, 1], [1.0, 2.0], [0.5, 0.0])
    with pytest.raises(InvalidArgument):
        s.update([4], [1.0])
    assert not s.counts.any() and np.isnan(s.scores).all()


def test_the_moment_of_a_bin_is_the_weighted_mean_of_its_draws():
    s = Stale("norm", memory=0.5).init(4)
    s.probabilities([1.0, 1.0, 1.0, 1024.0])
    s.update([0, 1], [2.0, 4.0], [0.5, 0.25])
    # (4/0.5 + 16/0.25) / (1/0.5 + 1/0.25) = 72/6; a distant bin borrows it
    assert np.isclose(s.moments()[score_bin(np.array([1.0]))[0]], 12)
    assert np.isclose(s.moments()[score_bin(np.array([1024.0]))[0]], 12)
