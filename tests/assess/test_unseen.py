"""A scheme that never draws items with a gradient is biased, and the page says by how much."""

from operator import itemgetter

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.assess import AssessCallback, assess, certify, measure
from impsamp.errors import InvalidArgument
from impsamp.schemes import GradNorm, Loss
from tests.assess.helpers import gradient_rows, half_squares


def task(n=20):
    g = torch.Generator().manual_seed(0)
    net = nn.Linear(3, 2)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g)
    return net, torch.randn(n, 3, generator=g), torch.randn(n, 2, generator=g)


def blind(n=20, unseen=(0, 1, 2)):
    p = np.ones(n)
    p[list(unseen)] = 0
    return p / p.sum()


def test_the_share_is_that_of_the_norms_by_hand():
    row = measure([0, 0, 0.5, 0.5], [0, 1, 1, 2])
    assert row["unseen_items"] == 1 and row["unseen_share"] == 0.25
    row = measure([0.1, 0.1, 0.4, 0.4], [0, 1, 1, 2])
    assert row["unseen_items"] == 0 and row["unseen_share"] == 0
    # an item without a gradient may have no probability: nothing is missed
    assert measure([0, 0.2, 0.4, 0.4], [0, 1, 1, 2])["unseen_items"] == 0


class Blind:
    "A scheme of the user's that never draws three of its items."

    def init(self, n):
        self.n = n

    def probabilities(self, scores=None):
        return blind(self.n)


@pytest.mark.parametrize("scheme", [blind(), Blind()])
def test_the_page_says_that_it_is_biased_and_what_it_misses(scheme):
    net, x, y = task()
    norms = gradient_rows(net, x, y).norm(dim=1)
    share = (norms[:3].sum() / norms.sum()).item()
    found = assess(scheme, net, half_squares, (x, y))
    page = found.page(batch=4)
    assert "nan" not in page
    assert f"p = 0 for 3 of 20 assessed items that have a gradient, which hold {share:.1%}" in page
    assert "**Biased**" in page and "No: a biased estimate" in page
    assert found.rows[0]["unseen_share"] == pytest.approx(share, rel=1e-6)


def test_a_scheme_that_sees_all_is_not_called_biased():
    net, x, y = task()
    assert "Biased" not in assess(GradNorm(), net, half_squares, (x, y)).page()


def test_over_a_training_the_worst_moment_counts():
    net, x, y = task()
    callback = AssessCallback(blind(unseen=[5]), net, half_squares, (x, y))
    for step in range(3):
        callback(step)
        net.weight.data *= 1 + step
    worst = max(row["unseen_share"] for row in callback.assessment.rows)
    assert f"hold {worst:.1%}" in callback.assessment.page()


@pytest.mark.parametrize("judge", [certify, assess, AssessCallback])
def test_arguments_in_another_order_are_told(judge):
    net, x, y = task()
    for wrong in (
        (net, GradNorm(), half_squares, (x, y)),
        (GradNorm(), half_squares, net, (x, y)),
        (GradNorm(), net, (x, y), half_squares),
        (GradNorm(), (x, y), net, half_squares),
    ):
        with pytest.raises(InvalidArgument, match="the order is"):
            judge(*wrong)


class Masked(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, mask):
        return {"logits": self.layer(x * mask)}


def loss_of_dict(out, y):
    return half_squares(out["logits"], y["target"])


@pytest.mark.parametrize("wrap", [tuple, lambda parts: dict(zip(("x", "mask"), parts))])
def test_batches_as_users_have_them_are_judged_and_trained_on_alike(wrap):
    ends = []
    keys = ("second_moment_ratio", "variance_ratio")
    for structured in (False, True):
        net, x, y = task()
        model = Masked(net) if structured else net
        loss_fn = loss_of_dict if structured else half_squares
        data = (wrap([x, torch.ones_like(x)]), {"target": y}) if structured else (x, y)
        row = assess(GradNorm(), model, loss_fn, data, sample_size=9).rows[0]
        found = certify(Loss(), model, loss_fn, data, steps=5, every=5, generator=3)
        ends.append(np.array([itemgetter(*keys)(r) for r in (row, *found.rows)]))
    assert np.allclose(*ends, rtol=1e-5)
