"""Random networks: the norms equal the loop's.

Whatever the layers, the chunks, the frozen parameters and the reuse of layers."""

import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.gradnorms import grad_norms
from tests.gradnorms.helpers import double

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Again(nn.Module):
    "The same layers twice: every parameter has cross terms."

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(self.inner(x).tanh())


class Attend(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.a = nn.MultiheadAttention(d, heads, batch_first=True)

    def forward(self, x):
        return self.a(x, x, x)[0]


# networks of convolutions


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
KINDS = ["conv", "group", "instance", "prelu", "residual", "again"]


def size_after(size, kernel, stride, pad, dilation):
    settings = zip(size, kernel, stride, pad, dilation)
    return [(s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, t, p, d in settings]


def draw_dilation(draw, size, pad, kernel):
    "2 only where the dilated kernel fits into the padded image."
    fits = [s + 2 * p > 2 * (k - 1) for s, p, k in zip(size, pad, kernel)]
    return [draw(st.integers(1, 2)) if fit else 1 for fit in fits]


def draw_convolution(draw, channels, size):
    "(layer, channels and size of its output)."
    out = draw(st.sampled_from([2, 4, 6]))
    possible = [g for g in (1, 2) if channels % g == 0 and out % g == 0]
    groups = draw(st.sampled_from(possible))
    kernel = [draw(st.integers(1, min(3, s))) for s in size]
    stride = [draw(st.integers(1, 2)) for _ in size]
    pad = [draw(st.integers(0, 2)) for _ in size]
    dilation = draw_dilation(draw, size, pad, kernel)
    bias = draw(st.booleans())
    conv = CONVOLUTIONS[len(size) - 1]
    layer = conv(channels, out, kernel, stride, pad, dilation, groups, bias)
    return layer, out, size_after(size, kernel, stride, pad, dilation)


def layer_that_keeps_the_shape(kind, channels, axes):
    if kind == "group":
        return nn.GroupNorm(2, channels)
    if kind == "instance":
        return INSTANCE_NORMS[axes - 1](channels, affine=True)
    if kind == "prelu":
        return nn.PReLU(channels)
    conv = CONVOLUTIONS[axes - 1](channels, channels, kernel_size=3, padding=1)
    return Residual(conv) if kind == "residual" else Again(conv)


@st.composite
def convolutions(draw):
    axes = draw(st.integers(1, 3))
    channels = draw(st.sampled_from([2, 4]))
    size = [draw(st.integers(4, 6)) for _ in range(axes)]
    first = (channels, *size)
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(KINDS))
        if kind == "conv":
            layer, channels, size = draw_convolution(draw, channels, size)
        else:
            layer = layer_that_keeps_the_shape(kind, channels, axes)
        layers.append(layer)
        if min(size) < 3:
            break
    numbers = channels * int(torch.tensor(size).prod())
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(numbers, 3))
    return net, lambda n: torch.randn(n, *first)


# networks of sequences


WORDS = 9


def layer_of_width(kind, d):
    return {
        "layer": lambda: nn.LayerNorm(d),
        "rms": lambda: nn.RMSNorm(d),
        "attend": lambda: Attend(d, 2),
        "residual": lambda: Residual(nn.Linear(d, d)),
        "again": lambda: Again(nn.Linear(d, d)),
    }[kind]()


def draw_first_layer(draw, words, d):
    if words:
        return nn.Embedding(WORDS, d, padding_idx=draw(st.sampled_from([None, 2])))
    return nn.Linear(3, d)


SEQUENCE_KINDS = ["linear", "layer", "rms", "attend", "residual", "again"]


@st.composite
def sequences(draw):
    T = draw(st.integers(1, 6))
    d = draw(st.sampled_from([4, 8]))
    words = draw(st.booleans())
    layers = [draw_first_layer(draw, words, d)]
    for kind in draw(st.lists(st.sampled_from(SEQUENCE_KINDS), min_size=1, max_size=4)):
        if kind == "linear":
            out = draw(st.sampled_from([4, 8, 32]))
            layers += [nn.Linear(d, out, bias=draw(st.booleans())), nn.GELU()]
            d = out
        else:
            layers.append(layer_of_width(kind, d))
    net = nn.Sequential(*layers, nn.Linear(d, 3))
    if words:
        return net, lambda n: torch.randint(0, WORDS, (n, T))
    return net, lambda n: torch.randn(n, T, 3)


# the comparison


def loss(out, y):
    return torch.nn.functional.softplus(out.flatten(1) * y).sum(1)


def check(net, seed, n, chunk, frozen, dtype=torch.float64, bound=1e-10):
    torch.manual_seed(seed)
    model, data = net
    model = model.to(dtype)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    for p in list(model.parameters())[:-1]:
        p.requires_grad_(bool(torch.rand(()) >= frozen))
    x = data(n)
    target = torch.randn(n, 1, dtype=dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    oracle = grad_norms(model.double(), loss, double(x), target.double(), method="loop")
    found = grad_norms(model.to(dtype), loss, x, target, chunk_size=chunk)
    assert (found - oracle).abs().max() <= bound * oracle.max()
    assert oracle.max() > 0


ARGUMENTS = dict(
    seed=st.integers(0, 999),
    n=st.integers(1, 6),
    chunk=st.sampled_from([None, 1, 2, 4]),
    frozen=st.sampled_from([0.0, 0.4]),
)


@SETTINGS
@given(net=convolutions(), **ARGUMENTS)
def test_random_convolutional_networks(net, seed, n, chunk, frozen):
    check(net, seed, n, chunk, frozen)


@SETTINGS
@given(net=sequences(), **ARGUMENTS)
def test_random_sequence_networks(net, seed, n, chunk, frozen):
    check(net, seed, n, chunk, frozen)


@SETTINGS
@given(net=st.one_of(convolutions(), sequences()), seed=st.integers(0, 999))
def test_random_networks_in_float32(net, seed):
    check(net, seed, 5, None, 0.0, torch.float32, 1e-5)
