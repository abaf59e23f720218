"The sums of draws by bin: their moments and their law, each beside a slow oracle."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import InvalidScores, InvalidShape
from impsamp.schemes.evidence import (
    BINS,
    Evidence,
    law_of_bins,
    no_evidence,
    no_probes,
    score_bin,
    sums_in,
    sums_kept,
)


def some_evidence(seed, draws=40):
    rng = np.random.default_rng(seed)
    found = no_evidence()
    found.add(rng.integers(100, 140, draws), rng.random(draws), rng.lognormal(0, 2, draws), 0.9)
    return found


@given(seed=st.integers(0, 1000), weight=st.floats(0, 0.99))
@settings(max_examples=20, deadline=None)
def test_the_law_is_proportional_to_the_root_of_the_moments(seed, weight):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 4, BINS + 1)
    starts = np.r_[0, np.cumsum(sizes)]
    evidence = some_evidence(seed)
    ratio = rng.lognormal(0, 1, BINS + 1)
    p, total = law_of_bins(evidence, ratio, starts, weight)
    worth = np.sqrt(evidence.moments() * ratio)
    assert np.isclose(total, sizes @ worth)
    slow = weight * worth / (sizes @ worth) + (1 - weight) / sizes.sum()
    np.testing.assert_allclose(p, np.where(sizes > 0, slow, 0), rtol=1e-12)
    assert np.isclose(sizes @ p, 1)


@pytest.mark.parametrize("square", [0.0, np.inf])
def test_without_a_finite_positive_sum_all_items_are_alike(square):
    starts = np.r_[np.zeros(BINS + 1, int), 5]
    evidence = Evidence(np.full(BINS + 1, square), np.ones(BINS + 1))
    p, total = law_of_bins(evidence, np.ones(BINS + 1), starts, 0.8)
    assert not 0 < total < np.inf
    assert p[BINS] == 1 / 5 and not p[:BINS].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_learning_is_adding_and_remembering(dtype):
    rng = np.random.default_rng(0)
    fast, slow = some_evidence(1), some_evidence(1)
    bins = rng.integers(0, BINS, 6)
    prob = rng.random(6)
    g = rng.lognormal(0, 3, 6)
    scores = np.full(9, np.nan, dtype)
    goals = fast.learn(bins, prob, g, 0.7, np.array([0, 3, 4, 3, 8, 1]), scores)
    slow.add(bins, 1 / (9 * prob), g, 0.7)
    np.testing.assert_allclose(fast.squares, slow.squares, rtol=1e-14)
    np.testing.assert_allclose(fast.counts, slow.counts, rtol=1e-14)
    assert (goals == score_bin(g)).all()
    assert scores[3] == dtype(g[3])  # of duplicates the last
    assert np.isnan(scores[[2, 5, 6, 7]]).all()


def test_probes_tell_by_how_much_scores_understate():
    probed = no_probes()
    probed.add(np.array([100, 100]), np.array([1.0, 3.0]), np.array([4.0, 2.0]), np.ones(2))
    assert np.isclose(probed.ratio[100], (16 + 3 * 4) / 4)
    assert np.isclose(probed.ratio[BINS], 7)  # nothing of its own: as all together


def test_a_state_of_the_sums():
    probed = no_probes()
    probed.add(np.array([7]), np.ones(1), np.array([6.0]), np.array([2.0]))
    kept = sums_kept(some_evidence(3), probed)
    state = {name: torch.from_numpy(x.copy()) for name, x in kept.items()}
    evidence, again = sums_in(state)
    assert (evidence.moments() == some_evidence(3).moments()).all()
    assert (again.ratio == probed.ratio).all()
    with pytest.raises(InvalidShape, match="squares"):
        sums_in({**state, "squares": torch.ones(3)})
    with pytest.raises(InvalidScores, match="counts"):
        sums_in({**state, "counts": -torch.ones(BINS + 1)})
