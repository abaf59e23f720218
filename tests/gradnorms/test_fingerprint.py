"""Which graphs are the same, and which are proved on every batch."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from benchmarks._gradnorms_networks import Transformer, mlp, resnet
from impsamp.gradnorms.fingerprint import fingerprint
from impsamp.problems import PaperCNN
from tests.gradnorms.cases import CASES, case
from tests.gradnorms.helpers import squared

LAYER = nn.Linear(4, 4)


def of(forward, n=6):
    return fingerprint(forward(torch.randn(n, 4)).sum(1))


def tanh(x):
    return LAYER(x).tanh()


def test_the_same_graph_has_the_same_fingerprint_whatever_its_numbers():
    assert of(tanh) == of(tanh)
    assert hash(of(tanh)) == hash(of(tanh))
    assert of(lambda x: LAYER(x) * 0.5) == of(lambda x: LAYER(x) * 0.25)


OTHERS = {
    "function": lambda x: LAYER(x).sigmoid(),
    "connection": lambda x: LAYER(x).tanh() + LAYER(x),
    "axis": lambda x: LAYER(x).tanh().softmax(1),
    "other axis": lambda x: LAYER(x).tanh().softmax(0),
    "size": lambda x: LAYER(x)[:, :3].tanh(),
    "start": lambda x: LAYER(x)[:, 1:].tanh(),
}


def test_other_graphs_have_others():
    found = [of(forward) for forward in (tanh, *OTHERS.values())]
    assert len(set(found)) == len(found)
    assert of(tanh) != of(tanh, n=5)


def test_marks_are_part_of_it():
    losses = tanh(torch.randn(3, 4)).sum(1)
    node = losses.grad_fn
    assert fingerprint(losses, [(node, 1)]) != fingerprint(losses, [(node, 2)])
    assert fingerprint(losses, [(node, 1)]) == fingerprint(losses, [(node, 1)])


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g


class Tanh(Own):
    "Bears the name of a function that is known."


MOVERS = {
    "index": lambda h, x: h[x[:, 0].argsort()],
    "mask": lambda h, x: h[x[:, 0] > -9],
    "gather": lambda h, x: h.gather(0, x.argsort(0)),
    "take": lambda h, x: h.take_along_dim(x.argsort(0), 0),
    "scatter": lambda h, x: torch.zeros_like(h).scatter(0, x.argsort(0), h),
    "index add": lambda h, x: torch.zeros_like(h).index_add(0, x[:, 0].argsort(), h),
    "index select": lambda h, x: h.index_select(0, x[:, 0].argsort()),
    "where": lambda h, x: torch.where(x > 0, h, h.mean(0)),
    "sort": lambda h, x: h.sort(0).values,
    "top-k": lambda h, x: h.topk(2, 0).values,
    "roll": lambda h, x: h.roll(1, 0),
    "flip": lambda h, x: h.flip(0),
    "product": lambda h, x: (h @ h.T) @ x,
    "adjacency": lambda h, x: (x @ x.T).softmax(1) @ h,
    "einsum": lambda h, x: torch.einsum("nd,md->nm", h, h),
    "table": lambda h, x: F.embedding(x[:, 0].argsort(), h),
    "own function": lambda h, x: Own.apply(h),
    "own function of a known name": lambda h, x: Tanh.apply(h),
    "weights from data": lambda h, x: F.linear(x, h),
    "copy into a slice": lambda h, x: torch.zeros_like(h).index_copy(0, x[:, 0].argsort(), h),
}


@pytest.mark.parametrize("name", MOVERS)
def test_what_moves_rows_by_numbers_is_proved_on_every_batch(name):
    assert not of(lambda x: MOVERS[name](LAYER(x), x)).rowwise


def cross_entropy(out, y):
    return F.cross_entropy(out, torch.zeros(len(out)).long(), reduction="none")


NETWORKS = {
    "paper": (PaperCNN, lambda: torch.rand(3, 1, 28, 28)),
    "mlp": (mlp, lambda: torch.rand(3, 784)),
    "resnet": (resnet, lambda: torch.rand(3, 3, 16, 16)),
    "transformer": (Transformer, lambda: torch.randint(0, 1000, (3, 7))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_common_networks_are_proved_once(name):
    make, data = NETWORKS[name]
    assert fingerprint(cross_entropy(make()(data()), None)).rowwise


# besides these, rows move or a weight is computed from others
MOVING = (
    "lstm",
    "attention-bias-kv",
    "attention-cross",
    "weight-norm",
    "learned",
    "both-ways",
    "shared",
)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.ghost and n not in MOVING])
def test_layers_with_rules_are_proved_once(name):
    model, x, y = case(name)
    assert fingerprint(squared(model(x), y)).rowwise


def test_without_a_graph_nothing_is_known():
    assert not fingerprint(torch.zeros(3)).rowwise


def test_a_cat_of_known_parts_moves_nothing_that_comes_with_the_batch():
    w = nn.Parameter(torch.ones(3))

    def seen(*parts):
        return fingerprint(torch.cat(parts, 1).sum(1))

    one = seen(w * torch.ones(4, 3), torch.ones(4, 2))
    assert one.rowwise
    assert one.key == seen(w * torch.ones(4, 3), torch.ones(4, 2)).key
    # the same total, cut elsewhere
    halves = seen(w[:1] * torch.ones(4, 2), w[:1] * torch.ones(4, 2))
    other = seen(w[:1] * torch.ones(4, 1), w[:1] * torch.ones(4, 3))
    assert halves.key != other.key
    assert not seen(torch.ones(4, 1), w * torch.ones(4, 3), torch.ones(4, 2)).rowwise
