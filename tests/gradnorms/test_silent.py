"""Small inputs on which a number was once wrong without a word; right values by hand."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from impsamp.errors import UnsupportedModel
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


# relatives: the same faults at other sizes, scales and places


class SortedNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def run(self, x):
        return self.inner(x)

    def forward(self, x):
        order = x[:, 0].argsort()
        return self.run(x[order])[order.argsort()]


class Checkpointed(SortedNetwork):
    def run(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


class Thrice(SortedNetwork):
    "Each sample in three rows."

    def forward(self, x):
        rows = torch.arange(len(x)).repeat_interleave(3)
        return self.inner(x[rows]).unflatten(0, (-1, 3)).mean(1)


class Deduplicated(SortedNetwork):
    "Equal rows are run once: two equal samples share a row, which then belongs to both."

    def forward(self, x):
        rows, place = x.unique(dim=0, return_inverse=True)
        return self.inner(rows)[place]


def first_class(o, y):
    return F.cross_entropy(o, torch.zeros(len(o)).long(), reduction="none")


def in_this_pass(model, loss, x):
    "Norms (n,) of the gradients of the losses of one forward pass."
    losses = loss(model(x), None)
    leaves = list(model.parameters())
    norms = []
    for one in losses:
        grads = torch.autograd.grad(one, leaves, retain_graph=True)
        norms.append(torch.cat([g.double().flatten() for g in grads]).norm())
    return torch.stack(norms)


@pytest.mark.parametrize("model", [SortedNetwork, Checkpointed, Thrice, Deduplicated])
@pytest.mark.parametrize("n", [2, 40, 121, 122])
def test_rows_are_named_for_any_number_of_samples(model, n):
    torch.manual_seed(n)
    model = model()
    x = torch.randn(n, 6)
    found = grad_norms(model, first_class, x, torch.zeros(n), method="ghost")
    assert torch.allclose(found, in_this_pass(model, first_class, x), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1e15, 1e25])
@pytest.mark.parametrize("sharpness", [1, 60])
def test_losses_of_any_scale_and_saturated_ones(scale, sharpness):
    "Gradients that leave the range of float32 under some code."
    torch.manual_seed(0)
    model = SortedNetwork()
    x = torch.randn(100, 6)

    def loss(o, y):
        return scale * first_class(sharpness * o, y)

    found = grad_norms(model, loss, x, torch.zeros(100))
    assert torch.allclose(found, in_this_pass(model, loss, x), rtol=1e-3, atol=1e-30)
    assert set(choose_method(model, loss, x, torch.zeros(100)).values()) == {"ghost"}


def test_most_samples_without_a_gradient():
    torch.manual_seed(0)
    model = SortedNetwork()
    x = torch.randn(60, 6)
    threshold = model(x)[:, 0].detach().quantile(0.8).item()

    def hinge(o, y):
        return F.relu(o[:, 0] - threshold)

    found = grad_norms(model, hinge, x, torch.zeros(60))
    expected = in_this_pass(model, hinge, x)
    assert 0 < (expected > 0).sum() < 30
    assert torch.allclose(found, expected, rtol=1e-4)


def test_two_equal_samples_in_one_row_go_to_the_loop_and_this_is_told():
    torch.manual_seed(0)
    model = Deduplicated()
    x = torch.randn(6, 6)
    x[3] = x[0]
    with pytest.warns(UserWarning, match="belong to several samples"):
        found = grad_norms(model, first_class, x, torch.zeros(6))
    assert torch.allclose(found, in_this_pass(model, first_class, x), rtol=1e-4)


class Gated(nn.Module):
    "Samples are compared behind a gate; where `raw`, all of it in a form that no rule covers."

    def __init__(self, raw):
        super().__init__()
        self.raw = raw
        self.matrix = nn.Parameter(torch.randn(3, 6))
        self.gate = 0.0

    def forward(self, x):
        h = torch.stack([self.matrix @ row for row in x]) if self.raw else x @ self.matrix.T
        return h - self.gate * h.mean(0)


@pytest.mark.parametrize("raw", [False, True])
def test_a_gate_that_opens_after_the_first_batch_is_refused(raw):
    torch.manual_seed(0)
    model = Gated(raw)
    x = torch.randn(6, 6)
    y = torch.zeros(6)
    found = grad_norms(model, first_class, x, y)
    assert torch.allclose(found, in_this_pass(model, first_class, x), rtol=1e-4)
    model.gate = 1.0
    for _ in range(3):
        with pytest.raises(UnsupportedModel, match="samples interact"):
            grad_norms(model, first_class, x, y)


def test_one_sample_that_looks_at_its_neighbour_in_a_later_batch_is_refused():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    out = nn.Linear(5, 3)

    class Neighbour(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer
            self.out = out

        def forward(self, x):
            h = self.layer(x)
            return self.out(h + torch.where(x[:, :1] > 2, h.roll(1, 0), torch.zeros(())))

    model = Neighbour()
    x = torch.randn(6, 6).clamp(max=1)
    grad_norms(model, first_class, x, torch.zeros(6))
    x[1, 0] = 3
    with pytest.raises(UnsupportedModel, match="samples interact"):
        grad_norms(model, first_class, x, torch.zeros(6))
