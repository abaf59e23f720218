"""addmm and bilinear layers."""

import pytest
import torch
import torch.nn as nn

from impsamp.gradnorms import choose_method, grad_norms
from impsamp.gradnorms.products import PRODUCTS, AddmmRule, BilinearRule
from tests.gradnorms.helpers import backward_norms, close, squared


class Conv1D(nn.Module):
    "As GPT-2 writes a linear layer."

    def __init__(self, d, out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d, out))
        self.bias = nn.Parameter(torch.randn(out))

    def forward(self, x):
        rows = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return rows.view(*x.shape[:-1], -1)


class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Bilinear(3, 5, 2)

    def forward(self, x):
        return self.l(x[..., :3], x[..., 3:].sin())


class Scaled(Conv1D):
    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight, alpha=2, beta=3)


MODELS = {
    "rows": (lambda: Conv1D(8, 3), (5, 8)),
    "positions": (lambda: nn.Sequential(Conv1D(8, 16), nn.GELU(), Conv1D(16, 3)), (5, 4, 8)),
    "bilinear": (Pairs, (5, 8)),
    "bilinear at positions": (Pairs, (5, 4, 8)),
    "scaled": (lambda: Scaled(8, 3), (5, 8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_norms(name):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().double()
    x = torch.randn(*shape, dtype=torch.float64)
    y = torch.randn(5, 1, dtype=torch.float64)
    oracle = backward_norms(model, squared, x, y)
    assert close(grad_norms(model, squared, x, y), oracle, 1e-10)
    covered = set(choose_method(model, squared, x, y).values()) == {"ghost"}
    assert covered == (name != "scaled")
    scales = {key: p.detach().abs() + 1 for key, p in model.named_parameters()}
    scaled = grad_norms(model, squared, x, y, precondition=scales)
    loop = grad_norms(model, squared, x, y, precondition=scales, method="loop")
    assert close(scaled, loop, 1e-10)


def test_what_is_left_to_the_fallback():
    c = torch.zeros(2)
    x = torch.ones(3, 4)
    w = torch.ones(4, 2)
    assert AddmmRule().bind(c, x, w) is not None
    assert AddmmRule().bind(torch.zeros(3, 2), x, w) is None
    assert AddmmRule().bind(c, x, w, beta=0.5) is None


def test_bilinear_by_hand():
    "y = 3 w 5, so the gradient of w is 15."
    rule = BilinearRule()
    bound = rule.bind(torch.tensor([[3.0]]), torch.tensor([[5.0]]), torch.ones(1, 1, 1))
    one = torch.ones(1, 1)
    assert rule.grads("weight", bound.input, one, **bound.setting).item() == 15
    assert rule.squares("weight", bound.input, one, **bound.setting).item() == 225
    assert isinstance(PRODUCTS[torch.bilinear], BilinearRule)
