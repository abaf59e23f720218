"""Skipping rows changes no gradient, leaves no trace, and really skips."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from impsamp.thinning import row_skipping, skip_zero_rows


def conv1d():
    conv = nn.Conv1d(2, 4, 3, stride=2, padding=1)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


def conv2d():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, dilation=2, groups=2),
        nn.ReLU(),
        nn.Conv2d(6, 2, 3, padding="same", bias=False),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def circular():
    conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
    return nn.Sequential(conv, nn.Flatten(), nn.LazyLinear(3))


def attention():
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))


# name -> (what makes the net, shape of its input)
NETS = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)),
        (7, 6),
    ),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Flatten(1), nn.Linear(40, 2)),
        (7, 5, 6),
    ),
    "conv1d": (conv1d, (7, 2, 9)),
    "conv2d": (conv2d, (7, 4, 8, 8)),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.LazyLinear(3)),
        (7, 1, 3, 3, 3),
    ),
    "circular": (circular, (7, 1, 4, 4)),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
        (7, 6),
    ),
    "attention": (attention, (7, 4, 6)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rows", [[], [2], [0, 5, 6], list(range(7))], ids=len)
def test_skipping_rows_changes_no_gradient(name, rows):
    build, shape = NETS[name]
    net = build().double()
    g = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    net(x)
    grads = []
    for context in (nullcontext(), skip_zero_rows()):
        net.zero_grad()
        leaf = x.clone().requires_grad_()
        with context:
            out = net(leaf)
        out[rows].square().sum().backward()
        grads.append([leaf.grad] + [p.grad for p in net.parameters()])
    for plain, skipped in zip(*grads):
        assert torch.allclose(plain, skipped, rtol=1e-10, atol=1e-12)


def test_skipping_rows_leaves_no_trace_and_really_skips(monkeypatch):
    net = nn.Linear(3, 2)
    x = torch.randn(5, 3)
    with skip_zero_rows():
        out = net(x)
    assert type(out.grad_fn).__name__ == "_LinearBackward"
    assert type(net(x).grad_fn).__name__ == "AddmmBackward0"

    seen = []
    original = row_skipping._nonzero_rows

    def watched(d):
        seen.append(original(d))
        return seen[-1]

    monkeypatch.setattr(row_skipping, "_nonzero_rows", watched)
    out[[1, 3]].sum().backward()
    assert [s.tolist() for s in seen] == [[1, 3]]


def test_a_gradient_that_is_not_a_number_is_not_skipped():
    net = nn.Linear(2, 1)
    x = torch.randn(3, 2)
    with skip_zero_rows():
        out = net(x)
    (out * torch.tensor([[0.0], [float("nan")], [0.0]])).sum().backward()
    assert net.weight.grad.isnan().all()


def test_a_weight_without_an_axis_for_the_output():
    torch.manual_seed(0)
    weight = torch.randn(4, requires_grad=True)
    x = torch.randn(6, 4)
    with skip_zero_rows():
        output = F.linear(x, weight)
    kept = torch.tensor([0.0, 1, 0, 2, 0, 0])
    (found,) = torch.autograd.grad((kept * output).sum(), weight)
    assert torch.allclose(found, kept @ x)
