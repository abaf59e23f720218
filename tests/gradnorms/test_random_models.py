"""Random networks: the norms equal the loop, whatever the layers, the chunks, the frozen parameters and the reuse of layers."""

import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.gradnorms import grad_norms

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


@st.composite
def convolutions(draw):
    axes, channels = draw(st.integers(1, 3)), draw(st.sampled_from([2, 4]))
    size = [draw(st.integers(4, 6)) for _ in range(axes)]
    conv, layers, first = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1], [], (channels, *size)
    for _ in range(draw(st.integers(1, 3))):
        kind, same = (
            draw(st.sampled_from(["conv", "group", "instance", "prelu", "residual", "again"])),
            dict(kernel_size=3, padding=1),
        )
        if kind == "conv":
            out = draw(st.sampled_from([2, 4, 6]))
            groups = draw(
                st.sampled_from([g for g in (1, 2) if channels % g == 0 and out % g == 0])
            )
            kernel = [draw(st.integers(1, min(3, s))) for s in size]
            stride, pad = (
                [draw(st.integers(1, 2)) for _ in size],
                [draw(st.integers(0, 2)) for _ in size],
            )
            dilation = [
                draw(st.integers(1, 2)) if s + 2 * p > 2 * (k - 1) else 1
                for s, p, k in zip(size, pad, kernel)
            ]
            layers.append(
                conv(channels, out, kernel, stride, pad, dilation, groups, draw(st.booleans()))
            )
            size, channels = (
                [
                    (s + 2 * p - d * (k - 1) - 1) // t + 1
                    for s, p, d, k, t in zip(size, pad, dilation, kernel, stride)
                ],
                out,
            )
        elif kind == "group":
            layers.append(nn.GroupNorm(2, channels))
        elif kind == "instance":
            layers.append(
                (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[axes - 1](
                    channels, affine=True
                )
            )
        elif kind == "prelu":
            layers.append(nn.PReLU(channels))
        else:
            layers.append(
                (Residual if kind == "residual" else Again)(conv(channels, channels, **same))
            )
        if min(size) < 3:
            break
        if kind == "instance" and torch.tensor(size).prod() == 1:
            layers.pop()
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * int(torch.tensor(size).prod()), 3)
    ), lambda n: torch.randn(n, *first)


@st.composite
def sequences(draw):
    T, d, V = draw(st.integers(1, 6)), draw(st.sampled_from([4, 8])), 9
    words = draw(st.booleans())
    layers = (
        [nn.Embedding(V, d, padding_idx=draw(st.sampled_from([None, 2])))]
        if words
        else [nn.Linear(3, d)]
    )
    for kind in draw(
        st.lists(
            st.sampled_from(["linear", "layer", "rms", "attend", "residual", "again"]),
            min_size=1,
            max_size=4,
        )
    ):
        if kind == "linear":
            out = draw(st.sampled_from([4, 8, 32]))
            layers += [nn.Linear(d, out, bias=draw(st.booleans())), nn.GELU()]
            d = out
        elif kind == "attend":
            layers.append(Attend(d, 2))
        else:
            layers.append(
                {
                    "layer": nn.LayerNorm(d),
                    "rms": nn.RMSNorm(d),
                    "residual": Residual(nn.Linear(d, d)),
                    "again": Again(nn.Linear(d, d)),
                }[kind]
            )
    return nn.Sequential(
        *layers, nn.Linear(d, 3)
    ), lambda n: torch.randint(0, V, (n, T)) if words else torch.randn(n, T, 3)


def check(net, seed, n, chunk, frozen, dtype=torch.float64, bound=1e-10):
    torch.manual_seed(seed)
    model, data = net
    model = model.to(dtype)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    for p in list(model.parameters())[:-1]:
        p.requires_grad_(bool(torch.rand(()) >= frozen))
    x, target = data(n), torch.randn(n, 1, dtype=dtype)
    x = x.to(dtype) if x.is_floating_point() else x

    def loss(out, y):
        return torch.nn.functional.softplus(out.flatten(1) * y).sum(1)

    oracle = grad_norms(
        model.double(),
        loss,
        x.double() if x.is_floating_point() else x,
        target.double(),
        method="loop",
    )
    found = grad_norms(model.to(dtype), loss, x, target, chunk_size=chunk)
    assert (found - oracle).abs().max() <= bound * oracle.max() and oracle.max() > 0


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
