"""Weights that are functions of parameters: transposed, cut, normalised, looked up, composed."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.gradnorms import choose_method, grad_norms
from impsamp.gradnorms.contractions import LinearRule
from impsamp.gradnorms.derived import Source, derived_rule, is_weight, nodes_below
from tests.gradnorms.helpers import backward_norms, close, squared


def parameter(*shape):
    return nn.Parameter(torch.randn(shape, dtype=torch.float64))


class Holder(nn.Module):
    "Parameters by name, and what to do with them and x (n, 4, 6)."

    def __init__(self, f, **parameters):
        super().__init__()
        self.f = f
        for name, p in parameters.items():
            self.register_parameter(name, p)

    def forward(self, x):
        return self.f(self, x)


def standardised(m, x):
    "Weight standardisation, as residual networks without batch norm have it."
    w = F.batch_norm(m.w.reshape(1, 5, -1), None, None, training=True, momentum=0.0)
    return F.conv1d(x, w.reshape_as(m.w), m.b)


def thirds(m, x):
    q, k, v = m.w.chunk(3)
    h = F.linear(x, q) * F.linear(x, k)
    return h + F.linear(x.flip(1), v, m.b)


def low_rank(m, x):
    return F.linear(x, m.w + m.v @ m.u)


def positions(m, x):
    "Looked up once for all samples, as (1, T)."
    return (x + F.embedding(torch.arange(4)[None], m.w)).tanh()


def positions_twice(m, x):
    "A table of (T,) that is shifted the second time."
    h = (x + F.embedding(torch.arange(4), m.w)).tanh()
    return h * F.embedding(torch.arange(4) + 2, m.w)


def relative_bias(m, x):
    "An attention's bias by distance, one for each of two heads, with a mask of each sample's."
    places = torch.arange(4)
    table = F.embedding((places[:, None] - places).clamp(-1, 1) + 1, m.w)
    bias = table.permute(2, 0, 1)[None]
    q = x.unflatten(2, (2, 3)).transpose(1, 2)
    scores = q @ q.transpose(2, 3)
    scores = scores + (bias + x[:, None, None, :, 0])
    return (scores.softmax(-1) @ q).transpose(1, 2).flatten(2) @ m.v.t()


def in_place(m, x):
    h = F.linear(x, m.w)
    h += m.b
    return h.relu_()


def bias_used_later(m, x):
    "The input of the sum is changed after it; backward does not mind."
    h = F.linear(x, m.w)
    out = h + m.b
    h.mul_(2)
    return out


def penalised(m, x):
    return F.linear(x, m.w).flatten(1).sum(1, keepdim=True) + m.w.square().sum()


MODELS = {
    "transposed": (lambda m, x: x @ m.w.t(), {"w": (5, 6)}),
    "transposed twice used": (lambda m, x: (x @ m.w.t()).tanh() @ m.w, {"w": (5, 6)}),
    "thirds": (thirds, {"w": (18, 6), "b": (6,)}),
    "rows": (lambda m, x: F.linear(x, m.w[::2], m.b[:2]), {"w": (4, 6), "b": (3,)}),
    "overlapping": (lambda m, x: F.linear(x, m.w[:3]) * F.linear(x, m.w[1:]), {"w": (4, 6)}),
    "standardised": (standardised, {"w": (5, 4, 3), "b": (5,)}),
    "low rank": (low_rank, {"w": (5, 6), "v": (5, 2), "u": (2, 6)}),
    "exponential": (lambda m, x: x * m.w.exp(), {"w": ()}),
    "masked": (lambda m, x: F.linear(x, m.w * m.w.gt(0)), {"w": (5, 6)}),
    "expanded": (lambda m, x: F.linear(x, m.w.expand(5, 6)), {"w": (1, 6)}),
    "positions": (positions, {"w": (9, 6)}),
    "positions twice": (positions_twice, {"w": (9, 6)}),
    "relative bias": (relative_bias, {"w": (3, 2), "v": (2, 6)}),
    "in place": (in_place, {"w": (5, 6), "b": (5,)}),
    "bias used later": (bias_used_later, {"w": (5, 6), "b": (5,)}),
    "penalised": (penalised, {"w": (5, 6)}),
    "token": (lambda m, x: torch.cat([m.w.expand(len(x), -1, -1), x], 1).tanh(), {"w": (1, 1, 6)}),
    "time first": (
        lambda m, x: (x.transpose(0, 1) + m.w).tanh().transpose(0, 1) * m.v,
        {"w": (6,), "v": (4, 1)},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_norms(name):
    torch.manual_seed(0)
    f, shapes = MODELS[name]
    model = Holder(f, **{key: parameter(*shape) for key, shape in shapes.items()})
    x = torch.randn(5, 4, 6, dtype=torch.float64)
    y = torch.randn(5, 1, dtype=torch.float64)
    oracle = backward_norms(model, squared, x, y)
    assert close(grad_norms(model, squared, x, y), oracle, 1e-10)
    assert set(choose_method(model, squared, x, y).values()) == {"ghost"}
    chunks = grad_norms(model, squared, x, y, chunk_size=2)
    assert close(chunks, oracle, 1e-10)
    scales = {key: p.detach().abs() + 1 for key, p in model.named_parameters()}
    scaled = grad_norms(model, squared, x, y, precondition=scales)
    loop = grad_norms(model, squared, x, y, precondition=scales, method="loop")
    assert close(scaled, loop, 1e-10)


def test_by_hand():
    "P = 3 w: gradients 1 and 2 of P are 3 and 6 of w."
    w = parameter(1)
    assert Source("weight", 3 * w, w).pull(torch.tensor([[1.0], [2.0]])).tolist() == [[3], [6]]


class Doubled(torch.autograd.Function):
    "A function of a user's, which torch cannot batch."

    @staticmethod
    def forward(ctx, w):
        return 2 * w

    @staticmethod
    def backward(ctx, g):
        assert g.dim() == 1, "one at a time"
        return torch.from_numpy(2 * g.numpy())


def test_what_cannot_be_batched_goes_back_one_at_a_time():
    w = parameter(1)
    source = Source("weight", Doubled.apply(w), w)
    assert source.pull(torch.tensor([[1.0], [2.0]], dtype=torch.float64)).tolist() == [[2], [4]]


def test_calls_below_stay_in_charge_unless_they_are_shared():
    w = parameter(5, 6)
    value = w.t().exp().t()
    bound = LinearRule().bind(torch.ones(1, 6), value)
    node = next(iter(nodes_below(value)))
    names = {id(w): "w"}
    assert derived_rule(LinearRule(), bound, names, {node: {"w"}}) is None
    assert derived_rule(LinearRule(), bound, names, {node: {"w"}}, {"w"}).names == {
        "weight of w": "w"
    }
    assert derived_rule(LinearRule(), bound, {}, {}) is None


def test_what_is_a_weight():
    w = nn.Linear(2, 3).weight
    assert is_weight(w)
    assert is_weight(w.t().contiguous().view(3, 2))
    assert is_weight(w.detach().view(6)) is False
    assert not is_weight(w * 2)
