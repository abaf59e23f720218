"""Small inputs on which a number was once wrong without a word; right values by hand."""

import pytest
import torch
import torch.nn as nn

from impsamp.gradnorms import (
    choose_method,
    grad_norms,
    output_gradient_norms,
    output_scores,
    per_sample_grads,
    upper_bound_scores,
)


def unit_linear():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    return layer


class Reordered(nn.Module):
    "Sorts its batch, runs a layer, undoes the sorting: under the loss o^2 / 2 the norm is x^2."

    def __init__(self):
        super().__init__()
        self.layer = unit_linear()

    def forward(self, x):
        order = x[:, 0].argsort(descending=True)
        return self.layer(x[order])[order.argsort()]


class Ragged(nn.Module):
    "Adds up a layer over the positive entries of each row: the norm is the sum of these."

    def __init__(self):
        super().__init__()
        self.layer = unit_linear()

    def forward(self, x):
        mask = x > 0
        rows = self.layer(x[mask][:, None])[:, 0]
        return torch.zeros(len(x)).index_add(0, mask.nonzero()[:, 0], rows)


class Pair(nn.Module):
    "The difference of two views through one layer: the norm is sqrt(8) |x0 - x1|."

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        z = self.layer(x)
        return (z[:, 0] - z[:, 1]).sum(1)


class TimeFirst(nn.Module):
    "Outputs (T, n)."

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1)

    def forward(self, x):
        return self.head(x.t()[..., None])[..., 0]


class Merged(TimeFirst):
    "Outputs (T n, 1)."

    def forward(self, x):
        return super().forward(x).reshape(-1, 1)


def half_square(o, y):
    return o[:, 0] ** 2 / 2


def identity(o, y):
    return o


def two_times(o, y):
    return (o.reshape(2, -1) * torch.tensor([[1.0], [10.0]])).sum(0)


def test_a_batch_that_is_sorted_inside():
    x = torch.tensor([[5.0], [3.0], [4.0], [2.0]])
    model = Reordered()
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        found = grad_norms(model, half_square, x[order], torch.zeros(4))
        assert found.tolist() == pytest.approx([v * v for v in x[order].flatten().tolist()])
    assert set(choose_method(model, half_square, x, torch.zeros(4)).values()) == {"ghost"}


ROWS = torch.tensor(
    [[1.0, 2, 0, 0], [4, 0, 0, 0], [8, 16, 32, 0], [64, 128, 0, 0], [256, 512, 0, 0]]
)


@pytest.mark.parametrize("order", [[3, 1, 4, 2, 0], [4, 1, 3, 2, 0], [0, 1, 2, 3, 4]])
def test_ragged_rows(order):
    x = ROWS[order]
    model = Ragged()
    found = grad_norms(model, identity, x, torch.zeros(5), method="ghost")
    assert found.tolist() == x.sum(1).tolist()
    fewer = x[:3, :2]
    found = grad_norms(model, identity, fewer, torch.zeros(3), method="ghost")
    assert found.tolist() == fewer.sum(1).tolist()


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_terms_that_cancel_in_one_sample(gap):
    torch.manual_seed(0)
    x = torch.randn(8, 2, 8)
    x[1, 1] = x[1, 0] + gap
    right = 8**0.5 * (x[:, 0].double() - x[:, 1].double()).norm(dim=1)
    found = grad_norms(Pair(), identity, x, torch.zeros(8))
    assert torch.allclose(found, right, rtol=1e-2)


@pytest.mark.parametrize("make", [TimeFirst, Merged])
def test_cheap_scores_of_outputs_with_the_samples_second(make):
    x = torch.ones(2, 2)
    right = [101**0.5] * 2
    assert upper_bound_scores(make(), two_times, x, torch.zeros(2)).tolist() == pytest.approx(right)
    found = output_gradient_norms(make(), two_times, x, torch.zeros(2))
    assert found.tolist() == pytest.approx(right)
    out = make()(x)
    assert output_scores(two_times(out, None), out).tolist() == pytest.approx(right)


class InAList(nn.Module):
    "Uses its parameter through a list, where functional_call does not look."

    def __init__(self):
        super().__init__()
        self.layer = unit_linear()
        self.held = [self.layer.weight]

    def forward(self, x):
        return self.layer(x) + 6 * self.held[0]


def penalised(layer):
    def loss(o, y):
        return o[:, 0] + 3 * layer.weight.square().sum()

    return loss


def hooked():
    layer = unit_linear()
    layer.weight.register_hook(lambda g: 7 * g)
    return layer


def first(o, y):
    return o[:, 0]


@pytest.mark.parametrize("kind", ["penalty", "list", "hook"])
def test_uses_that_vmap_does_not_see(kind):
    layer = unit_linear()
    model = {"penalty": layer, "list": InAList(), "hook": hooked()}[kind]
    loss = penalised(layer) if kind == "penalty" else first
    arguments = (model, loss, torch.ones(2, 1), torch.zeros(2))
    with pytest.warns(UserWarning, match="vmap misses"):
        (grads,) = per_sample_grads(*arguments).values()
    assert grads.flatten().tolist() == [7, 7]
    for method in ("auto", "loop"):
        assert grad_norms(*arguments, method=method).tolist() == [7, 7]
    with pytest.warns(UserWarning, match="vmap misses"):
        assert grad_norms(*arguments, method="vmap").tolist() == [7, 7]
