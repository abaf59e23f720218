"""Networks for the tests: name -> how to make one, its input, and whether rules cover all of it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.problems import PaperCNN

N = 5
seq = nn.Sequential


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    data: Callable[[], torch.Tensor]
    # every parameter is covered by a ghost rule
    ghost: bool = True


# inputs


def image(n=N):
    return torch.randn(n, 3, 8, 8)


def row(n=N):
    return torch.randn(n, 6)


def sequence(n=N):
    return torch.randn(n, 4, 8)


def words(n=N):
    return torch.randint(0, 11, (n, 6))


def normal(*shape):
    return lambda: torch.randn(*shape)


# layers


class Lambda(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


class TimeFirst(nn.Module):
    "Batch second inside, as in torch's own recurrent and attention defaults."

    def __init__(self, *layers):
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x):
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


class SelfAttention(nn.Module):
    def __init__(self, d=8, heads=2, **kw):
        super().__init__()
        self.a = nn.MultiheadAttention(d, heads, **kw)

    def forward(self, x):
        return self.a(x, x, x, need_weights=False)[0]


class CrossAttention(SelfAttention):
    def forward(self, x):
        return self.a(x, x.flip(1), 2 * x)[0]


class Decoder(nn.TransformerDecoderLayer):
    def forward(self, x):
        return super().forward(x, x.sin())


class Bilinear(nn.Bilinear):
    def forward(self, x):
        return super().forward(x, x.cos())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 6)

    def forward(self, x):
        return self.l(self.l(x).tanh())


class TwiceConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.c(F.relu(self.c(x)))


class TiedLanguage(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(11, 4)
        self.l = nn.Linear(4, 4)

    def forward(self, t):
        return F.linear(self.l(self.e(t)), self.e.weight)


class Learned(nn.Module):
    "Learned positions, a layer scale, a class token, a scalar temperature and a bare matrix."

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.scale = nn.Parameter(torch.randn(8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.matrix = nn.Parameter(torch.randn(8, 3))

    def forward(self, x):
        tokens = self.token.expand(len(x), -1, -1)
        h = torch.cat([tokens, x], 1) + self.positions
        return (self.scale * h) @ self.matrix * self.temperature


def halves(x):
    "An image (n, C, H, W) as two images of half its width, (2 n, C, H, W / 2)."
    return x.unflatten(3, (2, -1)).movedim(3, 1).flatten(0, 1)


class Mosaic(nn.Module):
    "Several images per sample share one convolution and one group norm."

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 4, 3)
        self.g = nn.GroupNorm(2, 4)
        self.p = nn.PReLU(4)

    def forward(self, x):
        h = self.p(self.g(self.c(halves(x))))
        return h.unflatten(0, (len(x), 2))


class MosaicInstance(nn.Module):
    "Several images per sample, each normalised on its own by statistics of its own."

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 4, 3)
        self.g = nn.InstanceNorm2d(4, affine=True)

    def forward(self, x):
        h = self.g(self.c(halves(x))).tanh()
        return h.unflatten(0, (len(x), 2))


class Affine(nn.Module):
    """Bare parameters only, and every one has a rule.

    Positions added from the left, a scale, a matrix on the right."""

    def __init__(self):
        super().__init__()
        self.add = nn.Parameter(torch.randn(4, 8))
        self.scale = nn.Parameter(torch.randn(8))
        self.matrix = nn.Parameter(torch.randn(8, 3))

    def forward(self, x):
        return torch.tanh((self.add + x) * self.scale) @ self.matrix


class BothWays(nn.Module):
    """One matrix from the right and, transposed, as a linear layer.

    The cross term knows which way round each use is."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return F.linear(torch.tanh(x @ self.w), self.w)


class Shared(nn.Module):
    "A factor that is the same for all samples: no sample axis to find."

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(N, N))
        self.l = nn.Linear(N, N)

    def forward(self, x):
        return x @ self.l(self.w)


class Weighted(nn.Module):
    "A weight that is itself computed from parameters."

    def __init__(self):
        super().__init__()
        self.l = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))

    def forward(self, x):
        return self.l(x)


# networks that take more than a line


def linear_gram():
    return seq(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))


def multilayer():
    return seq(nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 4))


def merged():
    before = Lambda(lambda x: x.flatten(0, 1))
    after = Lambda(lambda x: x.unflatten(0, (-1, 4)))
    return seq(before, nn.Linear(8, 3), after)


def conv_wide():
    first = nn.Conv2d(3, 8, 3, padding=1)
    second = nn.Conv2d(8, 16, 3, stride=3, padding=2)
    return seq(first, second, nn.ReLU(), nn.Conv2d(16, 16, 2, groups=2))


def conv_wide_odd():
    second = nn.Conv2d(8, 8, (3, 2), padding="same", dilation=(1, 2))
    return seq(nn.Conv2d(3, 8, 1), second)


def conv1d_wide():
    return seq(nn.Conv1d(4, 16, 1), nn.Conv1d(16, 8, 3, stride=2, padding=1))


def conv_transpose_wide():
    second = nn.ConvTranspose2d(8, 16, 3, stride=2, output_padding=1)
    return seq(nn.Conv2d(3, 8, 1), second)


def instance_conv():
    first = nn.Conv2d(3, 4, 3, padding=1)
    norm = nn.InstanceNorm2d(4, affine=True)
    return seq(first, norm, nn.ReLU(), nn.Conv2d(4, 2, 3))


def instance1d():
    return seq(nn.Conv1d(4, 3, 1), nn.InstanceNorm1d(3, affine=True), nn.Tanh())


def instance_running():
    return nn.InstanceNorm2d(3, affine=True, track_running_stats=True).eval()


def batch_norm():
    body = seq(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return body.append(nn.Linear(144, 3)).eval()


def encoder():
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)


def encoder_eval():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True).eval()


def lstm():
    return seq(nn.LSTM(8, 3, batch_first=True), Lambda(lambda o: o[0]))


# the cases

LINEAR = {
    "linear": Case(lambda: nn.Linear(6, 3), row),
    "linear-nobias": Case(lambda: nn.Linear(6, 3, bias=False), row),
    "linear-positions": Case(lambda: nn.Linear(8, 3), sequence),
    "linear-positions-gram": Case(linear_gram, normal(N, 3, 8)),
    "linear-two-axes": Case(lambda: nn.Linear(8, 3), normal(N, 2, 4, 8)),
    "linear-square-positions": Case(lambda: nn.Linear(8, 8), normal(N, N, 8)),
    "mlp": Case(multilayer, row),
    "batch-second": Case(lambda: TimeFirst(nn.Linear(8, 5), nn.LayerNorm(5)), sequence),
    "batch-second-square": Case(
        lambda: TimeFirst(nn.Linear(8, 5), nn.LayerNorm(5)),
        normal(3, 3, 8),
    ),
    "merged": Case(merged, sequence),
}

CONVOLUTIONS = {
    "conv1d": Case(lambda: nn.Conv1d(4, 3, 3), sequence),
    "conv1d-stride-dilation": Case(
        lambda: nn.Conv1d(4, 6, 2, stride=2, dilation=3, padding=2, groups=2),
        sequence,
    ),
    "conv2d": Case(lambda: nn.Conv2d(3, 4, 3), image),
    "conv2d-stride": Case(lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), image),
    "conv2d-odd": Case(
        lambda: nn.Conv2d(3, 4, (3, 2), stride=(1, 3), padding=(2, 0), dilation=(1, 2)),
        image,
    ),
    "conv2d-rest": Case(lambda: nn.Conv2d(3, 4, 3, stride=3), image),
    "conv2d-groups": Case(lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False), image),
    "conv2d-pointwise": Case(lambda: nn.Conv2d(3, 6, 1), image),
    "conv2d-gram": Case(
        lambda: seq(nn.Conv2d(3, 64, 3, stride=4), nn.Conv2d(64, 64, 2)),
        image,
    ),
    "conv2d-wide": Case(conv_wide, image),
    "conv2d-wide-odd": Case(conv_wide_odd, image),
    "conv1d-wide": Case(conv1d_wide, sequence),
    "conv3d-wide": Case(lambda: nn.Conv3d(8, 8, 2, padding=(0, 1, 0)), normal(N, 8, 3, 3, 4)),
    "conv-transpose2d-wide": Case(conv_transpose_wide, image),
    "conv2d-same": Case(lambda: nn.Conv2d(3, 4, (3, 4), padding="same"), image),
    "conv2d-valid": Case(lambda: nn.Conv2d(3, 4, 3, padding="valid"), image),
    "conv2d-circular": Case(
        lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
        image,
    ),
    "conv2d-reflect": Case(
        lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"),
        image,
    ),
    "conv2d-replicate": Case(
        lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"),
        image,
    ),
    "conv3d": Case(
        lambda: nn.Conv3d(1, 2, (2, 3, 2), stride=(1, 2, 1), padding=1),
        normal(N, 1, 4, 5, 4),
    ),
    "conv3d-dilation": Case(
        lambda: nn.Conv3d(2, 2, 2, dilation=2, groups=2),
        normal(N, 2, 4, 5, 4),
    ),
    "conv-transpose1d": Case(lambda: nn.ConvTranspose1d(4, 3, 3, stride=2), sequence),
    "conv-transpose2d": Case(
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
        image,
    ),
    "conv-transpose2d-groups": Case(
        lambda: nn.ConvTranspose2d(3, 6, 2, groups=3, dilation=2),
        image,
    ),
}

EMBEDDINGS = {
    "embedding": Case(lambda: nn.Embedding(11, 4), words),
    "embedding-padding": Case(lambda: nn.Embedding(11, 4, padding_idx=3), words),
    "embedding-sparse": Case(lambda: nn.Embedding(11, 4, sparse=True), words),
    "embedding-frequency": Case(
        lambda: nn.Embedding(11, 4, scale_grad_by_freq=True),
        words,
        ghost=False,
    ),
    "embedding-batch-second": Case(lambda: TimeFirst(nn.Embedding(11, 4)), words),
    "embedding-bag": Case(lambda: nn.EmbeddingBag(11, 4), words),
}

AFFINE = {
    "layernorm": Case(lambda: seq(nn.LayerNorm(8), nn.Linear(8, 2)), sequence),
    "layernorm-two-axes": Case(lambda: nn.LayerNorm((4, 8)), sequence),
    "layernorm-nobias": Case(lambda: nn.LayerNorm(8, bias=False), sequence),
    "rmsnorm": Case(lambda: nn.RMSNorm(8), sequence),
    "groupnorm": Case(
        lambda: seq(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()),
        image,
    ),
    "groupnorm-flat": Case(lambda: nn.GroupNorm(3, 6), row),
    "instancenorm": Case(lambda: nn.InstanceNorm2d(3, affine=True), image),
    "instancenorm-running": Case(instance_running, image),
    "instancenorm-tracking": Case(
        lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        image,
    ),
    "instancenorm1d": Case(instance1d, sequence),
    "instancenorm3d": Case(
        lambda: seq(nn.InstanceNorm3d(2, affine=True), nn.Tanh()),
        normal(N, 2, 3, 2, 2),
    ),
    "instancenorm-conv": Case(instance_conv, image),
    "instancenorm-mosaic": Case(MosaicInstance, image),
    "instancenorm-eps": Case(lambda: nn.InstanceNorm2d(3, affine=True, eps=0.5), image),
    "groupnorm-eps": Case(lambda: nn.GroupNorm(1, 3, eps=0.5), image),
    "layernorm-eps": Case(lambda: nn.LayerNorm(8, eps=0.5), sequence),
    "rmsnorm-eps": Case(lambda: nn.RMSNorm(8, eps=0.5), sequence),
    "batchnorm-eps": Case(lambda: nn.BatchNorm2d(3, eps=0.5).eval(), image),
    "affine": Case(Affine, sequence),
    "both-ways": Case(BothWays, sequence),
    "batchnorm-eval": Case(batch_norm, image),
    "batchnorm1d-eval": Case(lambda: nn.BatchNorm1d(6).eval(), row),
    "prelu": Case(lambda: seq(nn.Linear(6, 4), nn.PReLU(), nn.PReLU(4)), row),
    "prelu-image": Case(lambda: seq(nn.PReLU(3), nn.PReLU()), image),
}

COMPOSED = {
    "attention": Case(lambda: SelfAttention(batch_first=True), sequence),
    "attention-batch-second": Case(lambda: TimeFirst(SelfAttention()), sequence),
    "attention-nobias": Case(lambda: SelfAttention(batch_first=True, bias=False), sequence),
    "attention-bias-kv": Case(
        lambda: SelfAttention(batch_first=True, add_bias_kv=True),
        sequence,
        ghost=False,
    ),
    "attention-cross": Case(lambda: CrossAttention(batch_first=True), sequence),
    "encoder": Case(encoder, sequence),
    "encoder-eval": Case(encoder_eval, sequence),
    "decoder": Case(
        lambda: Decoder(8, 2, 16, dropout=0.0, batch_first=True),
        sequence,
    ),
    "lstm": Case(lstm, sequence),
    "gru-cell": Case(lambda: nn.GRUCell(6, 3), row),
    "bilinear": Case(lambda: Bilinear(6, 6, 2), row),
    "twice": Case(Twice, row),
    "twice-conv": Case(TwiceConv, image),
    "tied-language": Case(TiedLanguage, words),
    "learned": Case(Learned, sequence),
    "mosaic": Case(Mosaic, image),
    "shared": Case(Shared, normal(N, N)),
    "weight-norm": Case(Weighted, row),
    "paper": Case(PaperCNN, lambda: torch.rand(N, 1, 28, 28)),
}

CASES = {**LINEAR, **CONVOLUTIONS, **EMBEDDINGS, **AFFINE, **COMPOSED}


def case(name, dtype=torch.float64, seed=0):
    "(model, x, y) with weights large enough that every part of a gradient shows."
    torch.manual_seed(seed)
    make, data, _ = CASES[name]
    model = make().to(dtype)
    x = data()
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    y = torch.randn(len(x), 1, dtype=dtype)
    return model, (x.to(dtype) if x.is_floating_point() else x), y
