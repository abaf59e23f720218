"""The networks and problems whose per-sample gradient norms are timed, beside the first paper's."""

import torch
import torch.nn.functional as F
from torch import nn

from impsamp.problems import PaperCNN


class Block(nn.Module):
    "Residual block with group norm."

    def __init__(self, a, b, stride):
        super().__init__()
        self.c1 = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.n1 = nn.GroupNorm(4, b)
        self.c2 = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.n2 = nn.GroupNorm(4, b)
        self.short = nn.Sequential()
        if a != b or stride != 1:
            self.short = nn.Conv2d(a, b, 1, stride, bias=False)

    def forward(self, x):
        inner = F.relu(self.n1(self.c1(x)))
        return F.relu(self.n2(self.c2(inner)) + self.short(x))


def resnet():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


class Attention(nn.Module):
    "Self-attention built from Linear, so that tools that hook modules can take part."

    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)

    def split(self, t):
        "(n, length, d) -> (n, heads, length, d / heads)"
        return t.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x):
        q, k, v = map(self.split, self.qkv(x).chunk(3, 2))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    def __init__(self, d=128, heads=4, wide=256):
        super().__init__()
        self.n1 = nn.LayerNorm(d)
        self.a = Attention(d, heads)
        self.n2 = nn.LayerNorm(d)
        self.up = nn.Linear(d, wide)
        self.down = nn.Linear(wide, d)

    def forward(self, x):
        x = x + self.a(self.n1(x))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Transformer(nn.Module):
    def __init__(self, words=1000, d=128, layers=4):
        super().__init__()
        self.embed = nn.Embedding(words, d)
        self.layers = nn.Sequential(*(Encoder(d) for _ in range(layers)))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, 10)

    def forward(self, t):
        return self.head(self.norm(self.layers(self.embed(t))).mean(1))


def mlp():
    return nn.Sequential(
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


# name: (model, sample shape, classes, N)
PROBLEMS = {
    "paper-100": (PaperCNN, (1, 28, 28), 2, 100),
    "paper-1000": (PaperCNN, (1, 28, 28), 2, 1000),
    "mlp-100": (mlp, (784,), 10, 100),
    "mlp-1000": (mlp, (784,), 10, 1000),
    "resnet-gn-100": (resnet, (3, 32, 32), 10, 100),
    "transformer-100": (Transformer, (64,), 10, 100),
}


def problem(name):
    make, shape, classes, n = PROBLEMS[name]
    torch.manual_seed(0)
    model = make()
    x = torch.randint(0, 1000, (n, *shape)) if make is Transformer else torch.rand(n, *shape)
    return model, x, torch.randint(0, classes, (n,))
