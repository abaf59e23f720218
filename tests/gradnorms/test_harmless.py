"""Harmless things that once ended a run: they work now, or are refused in a sentence."""

import dataclasses

import pytest
import torch
import torch.nn as nn
from torch.utils.checkpoint import checkpoint

from impsamp.errors import UnsupportedModel
from impsamp.gradnorms import (
    grad_norms,
    output_gradient_norms,
    per_sample_grads,
    preconditioner_of,
    upper_bound_scores,
)
from tests.gradnorms.helpers import ALL, backward_norms, close, squared


def sizes(out, y):
    return out.flatten(1).abs().square().sum(1)


def batch():
    torch.manual_seed(0)
    return torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)


# complex numbers


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)
        self.w = nn.Parameter(torch.randn(4, 3, dtype=torch.complex128))

    def forward(self, x):
        return self.l(x).to(torch.complex128) @ self.w


class Fourier(nn.Module):
    "A real weight in the complex half of a network."

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4))
        self.l = nn.Linear(6, 6)

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(self.l(x)) * self.w)


@pytest.mark.parametrize("method", ["auto", "vmap", "loop"])
@pytest.mark.parametrize("make", [Complex, Fourier])
def test_complex_parameters_and_numbers(make, method):
    x, y = batch()
    model = make().double()
    oracle = backward_norms(model, sizes, x, y)
    assert close(grad_norms(model, sizes, x, y, method=method), oracle, 1e-10)


def test_complex_outputs():
    x, y = batch()
    model = Complex().double()
    expected = 2 * model(x).abs().square().sum(1).sqrt()
    assert torch.allclose(output_gradient_norms(model, sizes, x, y), expected)


def test_the_scale_of_a_complex_parameter_is_refused():
    x, y = batch()
    model = Complex().double()
    optimizer = torch.optim.Adam(model.parameters())
    sizes(model(x), y).sum().backward()
    optimizer.step()
    with pytest.raises(UnsupportedModel, match="w is complex"):
        preconditioner_of(optimizer, model)


# sparse gradients


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("table", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_embeddings(table, method):
    torch.manual_seed(0)
    ids = torch.randint(0, 7, (5, 3))
    y = torch.randn(5, 1, dtype=torch.float64)
    model = nn.Sequential(table(7, 4, sparse=True), nn.Linear(4, 2)).double()
    oracle = backward_norms(model, squared, ids, y)
    assert close(grad_norms(model, squared, ids, y, method=method), oracle, 1e-10)
    grads = per_sample_grads(model, squared, ids, y, method="loop")
    assert grads["0.weight"].layout is torch.strided


# checkpoints


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(self.b, self.a(x), use_reentrant=self.reentrant)


def test_checkpoints():
    x, y = batch()
    model = Checkpointed(False).double()
    oracle = backward_norms(model, squared, x, y)
    for method in ("auto", "ghost", "loop"):
        assert close(grad_norms(model, squared, x, y, method=method), oracle, 1e-10)
    with pytest.raises(UnsupportedModel, match="saved tensor hooks"):
        per_sample_grads(model, squared, x, y)


@pytest.mark.parametrize("method", ALL)
def test_reentrant_checkpoints_are_refused_in_a_sentence(method):
    x, y = batch()
    model = Checkpointed(True).double()
    with pytest.raises(UnsupportedModel, match=r"use_reentrant=False|method='loop'"):
        grad_norms(model, squared, x, y, method=method)
    with pytest.raises(UnsupportedModel, match="use_reentrant=False"):
        upper_bound_scores(model, squared, x, y)


class BehindFrozen(Checkpointed):
    "What adapters on a frozen embedding do: the checkpoint's input is made to need a gradient."

    def __init__(self, reentrant):
        super().__init__(reentrant)
        self.head = nn.Linear(6, 6)

    def forward(self, x):
        x = x.detach().requires_grad_()
        return self.head(checkpoint(self.b, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("method", ["auto", "ghost", "loop"])
def test_a_reentrant_checkpoint_never_counts_as_unused(method):
    "Its layers had norm zero: what was told was the norm of the head alone."
    x, y = batch()
    with pytest.raises(UnsupportedModel, match="use_reentrant=False"):
        grad_norms(BehindFrozen(True).double(), squared, x, y, method=method)


# outputs as models return them


@dataclasses.dataclass
class Found:
    logits: torch.Tensor
    states: tuple | None = None


class Returns(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.l = nn.Linear(6, 3)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.l(x))


OUTPUTS = {
    "tuple": (lambda h: (h, None), lambda o: o[0]),
    "dict": (lambda h: {"logits": h, "n": 3}, lambda o: o["logits"]),
    "object": (lambda h: Found(h, (h.detach(),)), lambda o: o.logits),
    "nested": (lambda h: {"a": [h, (h, h)]}, lambda o: o["a"][0]),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_every_kind(name):
    wrap, unwrap = OUTPUTS[name]
    x, y = batch()
    model = Returns(wrap).double()

    def loss(out, y):
        return squared(unwrap(out), y)

    oracle = backward_norms(model, loss, x, y)
    for method in ALL:
        assert close(grad_norms(model, loss, x, y, method=method), oracle, 1e-10)
    expected = 2 * (model.l(x) - y).norm(dim=1)
    assert torch.allclose(output_gradient_norms(model, loss, x, y), expected)
    assert torch.allclose(upper_bound_scores(model, loss, x, y), expected)
