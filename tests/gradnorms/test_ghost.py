"""Catching calls, proving coverage, finding layouts; the pass in low precision."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.errors import UnsupportedModel
from impsamp.gradnorms import grad_norms
from impsamp.gradnorms.ghost import (
    Catch,
    Layout,
    find_layouts,
    ghost_squares,
    parameter_squares,
    uncovered,
)
from impsamp.gradnorms.rules import Use
from tests.gradnorms.cases import case
from tests.gradnorms.helpers import close, mlp, squared


def caught(forward, params, *args):
    "(what `forward` returns, the calls caught in it)."
    with Catch(params) as catch:
        out = forward(*args)
    return out, catch.calls


# catching


def test_only_calls_with_a_wanted_parameter_are_caught():
    model, x, _ = mlp()
    names = {"2.bias": model[2].bias}
    _, calls = caught(model, names, x)
    assert [call.names for call in calls] == [{"bias": "2.bias"}]
    assert calls[0].parameters() == {"2.bias"}
    assert repr(calls[0]) == "Call(LinearRule(), {'bias': '2.bias'}, x (5, 9))"


def test_nothing_is_caught_without_a_graph():
    model, x, _ = mlp()
    with torch.no_grad():
        _, calls = caught(model, dict(model.named_parameters()), x)
    assert calls == []


def test_a_call_that_its_rule_cannot_read_is_left_to_the_proof_of_coverage():
    w = nn.Parameter(torch.ones(3, 2))
    x = torch.arange(3)
    out, calls = caught(lambda: F.embedding(x, w, scale_grad_by_freq=True), {"w": w})
    assert calls == []
    assert uncovered(out.sum(1), calls, {"w": w}) == {"w"}


def test_batch_statistics_are_refused_by_name_and_by_position():
    w = nn.Parameter(torch.ones(2))
    x = torch.randn(4, 2)
    with pytest.raises(UnsupportedModel, match="batch statistics"), Catch({"w": w}):
        F.batch_norm(x, None, None, w, training=True)
    with pytest.raises(UnsupportedModel, match="batch statistics"), Catch({"w": w}):
        F.batch_norm(x, None, None, w, None, True)


# coverage


def test_a_parameter_is_uncovered_where_it_has_one_use_without_a_rule():
    w = nn.Parameter(torch.eye(2))
    x = torch.randn(3, 2)
    out, calls = caught(lambda: F.linear(x, w).sum(1) - w.sum(), {"w": w})
    assert len(calls) == 1
    assert uncovered(out, calls, {"w": w}) == {"w"}
    assert uncovered(F.linear(x, w).sum(1), [], {"w": w}) == {"w"}


def test_the_walk_goes_on_at_what_a_call_read_besides():
    "The second layer's input comes from a parameter that no rule covers."
    v = nn.Parameter(torch.ones(3, 2))
    w = nn.Parameter(torch.eye(2))
    params = {"v": v, "w": w}
    out, calls = caught(lambda: F.linear(v.exp(), w).sum(1), params)
    assert uncovered(out, calls, params) == {"v"}


def test_a_parameter_without_gradient_counts_zero():
    model, x, y = case("mlp")
    whole = grad_norms(model, squared, x, y)
    model.unused = nn.Linear(3, 3)
    model.forward = lambda x: nn.Sequential.forward(model[:3], x)
    assert torch.equal(grad_norms(model, squared, x, y), whole)


# layouts


def test_layouts_put_the_samples_first():
    rows = torch.arange(6)  # 3 samples of two positions
    assert Layout(0).apply(rows, 3).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert Layout(0, major=False).apply(rows, 3).tolist() == [[0, 3], [1, 4], [2, 5]]
    columns = torch.arange(6).reshape(2, 3)
    assert Layout(1).apply(columns, 3).tolist() == [[0, 3], [1, 4], [2, 5]]


def linear_calls(x, one):
    "The call of a linear layer on a batch, and on one sample of it."
    layer = nn.Linear(x.shape[-1], 2)
    params = dict(layer.named_parameters())
    _, (together,) = caught(layer, params, x)
    _, (alone,) = caught(layer, params, one)
    return together, alone


def test_the_axis_of_the_samples_is_found():
    x = torch.randn(3, 3, 4)
    assert find_layouts(*linear_calls(x, x[1:2]), 3, 1) == [Layout(0)]
    assert find_layouts(*linear_calls(x, x[:, 1:2]), 3, 1) == [Layout(1)]


def test_the_order_of_positions_is_found():
    x = torch.randn(3, 2, 4)
    assert find_layouts(*linear_calls(x.flatten(0, 1), x[1]), 3, 1) == [Layout(0)]
    by_position = x.transpose(0, 1).flatten(0, 1)
    found = find_layouts(*linear_calls(by_position, x[1]), 3, 1)
    assert found == [Layout(0, major=False)]


def test_what_is_not_there_or_not_there_once_shows():
    x = torch.randn(3, 4)
    assert find_layouts(*linear_calls(x, torch.randn(1, 4)), 3, 1) == []
    assert find_layouts(*linear_calls(x, x[:2]), 3, 1) == []
    same = torch.ones(6, 4)
    found = find_layouts(*linear_calls(same, same[:2]), 3, 1)
    assert found == [Layout(0), Layout(0, major=False)]


# squares


def test_squares_by_hand():
    "l_i = w x_i + c has gradient (x_i, 1); without c it has x_i, scaled by 3 it has 3 x_i."
    layer = nn.Linear(1, 1)
    params = dict(layer.named_parameters())
    x = torch.tensor([[1.0], [2.0]])

    def squares(**kw):
        losses, calls = caught(lambda: layer(x)[:, 0], params)
        return ghost_squares(losses, calls, [Layout(0)], params, **kw).tolist()

    assert squares() == pytest.approx([2, 5])
    assert squares(skip={"bias"}) == pytest.approx([1, 4])
    scales = {"weight": torch.tensor([[3.0]]), "bias": torch.tensor([0.0])}
    assert squares(scales=scales) == pytest.approx([9, 36])
    assert squares(skip=set(params)) == [0, 0]


def test_a_weight_used_twice_has_cross_terms():
    "Gradients 2 and 3 of one sample: (2 + 3)^2."
    from impsamp.gradnorms.contractions import LinearRule

    one = torch.ones(1, 1)
    first = Use(LinearRule(), "weight", one, 2 * one, {})
    second = Use(LinearRule(), "weight", one, 3 * one, {})
    assert parameter_squares([first, second], one).tolist() == pytest.approx([25])


# precision


@pytest.mark.parametrize("name", ["mlp", "paper", "encoder", "groupnorm"])
def test_bfloat16_autocast_on_cpu(name):
    model, x, y = case(name, torch.float32)
    exact = grad_norms(model, squared, x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = grad_norms(model, squared, x, y)
        loop = grad_norms(model, squared, x, y, method="loop")
    assert close(found, loop, 0.03)
    assert close(found, exact, 0.1)
    assert not torch.equal(found, exact)


def test_bfloat16_model():
    model, x, y = case("mlp", torch.bfloat16)
    wide = copy.deepcopy(model).double()
    oracle = grad_norms(wide, squared, x.double(), y.double())
    assert close(grad_norms(model, squared, x, y), oracle, 0.1)


# calls that changed


class ChangesItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x):
        h = self.a(x)
        out = self.b(h)
        h.add_(1)
        return out + h


def test_in_place_change_of_a_layer_input_is_refused():
    with pytest.raises(UnsupportedModel, match="in place"):
        grad_norms(ChangesItsInput(), squared, torch.randn(5, 6), torch.randn(5, 1))
