"Where draws come from: counting items, streams that end, states behind the draw that was used."

from collections import namedtuple

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidArgument
from impsamp.optimizers.drawing import Draws, expected_size, item_count, uniform_items
from impsamp.samplers import AliasTable, ImportanceBatchSampler, IndependentSampling, NiceSampling

Pair = namedtuple("Pair", "idx weight")


@pytest.mark.parametrize(
    ("sampling", "n", "why"),
    [
        ([], None, "give n"),
        (NiceSampling(4, 2), 3, "covers 4 items"),
        (AliasTable([0.5, 0.5]), 2, "does not know the size of a batch"),
        ([], 0, "n"),
        (16, 4, "NiceSampling.*got int"),
        (np.full(4, 0.25), 4, "NiceSampling.*got ndarray"),
        ("nice", 4, "NiceSampling.*got str"),
    ],
)
def test_an_unknown_number_of_items_is_refused(sampling, n, why):
    with pytest.raises(InvalidArgument, match=why):
        item_count(sampling, n)


def test_items_are_counted_by_the_sampling_or_given():
    assert item_count(NiceSampling(4, 2), None) == item_count(NiceSampling(4, 2), 4) == 4
    assert item_count([], 7) == 7


def test_expected_sizes():
    assert np.isclose(expected_size(IndependentSampling([0.4, 0.8])), 1.2)
    assert expected_size([]) == 1
    assert expected_size(sampler()) == 2


def test_a_stream_that_ends_starts_again():
    draws = Draws([Pair([1], [0.5]), Pair([0, 2], [0.25, 1.0])], n=3)
    seen = [draws.take(None) for _ in range(3)]
    assert [idx.tolist() for idx, _ in seen] == [[1], [0, 2], [1]]
    assert all(idx.dtype == torch.int64 for idx, _ in seen)
    assert all(weight.dtype == torch.float64 for _, weight in seen)


def test_a_given_draw_replaces_the_samplings_own_and_uses_nothing_up():
    draws = Draws(NiceSampling(5, 2))
    alone = draws.take(np.random.default_rng(0))[0]
    rng = np.random.default_rng(0)
    assert draws.take(rng, Pair([4], [1.0]))[0].tolist() == [4]
    assert draws.take(rng)[0].tolist() == alone.tolist()


def sampler(seed=5):
    return ImportanceBatchSampler(
        [0.1, 0.2, 0.7], 2, steps=6, generator=np.random.default_rng(seed)
    )


@pytest.mark.parametrize("used", range(1, 6))
def test_a_state_goes_on_behind_the_draw_that_was_used(used):
    draws = Draws(sampler(), n=3)
    for _ in range(used):
        draws.take(None)
    saved = draws.state_dict()
    rest = [draws.take(None)[0].tolist() for _ in range(6 - used)]
    resumed = Draws(sampler(seed=6), n=3)
    resumed.take(None)
    resumed.load_state_dict(saved)
    assert [resumed.take(None)[0].tolist() for _ in range(6 - used)] == rest


def test_a_state_that_the_sampling_refuses_changes_nothing():
    draws = Draws(sampler(), n=3)
    draws.take(None)
    before = draws.state_dict()
    with pytest.raises((InvalidArgument, KeyError, TypeError)):
        draws.load_state_dict({"sampling": {"step": -1}})
    assert str(draws.state_dict()) == str(before)


def test_samplings_without_a_state_have_none():
    assert Draws(NiceSampling(4, 2)).state_dict() == {}


def test_uniform_items_are_sorted_and_every_pair_comes_alike():
    rng = np.random.default_rng(0)
    pairs = [tuple(uniform_items(3, 2, rng).tolist()) for _ in range(3000)]
    counts = [pairs.count(pair) for pair in ((0, 1), (0, 2), (1, 2))]
    assert sum(counts) == 3000
    assert max(abs(c - 1000) for c in counts) < 4.5 * (1000 * 2 / 3) ** 0.5


def test_after_a_refused_state_the_next_draw_is_what_it_would_have_been():
    "A sampler ends its pass when a state is loaded, and so also when the old one is put back."
    draws, undisturbed = Draws(sampler(), n=3), Draws(sampler(), n=3)
    draws.take(None)
    undisturbed.take(None)
    with pytest.raises(InvalidArgument, match="cut short"):
        draws.load_state_dict({"sampling": {"step": 3}})
    for _ in range(4):
        assert draws.take(None)[0].tolist() == undisturbed.take(None)[0].tolist()
