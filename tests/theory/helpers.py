"""What the tests of one step share: problems, real optimizers enumerated, exact definitions."""

from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np
import sympy as sp
import torch

TOLERANCE = 1e-10


class Problem(NamedTuple):
    "The first four arguments of every convergence speed."

    p: np.ndarray
    grads: np.ndarray
    theta: np.ndarray
    star: np.ndarray


def setting(seed, n=4, d=3):
    "A random problem of `n` items in `d` dimensions, and gradients of three warm-up steps."
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(n))
    grads = rng.normal(size=(n, d))
    theta = rng.normal(size=d)
    star = rng.normal(size=d)
    return Problem(p, grads, theta, star), rng.normal(size=(3, d))


class Step(NamedTuple):
    "Where a step of a torch optimizer ended, and the optimizer before it."

    after: np.ndarray
    state: dict
    group: dict


def stepped(make, theta, warm, grad):
    "Warm-up steps on the gradients `warm`, theta restored, then one step on `grad`."
    param = torch.tensor(theta, requires_grad=True)
    optimizer = make([param])
    for g in warm:
        param.grad = torch.tensor(g)
        optimizer.step()
    with torch.no_grad():
        param.copy_(torch.tensor(theta))
    state = {
        k: v.clone() if isinstance(v, torch.Tensor) else v
        for k, v in optimizer.state[param].items()
    }
    group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    param.grad = torch.tensor(grad)
    optimizer.step()
    return Step(param.detach().numpy(), state, group)


def enumerated(make, problem, warm=(), batch=1):
    "(S(p), the optimizer's state and group before the step), by enumeration of all batches."
    p, grads, theta, star = problem
    n = len(p)
    expected = 0.0
    for draw in product(range(n), repeat=batch):
        estimate = sum(grads[i] / (n * p[i]) for i in draw) / batch
        step = stepped(make, theta, warm, estimate)
        expected += np.prod([p[i] for i in draw]) * ((step.after - star) ** 2).sum()
    return ((theta - star) ** 2).sum() - expected, step.state, step.group


# Points at which float64 makes no rounding error at all, against the definition in symbols.

DYADIC = [Fraction(1, 2), Fraction(1, 4), Fraction(1, 8), Fraction(1, 8)]


def shuffled(seed):
    "A generator, and the dyadic probabilities in an order that it draws."
    rng = np.random.default_rng(seed)
    return rng, [DYADIC[i] for i in rng.permutation(4)]


def rational_row(row):
    return [sp.nsimplify(x) for x in row]


def definition(p, grads, theta, star, step):
    "S(p) from its definition in SymPy rationals; step(G) is the displacement for a weighted G."
    theta = rational_row(theta)
    star = rational_row(star)
    before = sum((a - b) ** 2 for a, b in zip(theta, star))
    after = 0
    for pi, row in zip(p, grads):
        pi = sp.Rational(pi.numerator, pi.denominator)
        move = step([x / (len(p) * pi) for x in rational_row(row)])
        after += pi * sum((a - m - b) ** 2 for a, m, b in zip(theta, move, star))
    return before - after


def exactly(value):
    "A float as the rational that it is."
    return sp.Rational(*Fraction(value).as_integer_ratio())


# A small problem for input that is refused.

P = [0.5, 0.5]
GRADS = [[1.0, 0.0], [0.0, 2.0]]
THETA = [1.0, 1.0]
STAR = [0.0, 0.0]
