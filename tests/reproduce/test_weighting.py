"""Weights forgotten, or in the graph: steps against enumeration, runs against the paper's."""

import numpy as np
import pytest
import torch

from impsamp.data import load_mnist01
from impsamp.errors import InvalidArgument, UnknownName
from impsamp.gradnorms import grad_norms
from impsamp.problems import PaperCNN
from impsamp.randomness import seeded
from impsamp.reproduce.lahire import nll, paper_run
from impsamp.reproduce.weighting import (
    bias,
    differentiable_norms,
    expected_steps,
    weighting_run,
)


@pytest.fixture(scope="module")
def some():
    "(model, x, y): the paper's network and eight images."
    split = load_mnist01()
    return seeded(PaperCNN, 3).double(), split.x_train[::13].double(), split.y_train[::13]


def test_norms_in_the_graph_are_the_norms(some):
    _, norms = differentiable_norms(*some)
    model, x, y = some
    torch.testing.assert_close(norms.detach(), grad_norms(model, nll, x, y))


def test_their_derivative_is_a_difference_quotient(some):
    model, x, y = some
    bias_of_output = model[7].bias
    (slope,) = torch.autograd.grad(differentiable_norms(model, x, y)[1].sum(), [bias_of_output])
    h = 1e-6
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            bias_of_output[0] += sign * h
        ends.append(differentiable_norms(model, x, y)[1].sum().item())
        with torch.no_grad():
            bias_of_output[0] -= sign * h
    assert slope[0].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


def test_detached_is_unbiased_and_the_others_are_not(some):
    model, x, y = some
    steps = expected_steps(model, x, y)
    params = list(model.parameters())
    grads = torch.autograd.grad(nll(model(x), y).mean(), params)
    right = torch.cat([g.flatten() for g in grads])
    torch.testing.assert_close(steps["detached"], right)
    found = bias(steps)
    assert found["cosine unweighted"] < 1 - 1e-6
    assert found["cosine undetached"] < 1 - 1e-6


@pytest.mark.parametrize("arm, scheme", [("u", "u"), ("detached", "gn")])
def test_right_arms_are_the_papers_runs(arm, scheme):
    ours = weighting_run(arm=arm, seed=1, steps=4, eval_every=2)
    theirs = paper_run(optimizer="sgd", scheme=scheme, seed=1, steps=4, eval_every=2, test=False)
    assert (ours["train_loss"] == theirs["train_loss"]).all()


def test_wrong_arms_start_alike_and_part():
    runs = [
        weighting_run(arm=arm, seed=1, steps=2, eval_every=1)
        for arm in ("detached", "unweighted", "undetached")
    ]
    losses = np.array([run["train_loss"] for run in runs])
    assert len(set(losses[:, 0])) == 1
    assert len(set(losses[:, 2])) == 3


def test_the_bias_is_looked_at_now_and_then():
    run = weighting_run(arm="detached", seed=1, steps=2, eval_every=1, bias_every=2)
    assert np.isnan(run["cosine unweighted"]).tolist() == [False, True, False]


def test_a_diverging_run_is_recorded():
    run = weighting_run(arm="unweighted", seed=0, lr=1e30, steps=20)
    assert 0 < run["diverged_at"] < 20 and np.isinf(run["train_loss"][-1])


def test_what_is_refused():
    with pytest.raises(UnknownName, match="arm"):
        weighting_run(arm="gn", seed=0)
    with pytest.raises(InvalidArgument, match="flipped"):
        weighting_run(arm="u", seed=0, flipped=1.5)
