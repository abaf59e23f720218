"""Schemes made of schemes: numbers by hand, parts that agree, states that load whole."""

import copy

import numpy as np
import pytest

from impsamp.errors import ImpsampError, InvalidArgument
from impsamp.schemes import (
    Composite,
    Floored,
    GradNorm,
    Loss,
    Mixture,
    PreconditionedGradNorm,
    Scheme,
    Shuffle,
    Stale,
    SwitchOn,
    Tempered,
    Uniform,
)
from tests.states import same


@pytest.mark.parametrize(
    "scheme, p",
    [
        (Mixture(GradNorm(), Uniform(), 0.5), [0.375, 0.625]),
        (Tempered(GradNorm(), 2.0), [0.1, 0.9]),
        (Floored(GradNorm(), 0.8), [0.4, 0.6]),
    ],
)
def test_numbers_by_hand(scheme, p):
    assert np.allclose(scheme.init(2).probabilities([1.0, 3.0]), p)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Mixture(GradNorm(), Loss()), "must need the same score"),
        (lambda: Mixture(GradNorm(), PreconditionedGradNorm()), "in different metrics"),
        (lambda: Floored(Shuffle(), 0.5), "Shuffle draws by epochs"),
    ],
)
def test_parts_that_do_not_agree_are_refused(make, words):
    with pytest.raises(InvalidArgument, match=words):
        make()


@pytest.mark.parametrize("parts", [[], [3, 4], "ab", None, [{}]])
def test_states_of_parts_that_are_none_are_refused(parts):
    scheme = Mixture(Loss(), Uniform()).init(3)
    with pytest.raises(ImpsampError):
        scheme.load_state_dict({**scheme.state_dict(), "parts": parts})


def test_a_composite_of_ones_own_prints_its_parts():
    class Mean(Composite):
        def combine(self, *laws):
            return np.mean(laws, axis=0)

    mean = Mean(GradNorm(every=2), Uniform())
    assert repr(mean) == "Mean(GradNorm(every=2), Uniform())"
    assert mean.init(2).probabilities([1.0, 3.0]).tolist() == [0.375, 0.625]


class Stubborn(Scheme):
    "Refuses every state, as a scheme of one's own may."

    needs, scope = "loss", "visits"

    def load_state_dict(self, state):
        raise ValueError("not today")


@pytest.mark.parametrize("whole", [Mixture, lambda a, b: SwitchOn(Mixture(a, b))])
def test_a_part_that_refuses_leaves_the_other_parts_as_they_were(whole):
    saved = whole(Stale("loss"), Stubborn()).init(3)
    saved.update([0, 1], [1.0, 2.0], [0.5, 0.5])
    here = whole(Stale("loss"), Stubborn()).init(3)
    before = copy.deepcopy(here.state_dict())
    with pytest.raises(ValueError, match="not today"):
        here.load_state_dict(saved.state_dict())
    assert same(here.state_dict(), before)


@pytest.mark.parametrize("bad", [0.5, GradNorm, "norm", None])
def test_a_part_that_is_no_scheme_is_refused_in_words(bad):
    for make in (lambda: Mixture(GradNorm(), bad), lambda: Tempered(bad, 0.5)):
        with pytest.raises(InvalidArgument, match=r"scheme|class"):
            make()
