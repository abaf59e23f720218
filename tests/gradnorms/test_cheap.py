"""Scores from a forward pass, or from one step back."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.errors import InvalidShape, UnsupportedModel
from impsamp.gradnorms import (
    grad_norms,
    loss_scores,
    output_gradient_norms,
    upper_bound_scores,
)
from tests.gradnorms.helpers import mlp, squared, state


def cross_entropy(o, t):
    return F.cross_entropy(o, t, reduction="none")


def nll(o, t):
    return F.nll_loss(o, t, reduction="none")


def classifier():
    torch.manual_seed(0)
    logits = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    return logits, torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])


def test_upper_bound_is_the_gradient_at_the_last_layer():
    logits, x, y = classifier()
    expected = (logits(x).softmax(1) - F.one_hot(y)).norm(dim=1).double()
    assert torch.allclose(upper_bound_scores(logits, cross_entropy, x, y), expected)
    assert torch.allclose(output_gradient_norms(logits, cross_entropy, x, y), expected)


def test_a_log_softmax_in_the_model_hides_the_scores_from_the_output():
    logits, x, y = classifier()
    expected = (logits(x).softmax(1) - F.one_hot(y)).norm(dim=1).double()
    ended = nn.Sequential(*logits, nn.LogSoftmax(1))
    assert torch.allclose(upper_bound_scores(ended, nll, x, y), expected)
    ones = torch.ones(5, dtype=torch.float64)
    assert torch.allclose(output_gradient_norms(ended, nll, x, y), ones)
    losses = cross_entropy(logits(x), y).double()
    assert torch.allclose(loss_scores(ended, nll, x, y), losses)


def test_the_bound_holds_for_the_last_layer_itself():
    "||d loss / d (W, c)|| = sqrt(|h|^2 + 1) * score, exactly, for the last layer's own parameters."
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    y = torch.randn(5, 1, dtype=torch.float64)
    score = upper_bound_scores(model, squared, x, y)
    h = model[:2](x)
    model[0].requires_grad_(False)
    expected = score * (h.square().sum(1) + 1).sqrt()
    assert torch.allclose(grad_norms(model, squared, x, y), expected)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 2)
        self.b = nn.Linear(6, 2)

    def forward(self, x):
        return self.a(x) * self.b(x)


def test_cheap_scores_leave_no_trace():
    model, x, y = mlp()
    before = state(model)
    for score in (loss_scores, output_gradient_norms, upper_bound_scores):
        assert score(model, squared, x, y).dtype == torch.float64
    assert state(model) == before
    with pytest.raises(InvalidShape):
        loss_scores(model, nn.MSELoss(), x, y.expand(5, 4))


class Pairs(Heads):
    def forward(self, x):
        return {"a": self.a(x), "b": self.b(x)}


def test_two_heads_have_the_score_of_their_output():
    _, x, y = mlp()
    for model, loss_fn in (
        (Heads().double(), squared),
        (Pairs().double(), lambda out, t: squared(out["a"], t) + 3 * squared(out["b"], t)),
    ):
        found = upper_bound_scores(model, loss_fn, x, y)
        assert torch.allclose(found, output_gradient_norms(model, loss_fn, x, y))
    model = Pairs().double()
    heads = model(x)
    g = torch.cat([heads["a"] - y[:, :1], heads["b"] - y[:, :1]], 1)
    half = upper_bound_scores(
        model, lambda out, t: sum((h - t[:, :1]).square().sum(1) / 2 for h in out.values()), x, y
    )
    assert torch.allclose(half, g.norm(dim=1))


def test_probe_and_certify_take_a_model_of_two_heads():
    from impsamp import certify, probe

    _, x, y = mlp()
    model = Pairs().double()

    def loss_fn(out, t):
        return squared(out["a"], t) + squared(out["b"], t)

    found = probe(model, loss_fn, [(x[i : i + 1], y[i : i + 1]) for i in range(5)], seconds=0.01)
    assert any(row["scheme"] == "upper, pool" for row in found.rows)
    found = certify("stale", model, loss_fn, (x, y), batch=2, steps=2, verbose=False)
    assert len(found.rows) >= 1


def test_a_loss_without_the_output_is_refused():
    model, x, y = mlp()
    with pytest.raises(UnsupportedModel, match="model's output"):
        output_gradient_norms(model, lambda out, t: t[:, 0], x, y)
