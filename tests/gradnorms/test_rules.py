"""Squared norms in double precision, and the direct form in slices."""

import pytest
import torch

from impsamp.gradnorms import grad_norms, rules
from impsamp.gradnorms.rules import Rule, Use, add_up, direct_squares, squared_norms
from tests.gradnorms.cases import case
from tests.gradnorms.helpers import close, squared


class Product(Rule):
    "y = w x: the gradient of sample i is a_i b_i."

    def __init__(self):
        self.sizes = []

    def grads(self, slot, a, b):
        self.sizes.append(len(a))
        return a * b


def test_squared_norms_by_hand():
    t = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert squared_norms(t).tolist() == pytest.approx([25, 1])
    assert squared_norms(t[:, 0]).tolist() == pytest.approx([9, 0])
    assert squared_norms(t[:, None, :].double()).tolist() == [25, 1]


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_squares_leave_the_range_of_float32(size):
    t = torch.tensor([[3 * size, 4 * size]])
    assert squared_norms(t).dtype == torch.float64
    assert squared_norms(t).item() == pytest.approx(25 * size**2)


def test_add_up_is_a_sum_of_one_term_or_more():
    one = torch.tensor([1.0, 2.0])
    assert add_up([one]) is one
    assert add_up(k * one for k in (1, 2, 3)).tolist() == [6, 12]


def test_the_direct_form_adds_the_uses_before_it_squares():
    one = torch.ones(2, 1)
    uses = [Use(Product(), "weight", one, 3 * one, {}), Use(Product(), "weight", one, 4 * one, {})]
    assert direct_squares(uses, (1,)).tolist() == pytest.approx([49, 49])
    assert direct_squares(uses, (1,), torch.tensor([2.0])).tolist() == pytest.approx([196, 196])


def test_the_direct_form_takes_slices(monkeypatch):
    monkeypatch.setattr(rules, "CELLS", 6)
    rule = Product()
    a = torch.arange(10.0).reshape(5, 2)
    found = direct_squares([Use(rule, "weight", a, a, {})], (2,))
    assert rule.sizes == [3, 2]
    assert torch.allclose(found, a.double().pow(4).sum(1))


def test_a_rule_says_its_name():
    assert repr(Product()) == "Product()"


@pytest.mark.parametrize("scale", [1e-22, 1e18])
def test_extreme_gradients_neither_underflow_nor_overflow(scale):
    model, x, y = case("mlp", torch.float32)
    base = grad_norms(model, squared, x, y)
    found = grad_norms(model, lambda o, t: scale * squared(o, t), x, y)
    assert close(found / scale, base, 1e-5)
