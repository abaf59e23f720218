"""`certify` trains with schemes of every scope and judges the probabilities in use."""

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.assess import certify
from impsamp.errors import Diverged, InvalidArgument
from impsamp.schemes import GradNorm, Loss, Mixture, Stale, Uniform, UpperBound


def squares(out, y):
    return 0.5 * (out - y).square().sum(1)


def task(seed=0, n=24):
    "A small net and items (x, y) whose y is the sum of x."
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.5
    x = torch.randn(n, 3, generator=g, dtype=torch.float64)
    return net, (x, x.sum(1, keepdim=True))


class Remembers:
    "A foreign scheme with scope visits."

    needs = "loss"
    scope = "visits"

    def init(self, n):
        self.seen = np.ones(n)

    def probabilities(self, scores=None):
        return self.seen / self.seen.sum()

    def update(self, idx, scores):
        self.seen[idx] = np.asarray(scores) + 1e-3


@pytest.mark.parametrize(
    "scheme",
    [
        Uniform(),
        GradNorm(),
        GradNorm(every=4),
        Mixture(GradNorm(), Uniform()),
        Loss(),
        UpperBound(pool_size=8),
        Stale(),
        Remembers(),
    ],
    ids=lambda scheme: type(scheme).__name__,
)
def test_every_scope_trains_and_is_judged(scheme):
    net, (x, y) = task()
    start = squares(net(x), y).mean().item()
    assessed = certify(scheme, net, squares, (x, y), lr=0.05, batch=4, steps=40, every=8)
    assert [row["step"] for row in assessed.rows] == [0, 8, 16, 24, 32, 40]
    assert squares(net(x), y).mean().item() < start
    assert "Better than uniform" in assessed.page(batch=4)


def test_probabilities_in_use_between_refreshes_are_judged():
    net, data = task()
    fresh, late = (
        certify(GradNorm(every=k), net, squares, data, lr=0.05, batch=4, steps=3, every=3).rows[-1]
        for k in (1, 100)
    )
    assert fresh["speed_gain"] == pytest.approx(1)
    assert late["speed_gain"] < 1 - 1e-6


def test_equal_arguments_equal_runs_and_the_scheme_is_not_touched():
    scheme = Loss()
    runs = []
    for _ in range(2):
        net, data = task()
        assessed = certify(scheme, net, squares, data, lr=0.05, steps=20, every=5)
        ratios = [row["second_moment_ratio"] for row in assessed.rows]
        weights = [p.detach().numpy().tobytes() for p in net.parameters()]
        runs.append((ratios, weights))
    assert runs[0] == runs[1]
    assert scheme.n is None


def test_divergence_and_bad_arguments():
    net, data = task()
    with pytest.raises(Diverged, match="learning rate"):
        certify(Uniform(), net, squares, data, lr=1e200, steps=50)
    for bad in (dict(batch=0), dict(steps=0), dict(every=0), dict(sample_size=1)):
        with pytest.raises(InvalidArgument):
            certify(Uniform(), task()[0], squares, data, **bad)
    with pytest.raises(InvalidArgument, match="Lipschitz"):
        certify(np.full(24, 1 / 24), task()[0], squares, data)
