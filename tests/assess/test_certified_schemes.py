"""Schemes that users ask for, judged by `certify` on the hundred embedded MNIST images.

Trainings of a few steps: that each is judged for what it is. What they gain is in
`benchmarks/schemes.md`, with seeds and intervals."""

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.assess import certify
from impsamp.assess.measures import summarise
from impsamp.data import load_mnist01
from impsamp.randomness import seeded
from impsamp.schemes import (
    DynamicPruning,
    GradNorm,
    GroupMixture,
    LaBER,
    Lipschitz,
    Loss,
    MultipleImportance,
    ReducibleLoss,
    Stale,
    Uniform,
)

N = 100
CLASSES = load_mnist01().y_train.numpy().astype(int)

# name -> (scheme, is the estimate that of the plain mean)
SCHEMES = {
    "groups": (lambda: GroupMixture(CLASSES, [1, 2], Stale("loss")), True),
    "groups of norms": (lambda: GroupMixture(CLASSES, [1, 1], GradNorm()), True),
    "groups wanted": (lambda: GroupMixture(CLASSES, [1, 2], corrected=False), False),
    "reducible": (lambda: ReducibleLoss(np.full(N, 0.1)), True),
    "large batch": (lambda: LaBER(20, "norm"), True),
    "multiple": (lambda: MultipleImportance(Loss(), Uniform(), Lipschitz(np.arange(1, 101))), True),
    "pruning": (lambda: DynamicPruning(), True),
    "pruning published": (lambda: DynamicPruning(corrected=False), False),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_certify_judges_it(name):
    make, unbiased = SCHEMES[name]
    split = load_mnist01()
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), 0)
    loss = nn.CrossEntropyLoss(reduction="none")
    data = split.x_train, split.y_train.long()
    page = certify(make(), net, loss, data, lr=0.01, batch=5, steps=60, every=20)
    found = summarise(page.rows)
    assert page.unbiased == unbiased
    assert len(page.rows) == 4 and np.isfinite(found["second_moment_ratio"])
    assert found["best_ratio"] <= found["second_moment_ratio"] * (1 + 1e-9)
    if name in ("groups of norms", "large batch"):
        # judged with fresh norms of all items
        assert found["second_moment_ratio"] < 0.9
    with torch.no_grad():
        assert loss(net(data[0]), data[1]).mean() < 0.5
