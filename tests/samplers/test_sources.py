"""Where a loader's probabilities come from, and which states fit them."""

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidArgument
from impsamp.samplers import (
    AliasTable,
    ApproximateIndependentSampling,
    ImportanceBatchSampler,
    IndependentSampling,
    InverseCDF,
    SumTree,
)
from impsamp.samplers.sources import source_of
from impsamp.schemes import GroupMixture, Lipschitz, Loss, Shuffle, Stale, Uniform
from tests.samplers.helpers import rng

P = np.array([0.1, 0.2, 0.3, 0.4])


def source(law, size=2):
    return source_of(law, size, lambda epoch: rng(epoch))


LAWS = {
    "p": lambda: P,
    "another p": lambda: P[::-1].copy(),
    "subset": lambda: IndependentSampling(P),
    "another subset": lambda: IndependentSampling(P / 2),
    "approximate subset": lambda: ApproximateIndependentSampling(P),
    "tree": lambda: SumTree(P),
    "loss": lambda: Loss().init(4),
    "stale": lambda: Stale().init(4),
    "uniform": lambda: Uniform().init(4),
    "shuffle": lambda: Shuffle().init(4),
}


@pytest.mark.parametrize("name", LAWS)
def test_draws_are_weighted_by_their_own_probabilities(name):
    found = source(LAWS[name]())
    draw = found.draw(rng(), 0)
    subset = "subset" in name
    count = 1 if subset else 2
    wanted = 1 / (4 * count * draw.prob)
    if name == "shuffle":
        wanted = torch.full_like(draw.prob, 0.5)
    assert found.n == 4
    assert draw.idx.dtype == torch.int64
    assert torch.allclose(draw.weight, wanted)


@pytest.mark.parametrize("saved", LAWS)
@pytest.mark.parametrize("here", LAWS)
def test_a_sampler_loads_states_of_its_own_law_only(saved, here):
    def sampler(name):
        law = LAWS[name]()
        size = None if "subset" in name else 2
        return ImportanceBatchSampler(law, size, steps=3, generator=0)

    state = sampler(saved).state_dict()
    if saved == here:
        sampler(here).load_state_dict(state)
        return
    with pytest.raises(InvalidArgument, match="not for here"):
        sampler(here).load_state_dict(state)


def test_an_alias_table_is_taken_as_it_is():
    table = AliasTable(P)
    assert source(table).law is table


@pytest.mark.parametrize(
    "law, words",
    [
        ("gn", "the scheme is an object, got the name 'gn'"),
        (Loss, "Loss is a class: give Loss"),
        (Loss(), r"call init\(n\) first"),
    ],
)
def test_what_is_no_law_is_refused_in_words(law, words):
    with pytest.raises(InvalidArgument, match=words):
        source(law)


def test_a_scheme_without_a_state_is_named_when_a_checkpoint_is_wanted():
    class Plain:
        n = 4

        def probabilities(self):
            return P

        def update(self, idx, scores):
            pass

    sampler = ImportanceBatchSampler(Plain(), 2, steps=3, generator=0)
    assert len(list(sampler)) == 3
    with pytest.raises(InvalidArgument, match="Plain has no state_dict"):
        sampler.state_dict()


@pytest.mark.parametrize("make", [Uniform, lambda: Lipschitz([1.0, 3.0, 4.0, 2.0])])
def test_a_static_scheme_is_drawn_from_as_if_p_were_looked_at_anew(make):
    kept = source(make().init(4))
    for step in range(4):
        draw = kept.draw(rng(step), step)
        anew = InverseCDF(make().init(4).probabilities()).draw(2, rng(step), step=step)
        assert draw.idx.tolist() == anew.idx.tolist() and torch.equal(draw.prob, anew.prob)
    table = kept._cdf
    kept.draw(rng(9), 9)
    assert kept._cdf is table
    mixture = GroupMixture([0, 0, 0, 1], [1, 1]).init(4)
    changing = source(mixture, 50)
    changing.draw(rng(0), 0)
    mixture.set_weights([1e-9, 1])
    assert set(changing.draw(rng(1), 1).idx.tolist()) == {3}
