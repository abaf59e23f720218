"""The package: which sampler is chosen, and what is found at its top."""

import numpy as np
import pytest

import impsamp.samplers
import impsamp.thinning
from impsamp.errors import InvalidProbabilities, UnknownName
from impsamp.samplers import AliasTable, InverseCDF, SumTree, choose_sampler
from tests.samplers.helpers import rng


def uniform(n):
    return np.full(n, 1 / n)


@pytest.mark.parametrize(
    "n, options, wanted",
    [
        (1000, {}, AliasTable),
        (1000, dict(changes="some"), SumTree),
        (1000, dict(changes="all"), InverseCDF),
        (1000, dict(method="systematic"), SumTree),
        (9_999, dict(changes="all"), InverseCDF),
        (10_000, dict(changes="all"), SumTree),
        (160_000, dict(draws=9_999), SumTree),  # an alias table pays from n/16 items drawn
        (160_000, dict(draws=10_000), AliasTable),
    ],
)
def test_automatic_choice_follows_its_rule(n, options, wanted):
    p = rng(1).dirichlet(np.ones(n)) if n == 1000 else uniform(n)
    sampler = choose_sampler(p, **options)
    assert isinstance(sampler, wanted)
    assert np.allclose(sampler.p, p)


def test_automatic_choice_refuses():
    with pytest.raises(UnknownName, match="did you mean 'some'"):
        choose_sampler(uniform(9), changes="sone")
    with pytest.raises(InvalidProbabilities):
        choose_sampler([0.5, 0.4], changes="some")


def test_what_is_promised_is_there():
    for name in impsamp.samplers.__all__:
        assert getattr(impsamp.samplers, name).__doc__
    assert "uniform_subset" in impsamp.samplers.__all__


def test_thinning_is_found_here_as_well_and_nothing_else_is():
    for name in ("thin", "Thinning", "VarianceBound", "skip_zero_rows"):
        assert getattr(impsamp.samplers, name) is getattr(impsamp.thinning, name)
    with pytest.raises(AttributeError, match="no attribute 'thni'"):
        _ = impsamp.samplers.thni
