"""What tests of thinning share: outcomes of coins, and a small net with its losses."""

from itertools import product

import numpy as np
import torch
from torch import nn


def subsets(pi):
    "All 2^n outcomes of the coins that can happen, with their chances."
    for outcome in product([False, True], repeat=len(pi)):
        kept = np.array(outcome)
        chance = np.prod(np.where(kept, pi, 1 - pi))
        if chance > 0:
            yield np.flatnonzero(kept), chance


def coins_that_keep(rows, n):
    "What stands in for `uniforms`: coins of `n` rows that keep exactly `rows`."
    coins = np.where(np.isin(np.arange(n), rows), 0.0, np.nextafter(1, 0))
    return lambda generator, size: coins[:size]


def regression(seed=0, n=6):
    "(net, x, y) in float64, all from one seed."
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    x = torch.randn(n, 3, generator=g, dtype=torch.float64)
    y = torch.randint(0, 2, (n,), generator=g)
    return net, x, y


def cross_entropy(out, y):
    return nn.functional.cross_entropy(out, y, reduction="none")


def flat_grad(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])
