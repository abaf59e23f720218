"""Duck types: who is a sampler, a sampling, or only knows its pairs."""

import subprocess
import sys

import numpy as np
import pytest

from impsamp.samplers import (
    AliasTable,
    ApproximateIndependentSampling,
    IndependentSampling,
    InverseCDF,
    NiceSampling,
    SerialSampling,
    SumTree,
    SystematicSampling,
)
from impsamp.typing import KnowsPairs, Sampler, SubsetSampling

P = np.array([0.5, 0.25, 0.25])
SAMPLERS = [AliasTable(P), SumTree(P), InverseCDF(P)]
SAMPLINGS = [
    NiceSampling(3, 1),
    IndependentSampling(P),
    ApproximateIndependentSampling(P),
    SerialSampling(P),
    SystematicSampling(P),
]


def name_of(x):
    return type(x).__name__


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_samplers_draw_with_replacement(sampler):
    assert isinstance(sampler, Sampler)
    assert not isinstance(sampler, SubsetSampling)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=name_of)
def test_samplings_draw_subsets(sampling):
    assert isinstance(sampling, SubsetSampling)
    assert isinstance(sampling, KnowsPairs)


class OnlyPairs:
    "A sampling whose v is not known yet."

    def pairwise_probabilities(self):
        return np.diag(P)


def test_who_knows_only_pairs_is_no_sampling():
    assert isinstance(OnlyPairs(), KnowsPairs)
    assert not isinstance(OnlyPairs(), SubsetSampling)


@pytest.mark.parametrize("other", [P, [0.5, 0.5], None, "nice"], ids=name_of)
def test_arrays_and_names_are_neither(other):
    assert not isinstance(other, Sampler)
    assert not isinstance(other, KnowsPairs)


def test_the_words_cost_no_torch():
    code = "import sys, impsamp.typing; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
