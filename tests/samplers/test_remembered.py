"""Remembered scores in a loader: their law without the vector p, the first epoch, raw scores."""

import numpy as np
import pytest
from scipy.stats import chisquare

from impsamp.samplers import ImportanceBatchSampler
from impsamp.samplers.sources import source_of
from impsamp.schemes import Stale
from tests.samplers.helpers import rng, through_a_file


def reported(scheme, steps=30, batch=8, seed=0, lag=None):
    "A sampler of `scheme` whose loop has reported for a while."
    g = np.random.default_rng(seed).lognormal(-1, 2, scheme.n)
    sampler = ImportanceBatchSampler(scheme, batch, steps=10**6, generator=seed, lag=lag)
    for drawn in sampler:
        if drawn.draw.step >= steps:
            return sampler
        sampler.update(drawn.draw, g[drawn] * (1 + drawn.draw.step % 3))
    raise AssertionError


class Forbidden(Stale):
    "A scheme that is never asked for the whole of p."

    def probabilities(self, scores=None):
        raise AssertionError("asked for the vector")


def test_the_loader_never_asks_for_the_vector():
    sampler = reported(Forbidden("loss").init(200))
    assert sampler._stream.account.drawn == 31


@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize("steps", [0, 2, 60])
def test_draws_follow_probabilities_by_chi_square(calibrate, steps):
    "Also while items are unseen, and (raw) after the largest score has fallen."
    scheme = Stale("loss", calibrate=calibrate).init(40)
    source = reported(scheme, steps=steps)._stream.source
    p = scheme.probabilities()
    counts = np.zeros(40)
    for k in range(200):
        draw = source._items(np.random.default_rng([7, k]))
        counts += np.bincount(draw[0], minlength=40)
        np.testing.assert_allclose(draw[1], p[draw[0]], rtol=1e-9)
    big = source_of(scheme, 100_000, None)._items(rng(3))[0]
    assert chisquare(np.bincount(big, minlength=40), 100_000 * p).pvalue > 1e-4
    assert counts.sum() == 1600


def test_the_largest_raw_score_is_known_after_it_has_fallen():
    scheme = Stale("loss", calibrate=False).init(6)
    source = source_of(scheme, 4, None)
    prob = np.full(2, 1 / 6)
    for s in ([9.0, 2.0], [1.0, 2.0], [1.0, 0.5], [0.0, 0.0], [3.0, 3.0]):
        source.update(np.array([0, 1]), np.array(s), prob)
        assert source._largest() == max(s)
    source.update(np.array([1, 1]), np.array([7.0, 4.0]), prob)  # of duplicates the last
    assert source._largest() == 4


def test_raw_scores_all_zero_are_uniform_and_said_once():
    scheme = Stale("loss", calibrate=False).init(3)
    source = source_of(scheme, 4, None)
    source.update(np.arange(3), np.zeros(3), np.full(3, 1 / 3))
    with pytest.warns(RuntimeWarning, match="all scores are zero"):
        assert np.allclose(source.draw(rng(), 0).prob, 1 / 3)


@pytest.mark.parametrize("lag", [None, 0, 3])
@pytest.mark.parametrize("calibrate", [True, False])
def test_the_first_epoch_is_shuffled_whatever_the_lag(calibrate, lag):
    scheme = Stale("loss", calibrate=calibrate, shuffle_first=True).init(26)
    sampler = ImportanceBatchSampler(scheme, 8, steps=9, generator=0, lag=lag)
    first = []
    for batch in sampler:
        draw = batch.draw
        if draw.step < 3:
            first += batch
            assert np.allclose(draw.weight, 1 / 8) and np.allclose(draw.prob, 1 / 26)
        sampler.update(draw, 1.0 + np.arange(8))
    assert len(set(first)) == 24
    other = Stale("loss", shuffle_first=True).init(26)
    again = ImportanceBatchSampler(other, 8, steps=3, generator=0, lag=5)
    assert [i for batch in again for i in batch] == first


def test_a_batch_above_n_is_not_shuffled():
    scheme = Stale("loss", shuffle_first=True).init(3)
    sampler = ImportanceBatchSampler(scheme, 8, steps=2, generator=0)
    for batch in sampler:
        assert len(batch) == 8
        sampler.update(batch.draw, np.ones(8))


@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_restart_goes_on_with_the_same_draws(calibrate, stop):
    "In the shuffled epoch and after it, reports of the lag included."

    def fresh():
        scheme = Stale("loss", calibrate=calibrate, shuffle_first=True).init(30)
        return ImportanceBatchSampler(scheme, 6, steps=20, generator=1, lag=2)

    def run(sampler, last):
        items = []
        for batch in sampler:
            sampler.update(batch.draw, 1.0 + (np.array(batch) * batch.draw.step) % 7)
            items.append(list(batch))
            if batch.draw.step == last:
                break
        return items

    whole = run(fresh(), 19)
    first = fresh()
    begin = run(first, stop)
    second = fresh()
    second.load_state_dict(through_a_file(first.state_dict()))
    assert begin + run(second, 19) == whole


def test_a_data_set_grows_between_epochs():
    scheme = Stale("loss").init(20)
    sampler = reported(scheme)
    scheme.grow(25)
    seen = set()
    for batch in sampler:
        assert np.allclose(batch.draw.weight, 1 / (8 * 25 * batch.draw.prob))
        sampler.update(batch.draw, np.ones(8))
        seen |= set(batch)
        if batch.draw.step > 120:
            break
    assert set(range(20, 25)) <= seen
