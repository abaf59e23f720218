"""Which items are judged, and the probabilities of any scheme, object or vector on them."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from impsamp.assess.judged import (
    AdaptedScheme,
    as_scheme,
    choose_items,
    restricted_probabilities,
    scheme_name,
    scheme_scope,
    tensors_of,
)
from impsamp.data import Split
from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidShape, UnknownName
from impsamp.schemes import GradNorm, Loss, Mixture, Uniform


def test_items_are_distinct_and_uniform():
    rng = np.random.default_rng(0)
    seen = np.zeros(6)
    for _ in range(3000):
        j = choose_items(6, 2, rng)
        assert len(set(j)) == 2
        seen[j] += 1
    assert abs(seen / 3000 - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 3000)
    assert np.array_equal(
        choose_items(9, 4, torch.Generator().manual_seed(1)),
        choose_items(9, 4, torch.Generator().manual_seed(1)),
    )


def test_all_items_for_none_and_for_all_of_them():
    assert list(choose_items(4, None, None)) == [0, 1, 2, 3]
    assert list(choose_items(3, 3, None)) == [0, 1, 2], "no generator is asked where none is needed"


@pytest.mark.parametrize("pack", [tuple, list, lambda pair: TensorDataset(*pair)])
def test_data_come_as_a_pair_or_a_data_set(pack):
    x = torch.zeros(3, 2)
    y = torch.ones(3)
    a, b = tensors_of(pack([x, y]))
    assert torch.equal(a, x) and torch.equal(b, y)


def test_of_a_split_the_training_part_is_meant():
    split = Split(torch.zeros(3, 1), torch.zeros(3), torch.ones(5, 1), torch.ones(5))
    x, y = tensors_of(split)
    assert len(x) == len(y) == 3 and x.sum() == 0
    x, y = tensors_of((np.ones((2, 1)), np.zeros(2)))
    assert isinstance(x, torch.Tensor) and x.sum() == 2


class Squared:
    "p proportional to the square of the score."

    needs = "norm"

    def init(self, n):
        self.n = n

    def probabilities(self, scores=None):
        s = np.ones(self.n) if scores is None else np.asarray(scores, dtype=float)
        return s**2 / (s**2).sum()


class Replaced(Squared):
    "`init` gives a new object, `update` wants two arguments, and it knows when it is due."

    scope = "visits"
    unbiased = False
    heard = None

    def init(self, n):
        fresh = Replaced()
        fresh.n = n
        return fresh

    def due(self):
        return False

    def update(self, idx, scores):
        self.heard = idx, scores


@pytest.mark.parametrize(
    ("scheme", "scope", "name"),
    [
        ([0.5, 0.5], "given", "given probabilities"),
        (np.ones(3), "given", "given probabilities"),
        (Uniform(), "none", "Uniform"),
        (Loss(), "visits", "Loss"),
        (Mixture(GradNorm(), Uniform()), "all", "Mixture(GradNorm, Uniform)"),
        (Squared(), "all", "Squared"),
        (Replaced(), "visits", "Replaced"),
    ],
)
def test_scope_and_name(scheme, scope, name):
    assert scheme_scope(scheme) == scope and scheme_name(scheme) == name


@pytest.mark.parametrize("bad", ["GradNorm", object(), 3, None])
def test_what_is_neither_scheme_nor_vector(bad):
    with pytest.raises(InvalidArgument, match="vector of N probabilities"):
        scheme_scope(bad)


def test_an_unknown_scope_is_named():
    scheme = Squared()
    scheme.scope = "pol"
    with pytest.raises(UnknownName, match="did you mean 'pool'"):
        scheme_scope(scheme)


def test_probabilities_on_some_items_by_hand():
    idx = np.array([0, 2])
    given = restricted_probabilities([0.1, 0.2, 0.3, 0.4], None, idx, 4)
    assert np.allclose(given, [1 / 4, 3 / 4])
    fresh = restricted_probabilities(Squared(), np.array([1.0, 3.0]), idx, 4)
    assert np.allclose(fresh, [1 / 10, 9 / 10])
    remembering = Loss().init(4)
    remembering.update(np.arange(4), np.array([1.0, 1.0, 3.0, 1.0]))
    p = np.asarray(remembering.probabilities())
    seen = restricted_probabilities(remembering, None, idx, 4)
    assert np.allclose(seen, p[idx] / p[idx].sum()) and seen[1] > seen[0]


def test_the_scheme_that_is_judged_is_not_touched():
    scheme = GradNorm()
    restricted_probabilities(scheme, np.array([1.0, 2.0]), np.array([0, 1]), 5)
    assert scheme.n is None and not hasattr(scheme, "scores")


def test_other_numbers_of_items_and_bad_vectors():
    with pytest.raises(InvalidShape, match="3 items but the data has 4"):
        restricted_probabilities(np.full(3, 1 / 3), None, [0], 4)
    with pytest.raises(InvalidShape, match="5 items but the data has 4"):
        restricted_probabilities(Uniform().init(5), None, [0], 4)
    with pytest.raises(InvalidProbabilities, match="sums to 2"):
        restricted_probabilities([1.0, 1.0], None, [0], 2)


def test_a_foreign_scheme_is_dressed_with_the_defaults():
    dressed = as_scheme(Squared()).init(3)
    assert isinstance(dressed, AdaptedScheme) and dressed.n == dressed.inner.n == 3
    assert dressed.due() and dressed.scope == "all" and dressed.needs == "norm"
    assert (dressed.unbiased, dressed.replacement, dressed.beta) == (True, True, 1.0)
    assert not hasattr(dressed, "precondition")
    assert np.allclose(dressed.probabilities(np.array([1.0, 1.0, 2.0])), [1 / 6, 1 / 6, 4 / 6])


def test_a_foreign_scheme_keeps_what_it_says_of_itself():
    dressed = as_scheme(Replaced()).init(2)
    assert not dressed.due() and not dressed.unbiased and dressed.inner.n == 2
    dressed.update([1], torch.tensor([5.0]), prob=[0.5])
    idx, scores = dressed.inner.heard
    assert idx.tolist() == [1] and scores.tolist() == [5.0]
    assert as_scheme(dressed) is dressed


class Wrapped:
    "Delegates everything to a scheme, as wrappers do."

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


def test_a_wrapper_needs_what_its_scheme_needs():
    dressed = as_scheme(Wrapped(Loss("all"))).init(3)
    assert dressed.needs == "loss" and not hasattr(dressed, "precondition")


class Annealed(Replaced):
    "Its exponent moves, its pool is known after `init`, and it weighs by p."

    scope = "pool"
    calls = 0

    def init(self, n):
        self.n = n
        self.pool_size = 7

    @property
    def beta(self):
        return min(1.0, self.calls / 2)

    def probabilities(self, scores=None):
        self.calls += 1
        return super().probabilities(scores)

    def update(self, idx, scores, prob=None):
        self.heard = prob


def test_what_a_foreign_scheme_says_is_read_when_it_is_asked():
    dressed = as_scheme(Annealed()).init(9)
    assert dressed.pool_size == 7 and dressed.beta == 0
    dressed.probabilities()
    assert dressed.beta == 0.5
    dressed.update([2], torch.ones(1), prob=[0.25])
    assert dressed.inner.heard == [0.25]
    dressed.update([2], None, prob=[0.5])
    assert dressed.inner.heard == [0.25], "without scores there is nothing to tell"
