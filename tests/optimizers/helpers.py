"""A small nonconvex sum with every subset of every sampling written out from the definitions."""

from collections import namedtuple
from itertools import combinations, product
from math import ceil

import numpy as np
import torch
from torch import nn

from impsamp.optimizers import SAGA, SARAH, SVRG

Draw = namedtuple("Draw", "idx weight")
N, D = 6, 3
RNG = np.random.default_rng(7)
A = RNG.normal(size=(N, D)) * np.array([1, 0.3, 3, 0.6, 2, 0.1])[:, None]
Y = (RNG.random(N) < 0.5).astype(float)
METHODS = dict(svrg=SVRG, sarah=SARAH, saga=SAGA)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def grad_items(x, idx=slice(None)):
    "grad of (y_i - sigma(a_i x))^2, by hand."
    s = sigmoid(A[idx] @ x)
    return (2 * (s - Y[idx]) * s * (1 - s))[:, None] * A[idx]


# a law: inclusion probabilities p, every subset with its probability, and v of Lemma 1


def nice(b):
    subsets = list(combinations(range(N), b))
    law = [(S, 1 / len(subsets)) for S in subsets]
    return np.full(N, b / N), law, np.full(N, (N - b) / (N - 1))


def coins(p, items):
    "Every outcome of one coin per item, with its probability."
    for kept in product((0, 1), repeat=len(items)):
        chances = [q if k else 1 - q for q, k in zip(p, kept)]
        yield tuple(i for i, k in zip(items, kept) if k), np.prod(chances)


def independent(p):
    return p, list(coins(p, range(N))), 1 - p


def approximate(p):
    free = np.flatnonzero(p < 1)
    certain = tuple(np.flatnonzero(p == 1))
    k = len(free)
    a = ceil(k * p[free].max() - 1e-12)
    pools = list(combinations(free, a))
    subsets = [
        (S + certain, q / len(pools))
        for pool in pools
        for S, q in coins(k * p[list(pool)] / a, pool)
    ]
    return p, subsets, np.where(p < 1, 1 - p * (1 - 1 / a), 0)


def serial(p):
    return p, [((i,), p[i]) for i in range(N)], np.ones(N)  # v = d with |S| <= d = 1


P = np.array([0.15, 0.3, 1.0, 0.35, 0.8, 0.4])  # sum 3, one item always in
SAMPLINGS = dict(
    nice1=nice(1),
    nice3=nice(3),
    independent=independent(P),
    approximate=approximate(P),
    serial=serial(P / P.sum()),
)


def draw_of(S, p):
    weights = [1 / (N * p[i]) for i in S]
    return Draw(torch.tensor(S, dtype=torch.int64), torch.tensor(weights, dtype=torch.float64))


class Fixed:
    "The least that a set sampling may be, over an enumerated law: it tells no v."

    def __init__(self, p, subsets):
        self.inclusion_probabilities = p
        self.subsets = subsets

    def draw(self, generator):
        if isinstance(generator, torch.Generator):
            u = torch.rand(1, generator=generator).item()
        else:
            u = generator.random()
        k = np.searchsorted(np.cumsum([q for _, q in self.subsets]), u)
        S, _ = self.subsets[min(k, len(self.subsets) - 1)]
        return draw_of(S, self.inclusion_probabilities)


def loss_closure(x):
    "closure(idx, weight) of the sum at the parameter `x`."
    matrix, y = torch.tensor(A), torch.tensor(Y)

    def closure(idx, weight):
        return (weight * (y[idx] - torch.sigmoid(matrix[idx] @ x)) ** 2).sum()

    return closure


def make(method, law, lr=0.3, seed=0, x0=None, **kw):
    "(x, optimizer, closure) of a method with the draws of an enumerated law."
    p, subsets, _ = law
    x = nn.Parameter(torch.tensor(np.linspace(-1, 1, D) if x0 is None else x0))
    rng = np.random.default_rng(seed)
    opt = METHODS[method]([x], Fixed(p, subsets), lr=lr, generator=rng, **kw)
    return x, opt, loss_closure(x)


def epochs(method, **kw):
    "Options that only the methods with epochs have: `kw` for SVRG and SARAH, none for SAGA."
    return {} if method == "saga" else kw


def svrg_reference(draws, *, lr, inner, decay, x):
    "Algorithm 1 in numpy; `draws` of (S, weights)."
    for t, (S, w) in enumerate(draws):
        if t % inner == 0:
            snapshot = x
            g = grad_items(x).mean(0)
        v = w @ (grad_items(x, S) - grad_items(snapshot, S)) + g
        x = x - lr * (v + decay * x)
    return x


def sarah_reference(draws, *, lr, inner, decay, x):
    "Algorithm 3 in numpy; the draw at the start of an epoch is not looked at."
    old = None
    for t, (S, w) in enumerate(draws):
        if t % (inner + 1) == 0:
            v = grad_items(x).mean(0)
        else:
            v = w @ (grad_items(x, S) - grad_items(old, S)) + v
        old = x
        x = x - lr * (v + decay * x)
    return x


def saga_reference(draws, tables, *, lr, decay, x):
    "Algorithm 2 in numpy; `tables` the sets J."
    table = grad_items(x)
    for (S, w), J in zip(draws, tables):
        v = w @ (grad_items(x, S) - table[S]) + table.mean(0)
        table = table.copy()
        table[J] = grad_items(x, J)
        x = x - lr * (v + decay * x)
    return x
