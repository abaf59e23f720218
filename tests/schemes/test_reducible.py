"""Reducible loss: numbers by hand, pools that know their items, bounds, refusals."""

import numpy as np
import pytest
import torch

from impsamp.assess import certify
from impsamp.errors import InvalidArgument, InvalidShape, UnknownName
from impsamp.schemes import Mixture, ReducibleLoss, Uniform
from impsamp.training import train

HOLDOUT = [0.0, 2.0, -1.0]


def test_numbers_by_hand():
    p = ReducibleLoss(HOLDOUT, "all", weight=0.6).init(3).probabilities([3.0, 1.0, 0.0])
    assert np.allclose(p, [0.6 * 3 / 4 + 0.4 / 3, 0.4 / 3, 0.6 / 4 + 0.4 / 3])


def test_nothing_reducible_is_uniform():
    p = ReducibleLoss([5.0, 5.0], "all").init(2).probabilities([1.0, 2.0])
    assert p.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("scope", ["visits", "all", "pool"])
def test_no_weight_exceeds_its_bound(scope):
    scheme = ReducibleLoss(np.zeros(50), scope, weight=0.7, pool_size=50).init(50)
    losses = np.random.default_rng(0).lognormal(0, 5, 50)
    if scope == "visits":
        scheme.update(np.arange(50), losses)
        p = scheme.probabilities()
    else:
        p = scheme.probabilities(losses)
    assert p.min() >= 0.3 / 50 * (1 - 1e-12)


@pytest.mark.parametrize(
    "build, error",
    [
        (lambda: ReducibleLoss([0.0, np.nan]), InvalidArgument),
        (lambda: ReducibleLoss([0.0], weight=1.0), InvalidArgument),
        (lambda: ReducibleLoss([0.0], weight=-0.1), InvalidArgument),
        (lambda: ReducibleLoss([0.0], "some"), UnknownName),
        (lambda: ReducibleLoss([[0.0]]), InvalidShape),
        (lambda: ReducibleLoss([0.0]).init(2), InvalidShape),
    ],
)
def test_bad_settings(build, error):
    with pytest.raises(error):
        build()


def problem():
    torch.manual_seed(0)
    x = torch.randn(30, 3)
    y = torch.randint(0, 2, (30,))
    net = torch.nn.Linear(3, 2)
    return net, torch.nn.CrossEntropyLoss(reduction="none"), x, y


@pytest.mark.parametrize("scope", ["visits", "all", "pool"])
def test_it_trains_and_can_be_judged_on_some_of_the_items(scope):
    net, loss, x, y = problem()
    scheme = ReducibleLoss(np.linspace(0, 1, 30), scope, pool_size=9)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    history = train(net, loss, x, y, optimizer, scheme, batch=4, steps=6, seed=0)
    assert history.diverged_at is None and scheme.step == 6
    page = certify(scheme, net, loss, (x, y), steps=2, every=1, sample_size=12)
    assert len(page.rows) == 3


def test_a_pool_asks_for_the_holdout_losses_of_its_items():
    scheme = ReducibleLoss([0.0, 3.0, 0.0, 1.0], "pool", pool_size=2, weight=0.5).init(4)
    p = scheme.among(np.array([1, 3])).probabilities([3.0, 3.0])
    assert p.tolist() == [0.25, 0.75]
    half = Mixture(ReducibleLoss(np.zeros(4), "pool", pool_size=2), Uniform()).init(4)
    with pytest.raises(InvalidShape, match="among"):
        half.probabilities([3.0, 3.0])
