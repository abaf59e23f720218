"""Catching calls, proving coverage; the pass in low precision."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.errors import UnsupportedModel
from impsamp.gradnorms import grad_norms
from impsamp.gradnorms.ghost import Catch, uncovered
from tests.gradnorms.cases import case
from tests.gradnorms.helpers import caught, close, mlp, squared

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
