"Blocks of subsets: the laws of the compiled draws, and draws by hand."

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidShape
from impsamp.linear import minimize
from impsamp.linear.blocks import Block, Sampling, block_drawer, block_of, nice_blocks
from impsamp.samplers import Draw, IndependentSampling, NiceSampling, SystematicSampling
from tests.linear.six_items import PROBLEM, SAMPLINGS, SUBSETS, N, law


@pytest.mark.parametrize("name", SAMPLINGS)
def test_compiled_draws_follow_the_law(name):
    "Each subset's frequency in 40 000 draws is within five standard errors of its probability."
    s = SAMPLINGS[name]
    T = 40_000
    block = block_drawer(s, np.asarray(s.inclusion_probabilities))(np.random.default_rng(7), T)
    seen = dict.fromkeys(SUBSETS, 0)
    for t in range(T):
        seen[tuple(sorted(block.idx[block.ptr[t] : block.ptr[t + 1]]))] += 1
    for S, q in law(name).items():
        assert abs(seen[S] / T - q) <= 5 * np.sqrt(q * (1 - q) / T) + 1e-12, S


def test_large_and_tiny_probabilities_in_compiled_draws():
    p = np.r_[1.0, 1 - 1e-9, np.full(1000, 1e-3), 1e-12, 1.0]
    block = block_drawer(IndependentSampling(p), p)(np.random.default_rng(0), 3000)
    counts = np.bincount(block.idx, minlength=p.size)
    assert counts[0] == counts[1] == counts[-1] == 3000
    assert counts[-2] == 0
    assert abs(counts[2:1002].sum() / 3000 - 1) < 0.1


class Mine(NiceSampling):
    "A law of one's own: always the first two items."

    def draw(self, generator, *, step=0):
        rows = torch.tensor([0, 1])
        return Draw(rows, torch.ones(2), torch.ones(2), step)


def test_a_subclass_is_not_taken_for_the_class_it_comes_from():
    s = Mine(N, 2)
    block = block_drawer(s, np.asarray(s.inclusion_probabilities))(np.random.default_rng(0), 30)
    assert block.idx.tolist() == [0, 1] * 30


def test_a_sampling_of_ones_own_is_asked_draw_by_draw():
    class Passing(NiceSampling):
        def draw(self, generator, *, step=0):
            return super().draw(generator, step=step)

    s = Passing(N, 2)
    block = block_drawer(s, np.asarray(s.inclusion_probabilities))(np.random.default_rng(0), 30)
    assert len(block.ptr) == 31
    assert (np.diff(block.ptr) == 2).all()
    generator = torch.Generator().manual_seed(0)
    options = dict(lr="convex", max_passes=5000, tol=1e-3, generator=generator)
    assert minimize(PROBLEM, "svrg", s, **options).converged


def test_a_sampling_without_pairs_is_a_sampling():
    class Bare:
        inclusion_probabilities = np.full(N, 0.5)
        v = np.full(N, 0.5)

        def draw(self, generator, *, step=0):
            return np.flatnonzero(generator.random(N) < 0.5)

    assert isinstance(Bare(), Sampling)
    assert isinstance(SystematicSampling(np.full(N, 0.5)), Sampling)
    assert not isinstance(np.full(N, 0.5), Sampling)


def test_blocks_hold_what_was_given_and_refuse_items_outside():
    draw = Draw(torch.tensor([3, 1]), torch.ones(2), torch.ones(2), 0)
    block = block_of([draw, [], np.array([5])], N)
    assert block.ptr.tolist() == [0, 2, 2, 3]
    assert block.idx.tolist() == [3, 1, 5]
    assert block.idx.dtype == np.int64
    assert block.largest == 2
    assert repr(block) == "Block(3 subsets, 3 items)"
    with pytest.raises(InvalidShape, match="item 6"):
        block_of([[0, 6]], N)
    with pytest.raises(InvalidShape, match="item -1"):
        block_of([[0, -1]], N)


def test_an_empty_block():
    assert block_of([], N).largest == 0
    block = nice_blocks(N, 2)(np.random.default_rng(0), 0)
    assert isinstance(block, Block)
    assert block.idx.size == 0


def test_a_subset_without_items_has_no_kind():
    block = block_of([[], np.empty(0), [2, 0]], 3)
    assert block.idx.tolist() == [2, 0]
    assert block.ptr.tolist() == [0, 0, 0, 2]
