"""One word for batches: counting, cutting and feeding tensors, tuples and dicts alike."""

from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch

from impsamp.batches import batch_call, batch_items, batch_length, batch_map, batch_tensors
from impsamp.errors import InvalidShape

X = torch.arange(12.0).view(4, 3)
NAMED = namedtuple("NAMED", "left right")
BATCHES = [
    X,
    (X, X[:, 0]),
    [X],
    {"x": X, "flag": True},
    UserDict(x=X),
    NAMED(X, X),
    ((X,), {"a": X}),
]


@pytest.mark.parametrize("batch", BATCHES, ids=lambda b: type(b).__name__)
def test_counts_and_cuts_every_structure(batch):
    assert batch_length(batch) == 4
    for rows in (slice(1, 3), np.array([3, 0, 3]), torch.tensor([2]), [1, 2]):
        cut = batch_items(batch, rows)
        expected = [t[rows] for t in batch_tensors(batch)]
        found = list(batch_tensors(cut))
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_structure_survives():
    pair = batch_map(torch.neg, NAMED(X, None))
    assert isinstance(pair, NAMED)
    assert pair.right is None
    assert isinstance(batch_map(torch.neg, UserDict(x=X)), dict)


@pytest.mark.parametrize(
    "batch",
    [None, 3, {}, np.zeros(3), (X, X[:2]), torch.tensor(1.0), {"a": X, "b": torch.ones(())}],
)
def test_says_what_is_no_batch(batch):
    with pytest.raises(InvalidShape, match="targets"):
        batch_length(batch, "targets")


def test_empty_batch_has_length_zero():
    assert batch_length(X[:0]) == 0


def test_feeds_by_name_or_by_place():
    def f(a, b=None):
        return a - (0 if b is None else b)

    assert torch.equal(batch_call(f, X), X)
    assert torch.equal(batch_call(f, (X, 2 * X)), -X)
    assert torch.equal(batch_call(f, UserDict(b=X, a=3 * X)), 2 * X)
