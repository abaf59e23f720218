"""Items and weights of one step: by the law, or as the scheme picks them."""

import numpy as np
import pytest

from impsamp.errors import ImpsampError
from impsamp.samplers.picking import draw_batch, picked_batch
from impsamp.schemes import LossRank, Scheme, Uniform


class Even(Scheme):
    "Picks the even items in turn, fewer than asked for."

    def pick(self, batch, uniforms):
        return np.arange(0, self.n, 2)


def test_independent_draws_and_targets_by_hand():
    idx, weight, prob = draw_batch([0.25, 0.75], np.array([0.2, 0.5]), target=[0.5, 0.5])
    assert idx.tolist() == [0, 1] and prob.tolist() == [0.25, 0.75]
    assert np.allclose(weight, [1, 1 / 3])


def test_the_weights_of_picked_items_know_how_many_they_are():
    idx, weight, prob = picked_batch(Even().init(4), np.full(4, 0.25), np.zeros, 9)
    assert idx.tolist() == [0, 2] and weight.tolist() == [0.5, 0.5] and prob.tolist() == [0.25] * 2


def test_an_exponent_is_kept():
    plain = picked_batch(LossRank().init(2), np.array([0.2, 0.8]), lambda k: np.full(k, 0.9), 2)
    assert plain[1].tolist() == [0.5, 0.5]


def test_a_law_that_is_none_is_refused():
    with pytest.raises(ImpsampError):
        picked_batch(Uniform().init(2), np.array([0.2, 0.2]), np.zeros, 2)
