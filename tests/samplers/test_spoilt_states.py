"""A sampler state that is another's, or spoilt, is refused, and nothing changes then."""

import copy
from itertools import islice

import numpy as np
import pytest
import torch

from impsamp.errors import ImpsampError, InvalidArgument
from impsamp.samplers import (
    ImportanceBatchSampler,
    ShardedImportanceBatchSampler,
    ShardedSumTree,
    SumTree,
)
from impsamp.schemes import Mixture, Stale, Uniform
from tests.samplers.loops import CHANGING, STATIC, N, losses_of, sampler_of
from tests.states import same, spoilt

LAWS = [*CHANGING, *STATIC]


def used(law, seed=0, trained=4, lag=2):
    "A sampler after a few steps, with draws ahead and reports that wait."
    sampler = sampler_of(law, seed=seed, lag=lag)
    batches = iter(sampler)
    ahead = list(islice(batches, 2))
    for _ in range(trained):
        draw = ahead.pop(0).draw
        if sampler._stream.source.changes:
            sampler.update(draw, losses_of(draw, draw.idx))
        else:
            sampler.consumed(draw)
        ahead.append(next(batches))
    return sampler


def harmless(path):
    "What a loaded state may differ in: a score never seen, an old decision, a short queue."
    words = path.split()
    told = "log" in words and words[words.index("log") + 2 :][0] != "0"
    return told or (path.endswith("scores nan") and words[0] == "law")


@pytest.mark.parametrize("law", LAWS)
def test_every_spoilt_state_is_refused_and_changes_nothing(law):
    state = used(law).state_dict()
    sampler = used(law, seed=1, trained=5)
    before = copy.deepcopy(sampler.state_dict())
    following = [list(b) for b in copy.deepcopy(sampler)]
    tried = 0
    for path, bad in spoilt(state):
        if "missing" not in path and harmless(path):
            continue
        with pytest.raises(ImpsampError):
            sampler.load_state_dict(bad)
            pytest.fail(f"{path} was accepted")
        assert same(sampler.state_dict(), before), path
        tried += 1
    assert tried > 20
    assert [list(b) for b in copy.deepcopy(sampler)] == following
    sampler.load_state_dict(state)
    assert same(sampler.state_dict(), state)


@pytest.mark.parametrize("state", [None, 3, [], "state", {}])
def test_what_is_no_state_is_refused(state):
    for owner in (sampler_of("stale"), SumTree(np.ones(3)), ShardedSumTree(np.ones(3))):
        with pytest.raises(ImpsampError):
            owner.load_state_dict(state)


def test_a_law_that_refuses_leaves_the_sampler_as_it_was():
    "Seed, step and draws are not taken over before the law has agreed."
    saved = used("stale").state_dict()
    other = Mixture(Stale("loss"), Uniform(), 0.9).init(N)
    here = ImportanceBatchSampler(other, 4, steps=8, generator=3, lag=2)
    before = copy.deepcopy(here.state_dict())
    with pytest.raises(InvalidArgument, match="its source is '_Drawing'"):
        here.load_state_dict(saved)
    assert same(here.state_dict(), before)


@pytest.mark.parametrize("make", [SumTree, ShardedSumTree])
@pytest.mark.parametrize(
    "weights", [[1.0, np.nan, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0], [1e-320, 1.0, 1.0], "abc", None]
)
def test_a_tree_takes_no_weights_that_are_none(make, weights):
    tree = make(np.array([1.0, 2.0, 3.0]))
    with pytest.raises(ImpsampError):
        tree.load_state_dict({"n": 3, "weights": weights})
    assert tree.weights.tolist() == [1.0, 2.0, 3.0]


def test_spoilt_states_of_a_sharded_sampler_are_refused():
    def sharded(seed):
        s = ShardedImportanceBatchSampler(np.ones(9), 3, steps=6, generator=seed, lag=2)
        batches = iter(s)
        for batch in islice(batches, 4):
            s.update(batch.draw, 1.0 + torch.arange(3))
        next(batches)
        return s

    state = sharded(0).state_dict()
    here = sharded(1)
    before = copy.deepcopy(here.state_dict())
    for path, bad in spoilt(state):
        with pytest.raises(ImpsampError):
            here.load_state_dict(bad)
            pytest.fail(f"{path} was accepted")
        assert same(here.state_dict(), before), path
    here.load_state_dict(state)
    assert same(here.state_dict(), state)
