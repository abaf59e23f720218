"""Bags of words: flat with offsets, as rows, summed, averaged, weighted, padded."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.gradnorms import grad_norms
from impsamp.gradnorms.bags import EmbeddingBagRule, bags_of
from tests.gradnorms.helpers import backward_norms, close, squared


class Flat(nn.Module):
    "Bags of the lengths that come with the batch, given flat."

    def __init__(self, **settings):
        super().__init__()
        self.e = nn.EmbeddingBag(11, 4, **settings)

    def forward(self, ids, lengths):
        inside = torch.arange(ids.shape[1]) < lengths[:, None]
        offsets = lengths.cumsum(0)
        if not self.e.include_last_offset:
            offsets = offsets - lengths
        else:
            offsets = torch.cat([offsets.new_zeros(1), offsets])
        return self.e(ids[inside], offsets).tanh()


class Weighted(nn.EmbeddingBag):
    def forward(self, ids, u):
        return F.embedding_bag(ids, self.weight, mode="sum", per_sample_weights=u)


FLAT = [
    {},
    {"mode": "sum"},
    {"mode": "max"},
    {"padding_idx": 3},
    {"include_last_offset": True},
    {"sparse": True},
    {"scale_grad_by_freq": True, "mode": "sum"},
]


def words():
    torch.manual_seed(0)
    y = torch.randn(5, 1, dtype=torch.float64)
    return torch.randint(0, 11, (5, 6)), torch.tensor([3, 6, 1, 2, 6]), y


@pytest.mark.parametrize("settings", FLAT, ids=str)
def test_flat_bags(settings):
    ids, lengths, y = words()
    model = Flat(**settings).double()
    oracle = backward_norms(model, squared, (ids, lengths), y)
    assert close(grad_norms(model, squared, (ids, lengths), y), oracle, 1e-10)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_rows_of_words(mode):
    ids, _, y = words()
    model = nn.EmbeddingBag(11, 4, mode=mode, padding_idx=2).double()
    assert close(grad_norms(model, squared, ids, y), backward_norms(model, squared, ids, y), 1e-10)


def test_words_with_weights():
    ids, _, y = words()
    u = torch.rand(5, 6, dtype=torch.float64)
    model = Weighted(11, 4).double()
    oracle = backward_norms(model, squared, (ids, u), y)
    assert close(grad_norms(model, squared, (ids, u), y), oracle, 1e-10)


def test_by_hand():
    "Bags {0, 0}, {} and {1} with gradients 1, 5 and 3; two of them one sample's."
    rule = EmbeddingBagRule()
    w = torch.ones(2, 1, requires_grad=True)
    bound = rule.bind(torch.tensor([0, 0, 1]), w, torch.tensor([0, 2, 2]), mode="sum")
    a = bound.input
    b = torch.tensor([[1.0], [5.0], [3.0]])
    found = rule.grads("weight", a, b, **bound.setting)
    assert found.flatten(1).tolist() == [[2, 0], [0, 0], [0, 3]]
    assert rule.squares("weight", a, b, **bound.setting).tolist() == [4, 0, 9]
    pair = rule.grads("weight", a[None, [0, 2]], b[None, [0, 2]], **bound.setting)
    assert pair.flatten(1).tolist() == [[2, 3]]


def test_padding_weighs_nothing():
    bags = bags_of(torch.tensor([7, 3, 3]), torch.tensor([0, 2]), "mean", None, 3)
    assert bags.weights.tolist() == [1, 0, 0]
