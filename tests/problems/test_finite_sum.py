"""Finite sums of networks: gradients by differences, and refusals by name."""

import numpy as np
import pytest
import torch

from impsamp.errors import DataError, InvalidArgument, InvalidShape, UnsupportedModel
from impsamp.problems import FiniteSum
from tests.problems.helpers import central_differences, two_classes

PER_ITEM = torch.nn.CrossEntropyLoss(reduction="none")


def small(**change):
    "Four items of a linear layer, with `change` put in place of its parts."
    parts = dict(
        model=torch.nn.Linear(2, 2),
        loss_fn=PER_ITEM,
        inputs=torch.zeros(4, 2),
        targets=torch.zeros(4, dtype=torch.long),
    )
    return FiniteSum(**(parts | change))


def test_finite_sum_of_a_network():
    torch.manual_seed(0)
    layers = (torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    net = torch.nn.Sequential(*layers).double()
    X, y = map(torch.tensor, two_classes())
    f = FiniteSum(net, PER_ITEM, X, y, chunk_size=4)
    x = f.start + 0.1
    assert np.allclose(central_differences(f, x), f.grad(x), atol=1e-8)
    assert np.allclose(f.grad_items(x, np.arange(15)).mean(axis=0), f.grad(x))
    assert f.grad_items(x, []).shape == (0, f.d)
    again = FiniteSum(net, f.loss_fn, f.inputs, f.targets)
    assert np.array_equal(f.start, again.start)


@pytest.mark.parametrize(
    "change, error, what",
    [
        (dict(loss_fn=torch.nn.CrossEntropyLoss()), InvalidShape, "reduction='none'"),
        (dict(targets=torch.zeros(3, dtype=torch.long)), InvalidShape, "4 inputs and 3 targets"),
        (dict(model=torch.nn.Flatten()), UnsupportedModel, "no parameters"),
        (dict(model=torch.nn.Sequential(torch.nn.BatchNorm1d(2))), UnsupportedModel, "eval"),
        (dict(inputs=torch.full((4, 2), torch.nan)), DataError, "not finite"),
    ],
)
def test_finite_sum_refuses(change, error, what):
    with pytest.raises(error, match=what):
        small(**change)


def test_finite_sum_without_constants_says_so():
    with pytest.raises(InvalidArgument, match="smoothness"):
        _ = small().L


def test_constants_given_are_one_an_item():
    assert small(L=2.0).L.tolist() == [2.0] * 4
    assert repr(small(L=2.0)) == "FiniteSum(Linear, n=4, d=6, L known)"
    assert repr(small()) == "FiniteSum(Linear, n=4, d=6, L unknown)"
