"""The prover itself: it plays what it is told, finds what is biased, says what it does not know."""

from fractions import Fraction

import numpy as np
import pytest

from impsamp.errors import InvalidArgument, UnsupportedModel
from impsamp.samplers import (
    AliasTable,
    ApproximateIndependentSampling,
    IndependentSampling,
    InverseCDF,
    NiceSampling,
    SerialSampling,
    SumTree,
    SystematicSampling,
    enumerated_pairs,
    expected_coefficients,
    outcomes,
)
from impsamp.samplers.enumeration import Script, scripts
from tests.samplers.helpers import POINTS

LAW = np.array([3, 1, 4, 0, 2]) / 10
INCLUSION = np.array([5, 3, 10, 0, 4, 3, 5]) / 10
SUBSETS = [
    NiceSampling(5, 3),
    IndependentSampling(INCLUSION),
    ApproximateIndependentSampling(INCLUSION),
    ApproximateIndependentSampling([1.0, 0.0]),  # nothing is left to chance
    SystematicSampling(INCLUSION),
    SerialSampling(LAW),
]


def test_a_script_is_played_in_order_and_ends_in_halves():
    script = Script([0.1, 0.9, 0.3])
    assert script.random() == 0.1
    assert script.random(3).tolist() == [0.9, 0.3, 0.5]
    assert script.random((2, 2)).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert script.random(0).size == 0


@pytest.mark.parametrize("s", SUBSETS, ids=lambda s: f"{type(s).__name__}-{s.n}")
def test_outcomes_of_subsets_are_all_there(s):
    assert sum(chance for chance, _ in outcomes(s)) == 1
    wanted = (np.asarray(s.p) > 0) / s.n
    assert np.allclose(expected_coefficients(s), wanted, rtol=1e-15)
    assert np.allclose(enumerated_pairs(s), s.pairwise_probabilities(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", [SumTree, InverseCDF])
@pytest.mark.parametrize("method", POINTS)
def test_outcomes_of_points_are_all_there(kind, method):
    chances = [chance for chance, _ in outcomes(kind(LAW), 2, method=method)]
    assert sum(chances) == 1
    assert len(chances) == (10 if method == "systematic" else 100)


def test_one_draw_from_an_alias_table_has_the_law_itself():
    law = [Fraction(0)] * 5
    for chance, d in outcomes(AliasTable(LAW)):
        law[int(d.idx[0])] += chance
    assert law == [Fraction(k, 10) for k in (3, 1, 4, 0, 2)]


def test_a_biased_sampler_is_found_out():
    class Careless(InverseCDF):
        "Weighs as if all items were alike."

        def draw(self, size, generator, **options):
            d = super().draw(size, generator, **options)
            return d._replace(weight=0 * d.weight + 1 / size)

    assert np.allclose(expected_coefficients(InverseCDF([0.3, 0.7])), [0.5, 0.5])
    assert np.allclose(expected_coefficients(Careless([0.3, 0.7])), [0.3, 0.7])


def test_enumeration_knows_what_it_does_not_know():
    with pytest.raises(UnsupportedModel, match="no enumeration is written for object"):
        list(outcomes(object()))


def test_a_sampler_of_ones_own_can_be_registered():
    class Fair:
        "One of two items, by the first bit."

        n = 2

        def draw(self, size, generator):
            return InverseCDF([0.5, 0.5]).draw(size, generator)

    @scripts.register(Fair)
    def _(sampler, size=1):
        yield Fraction(1, 2), [0.25]
        yield Fraction(1, 2), [0.75]

    assert expected_coefficients(Fair()).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind", [AliasTable, InverseCDF, SumTree, SystematicSampling])
def test_probabilities_without_a_common_denominator_are_refused_at_once(kind):
    "Not after a list of some 10^13 cells has filled the memory."
    p = np.sqrt([1.0, 2.0, 3.0, 5.0])
    with pytest.raises(InvalidArgument, match="common denominator"):
        expected_coefficients(kind(p / p.sum()))
