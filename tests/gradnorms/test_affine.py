"""Normalisation, PReLU and elementwise parameters: gradients by hand and against autograd."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.gradnorms.affine import (
    AFFINE,
    ElementwiseRule,
    LastAxesNormRule,
    PReLURule,
    sum_to,
)


def test_sums_over_broadcast_axes():
    ones = torch.ones(2, 3, 4)
    assert sum_to(ones, (4,)).tolist() == [[3] * 4] * 2
    assert sum_to(ones, (3, 1)).tolist() == [[[4]] * 3] * 2
    assert sum_to(ones, ()).tolist() == [12, 12]
    assert sum_to(ones, (3, 4)).tolist() == ones.tolist()


def test_layer_norm_by_hand():
    "(1, 3) becomes (-1, 1); with b = (2, 5) the gradients are (-2, 5) and (2, 5)."
    rule = LastAxesNormRule(F.layer_norm)
    a = torch.tensor([[1.0, 3.0]])
    b = torch.tensor([[2.0, 5.0]])
    assert rule.grads("weight", a, b, (2,), 0.0).tolist() == [[-2, 5]]
    assert rule.grads("bias", a, b, (2,), 0.0).tolist() == [[2, 5]]
    assert rule.squares("weight", a, b) is None


def test_batch_norm_with_running_statistics_by_hand():
    "Mean 1 and variance 4 turn 5 into 2; with b = 3 the gradients are 6 and 3."
    rule = AFFINE[F.batch_norm]
    x = torch.tensor([[5.0]])
    b = torch.tensor([[3.0]])
    bound = rule.bind(x, torch.tensor([1.0]), torch.tensor([4.0]), eps=0.0)
    assert rule.grads("weight", x, b, **bound.setting).item() == 6
    assert rule.grads("bias", x, b, **bound.setting).item() == 3


def test_prelu_by_hand():
    a = torch.tensor([[-1.0, 2.0], [-3.0, -1.0]])
    b = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    assert PReLURule().grads("weight", a, b, axes=2, size=1).tolist() == [[-3], [-4]]
    assert PReLURule().grads("weight", a, b, axes=2, size=2).tolist() == [[-3, 0], [-3, -1]]


def test_elementwise_by_hand():
    a = torch.tensor([[1.0, 2.0]])
    b = torch.tensor([[3.0, 4.0]])
    product = ElementwiseRule("weight")
    assert product.grads("weight", a, b, (2,), False).tolist() == [[3, 8]]
    assert product.grads("weight", a, b, (1,), False).tolist() == [[11]]
    assert ElementwiseRule("bias").grads("bias", a, b, (1, 2), True).tolist() == [[[3, 4]]]
    assert repr(product) == "ElementwiseRule(slot='weight')"


def test_a_parameter_on_either_side_of_a_sum():
    rule = ElementwiseRule("bias")
    x = torch.randn(5, 3)
    w = nn.Parameter(torch.ones(3))
    for bound in (rule.bind(x, w), rule.bind(w, x)):
        assert torch.equal(bound.input, x)
        assert bound.slots["bias"] is w
        assert bound.setting == {"shape": (3,), "leading": False}


@pytest.mark.parametrize("shape", [(), (5, 3), (2, 5, 3), (5, 1)])
def test_what_is_not_broadcast_over_the_samples_is_not_covered(shape):
    other = torch.ones(shape, requires_grad=bool(shape)) if shape else 2.0
    assert ElementwiseRule("bias").bind(torch.randn(5, 3), other) is None


def test_a_sum_may_be_larger_than_its_operands():
    "A table of positions (1, 2, 3) and a mask (5, 1, 1)."
    table = torch.ones(1, 2, 3, requires_grad=True)
    bound = ElementwiseRule("bias").bind(table, torch.ones(5, 1, 1))
    assert bound.input.shape == (5, 2, 3)
    assert bound.lead == 1
    b = torch.ones(5, 2, 3)
    g = ElementwiseRule("bias").grads("bias", bound.input, b, **bound.setting)
    assert g.shape == (5, 1, 2, 3)


def test_a_parameter_given_to_every_sample():
    token = torch.ones(1, 1, 3, requires_grad=True)
    rule = AFFINE[torch.Tensor.expand]
    bound = rule.bind(token, 5, -1, -1)
    b = torch.arange(15.0).view(5, 1, 3)
    assert torch.equal(rule.grads("bias", bound.input, b, **bound.setting)[:, 0], b)
    assert rule.bind(torch.ones(5, 1, requires_grad=True), 5, 4) is None
    assert rule.bind(torch.ones(1), 5) is None


FUNCTIONS = {
    "layer norm": (F.layer_norm, ((8,), "w", "b"), (8,)),
    "group norm": (F.group_norm, (2, "w", "b"), (4,)),
    "instance norm": (F.instance_norm, (None, None, "w", "b"), (4,)),
    "prelu": (F.prelu, ("w",), (4,)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_against_autograd(name):
    torch.manual_seed(0)
    function, args, shape = FUNCTIONS[name]
    w, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    args = [{"w": w, "b": b}.get(arg, arg) if isinstance(arg, str) else arg for arg in args]
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    pull = torch.randn_like(x)
    rule = AFFINE[function]
    bound = rule.bind(x, *args)
    found = {slot: rule.grads(slot, x, pull, **bound.setting) for slot in bound.slots}
    for i in range(3):
        loss = (function(x[i : i + 1], *args) * pull[i : i + 1]).sum()
        for slot, t in bound.slots.items():
            (expected,) = torch.autograd.grad(loss, t, retain_graph=True)
            assert torch.allclose(found[slot][i], expected)
