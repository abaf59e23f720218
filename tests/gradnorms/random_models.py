"""Random networks: layers, reorderings, raggedness, sharing, batch axes, dtypes; all from a seed.

A network is a head on a random trunk. Everything between is drawn: which blocks, how the batch is
put in order inside, where the samples are, whether layers are shared. Nothing here uses `impsamp`.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

WIDTH = 6
WORDS = 11
CLASSES = 3


# blocks on (..., WIDTH), whatever comes before


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, h):
        return h + self.inner(h)


class Twice(nn.Module):
    "A shared layer: its gradient has cross terms."

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, h):
        return self.inner(self.inner(h).tanh())


class Bare(nn.Module):
    "Parameters without modules."

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(WIDTH))
        self.scale = nn.Parameter(torch.randn(WIDTH))
        self.matrix = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, h):
        return torch.tanh(h * self.scale + self.shift) @ self.matrix


def linear():
    return nn.Linear(WIDTH, WIDTH, bias=random.random() < 0.7)


def wide():
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))


POINTWISE = {
    "linear": lambda: nn.Sequential(linear(), nn.Tanh()),
    "wide": wide,
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "rms norm": lambda: nn.RMSNorm(WIDTH),
    "residual": lambda: Residual(linear()),
    "twice": lambda: Twice(linear()),
    "bare": Bare,
}


def pointwise():
    names = random.choices(list(POINTWISE), k=random.randint(1, 3))
    return nn.Sequential(*(POINTWISE[name]() for name in names)), names


# trunks for rows (n, WIDTH)


class Sorted(nn.Module):
    "Sorts its batch by a feature, runs, undoes the sorting."

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        order = x.flatten(1)[:, 0].argsort(descending=True)
        return self.inner(x[order])[order.argsort()]


class Backwards(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.flip(0)).flip(0)


class Halves(nn.Module):
    "The samples of one sign through one layer, the others through another."

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.other = linear()

    def forward(self, x):
        positive = x[:, 0] > 0
        out = torch.zeros(len(x), WIDTH, dtype=x.dtype)
        out = out.index_put((positive,), self.inner(x[positive]).to(x.dtype))
        return out.index_put((~positive,), self.other(x[~positive]).to(x.dtype))


ROW_ORDERS = {"sorted": Sorted, "backwards": Backwards, "halves": Halves}


# trunks for sequences (n, T, WIDTH)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, h):
        q, k, v = self.qkv(h).unflatten(-1, (3, 2, -1)).movedim(-3, 0).transpose(-2, -3)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(-2, -3).flatten(-2))


class TimeFirst(nn.Module):
    "Runs on (T, n, WIDTH)."

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, h):
        return self.inner(h.transpose(0, 1)).transpose(0, 1)


class Merged(nn.Module):
    "Runs on (n T, WIDTH), by sample or by position."

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.by_position = random.random() < 0.5

    def forward(self, h):
        if self.by_position:
            h = h.transpose(0, 1)
        out = self.inner(h.flatten(0, 1)).unflatten(0, h.shape[:2])
        return out.transpose(0, 1) if self.by_position else out


class Unpadded(nn.Module):
    "Only the tokens with a positive entry are run; the others stay as they are."

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, h):
        kept = h.detach()[..., 0] > 0
        return h.index_put((kept,), self.inner(h[kept]).to(h.dtype))


class Experts(nn.Module):
    "Each token goes to the expert of its largest entry."

    def __init__(self, inner):
        super().__init__()
        self.experts = nn.ModuleList([inner, linear(), linear()])

    def forward(self, h):
        tokens = h.flatten(0, 1)
        choice = tokens.detach()[:, :3].argmax(1)
        out = torch.zeros_like(tokens)
        for k, expert in enumerate(self.experts):
            chosen = (choice == k).nonzero()[:, 0]
            out = out.index_add(0, chosen, expert(tokens[chosen]).to(h.dtype))
        return out.unflatten(0, h.shape[:2])


class Packed(nn.Module):
    "Sequences sorted by length and packed into rows, step by step, as torch packs them."

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, h):
        lengths = 1 + (h.detach()[:, :, 0] > 0).sum(1).clamp(max=h.shape[1] - 1)
        pack = nn.utils.rnn.pack_padded_sequence
        packed = pack(h, lengths, batch_first=True, enforce_sorted=False)
        packed = packed._replace(data=self.inner(packed.data))
        # padded to the same length in any company
        unpack = nn.utils.rnn.pad_packed_sequence
        out, _ = unpack(packed, batch_first=True, total_length=h.shape[1])
        return out


SEQUENCE_ORDERS = {
    "sorted": Sorted,
    "unpadded": Unpadded,
    "experts": Experts,
    "packed": Packed,
    "backwards": Backwards,
}
SEQUENCE_AXES = {"time first": TimeFirst, "merged": Merged}


class Pooled(nn.Module):
    "Mean over all axes but the first and the last, then the head."

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        h = self.trunk(x)
        while h.dim() > 2:
            h = h.mean(1)
        return self.head(h)


class TimeFirstOutput(nn.Module):
    "The output keeps its positions, and has them first."

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.trunk(x)).transpose(0, 1)


class Tied(nn.Module):
    "The embedding's own table is the head."

    def __init__(self, trunk):
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.trunk = trunk

    def forward(self, x):
        h = self.trunk(self.table(x))
        return F.linear(h.mean(1), self.table.weight)[:, :CLASSES]


# trunks for images (n, 3, 8, 8)


IMAGE_LAYERS = {
    "conv": lambda c: nn.Conv2d(c, 4, 3, padding=1),
    "strided": lambda c: nn.Conv2d(c, 4, 3, stride=2, padding=1),
    "grouped": lambda c: nn.Sequential(nn.Conv2d(c, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=2)),
    "transposed": lambda c: nn.ConvTranspose2d(c, 4, 2),
}
IMAGE_NORMS = {
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "prelu": lambda: nn.PReLU(4),
    "relu": nn.ReLU,
}


class Images(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body
        self.project = nn.Linear(4, WIDTH)

    def forward(self, x):
        return self.project(self.body(x).flatten(2).mean(2))


# losses on the output, (n, CLASSES) or time first (T, n, CLASSES)


def squared(out, y):
    if out.dim() == 3:
        out = out.mean(0)
    return (out - y[:, None]).square().sum(1)


def cross_entropy(out, y):
    if out.dim() == 3:
        out = out.sum(0)
    return F.cross_entropy(out, (y > 0).long(), reduction="none")


def gathered(out, y):
    if out.dim() == 3:
        out = out[-1]
    return -out.log_softmax(1).gather(1, (y > 0).long()[:, None])[:, 0]


LOSSES = (squared, cross_entropy, gathered)


# a network with its data


@dataclass
class Network:
    model: nn.Module
    loss: Callable[..., torch.Tensor]
    # n -> input
    data: Callable[[int], torch.Tensor]
    dtype: torch.dtype
    # the batch is put in another order, thinned or routed inside
    reordered: bool
    name: str

    def batch(self, n):
        x = self.data(n)
        y = torch.randn(n)
        return (x.to(self.dtype) if x.is_floating_point() else x), y.to(self.dtype)


def maybe(table, inner, chance):
    "(`inner`, or one of the wrappers of `table` around it, and its name or None)."
    if random.random() >= chance:
        return inner, None
    name = random.choice(list(table))
    return table[name](inner), name


def rows():
    inner, names = pointwise()
    trunk, order = maybe(ROW_ORDERS, inner, 0.5)
    return Pooled(trunk), lambda n: torch.randn(n, WIDTH), order, names


def sequences():
    inner, names = pointwise()
    inner, order = maybe(SEQUENCE_ORDERS, inner, 0.5)
    layers = [inner]
    if random.random() < 0.5:
        layers.insert(random.randint(0, 1), Attention())
        names.append("attention")
    trunk = nn.Sequential(*layers)
    # the wrappers of the batch expect it first
    if order is None:
        trunk, axis = maybe(SEQUENCE_AXES, inner, 0.5)
        names.append(str(axis))
    T = random.randint(1, 5)
    words = random.random() < 0.4
    if words:
        return Tied(trunk), lambda n: torch.randint(0, WORDS, (n, T)), order, [*names, "tied"]
    head = random.choice([Pooled, TimeFirstOutput])
    return head(trunk), lambda n: torch.randn(n, T, WIDTH), order, [*names, head.__name__]


def images():
    layers = []
    names = []
    channels = 3
    for _ in range(random.randint(1, 2)):
        kind = random.choice(list(IMAGE_LAYERS))
        norm = random.choice(list(IMAGE_NORMS))
        layers += [IMAGE_LAYERS[kind](channels), IMAGE_NORMS[norm]()]
        names += [kind, norm]
        channels = 4
    trunk, order = maybe({"sorted": Sorted, "backwards": Backwards}, nn.Sequential(*layers), 0.4)
    return Pooled(Images(trunk)), lambda n: torch.randn(n, 3, 8, 8), order, names


DTYPES = (torch.float64, torch.float64, torch.float32, torch.float32, torch.bfloat16)


def network(seed):
    "The network of a seed."
    random.seed(seed)
    torch.manual_seed(seed)
    kind = random.choice([rows, sequences, sequences, images])
    model, data, order, names = kind()
    dtype = random.choice(DTYPES)
    model = model.to(dtype)
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    loss = random.choice(LOSSES)
    text = f"{seed}: {kind.__name__}, {order}, {', '.join(names)}, {loss.__name__}, {dtype}"
    return Network(model, loss, data, dtype, order is not None, text)
