"""assess and AssessCallback: the right numbers, nothing touched, bad input refused."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.assess import AssessCallback, assess, mean_gradient_norm, probe
from impsamp.assess.pages import compare_with_uniform
from impsamp.errors import (
    InvalidArgument,
    InvalidProbabilities,
    InvalidScores,
    InvalidShape,
    UnknownName,
    UnsupportedModel,
)
from impsamp.schemes import GradNorm, Mixture, Uniform
from impsamp.theory.convergence import optimal_probabilities, second_moment


def squares(out, y):
    return 0.5 * (out - y).square().sum(1)


@pytest.fixture
def task():
    g = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.5
    return (
        net,
        torch.randn(30, 4, generator=g, dtype=torch.float64),
        torch.randn(30, 2, generator=g, dtype=torch.float64),
    )


def exact(net, x, y):
    "(norms, mean gradient) one sample at a time, the slow way."
    params = list(net.parameters())
    rows = []
    for i in range(len(x)):
        loss = squares(net(x[i : i + 1]), y[i : i + 1]).sum()
        rows.append(torch.cat([t.flatten() for t in torch.autograd.grad(loss, params)]))
    G = torch.stack(rows)
    return G.norm(dim=1).numpy(), G.mean(0)


def test_row_against_explicit_gradients(task):
    net, x, y = task
    g, mean = exact(net, x, y)
    half = Mixture(GradNorm(), Uniform())
    row, p = assess(half, net, squares, (x, y)).rows[0], 0.5 * optimal_probabilities(g) + 0.5 / 30
    u = np.full(30, 1 / 30)
    assert np.isclose(row["second_moment_ratio"], second_moment(p, g) / second_moment(u, g))
    drift = float(mean.square().sum())
    assert np.isclose(
        row["variance_ratio"], (second_moment(p, g) - drift) / (second_moment(u, g) - drift)
    )
    assert np.isclose(row["tv_p"], row["tv_u"] / 2) and row["between"] and row["log_ratio_se"] == 0
    assert np.isclose(mean_gradient_norm(net, squares, x, y, chunk_size=7), float(mean.norm()))


def test_uniform_is_equal_and_p_gn_is_best(task):
    net, x, y = task
    a, b = assess(Uniform(), net, squares, (x, y)), assess(GradNorm(), net, squares, (x, y))
    assert (
        compare_with_uniform(a.rows[0]) == "equal"
        and a.rows[0]["speed_gain"] == 0
        and a.rows[0]["ess"] == pytest.approx(1)
    )
    assert compare_with_uniform(b.rows[0]) == "better" and b.rows[0][
        "second_moment_ratio"
    ] == pytest.approx(b.rows[0]["best_ratio"])
    assert "It is uniform sampling" in a.page() and "**Yes**" in b.page()


def test_given_vector_and_scheme_with_scores_agree_for_proportional_p(task):
    net, x, y = task
    g, _ = exact(net, x, y)
    for m in (30, 11):
        rows = [
            assess(s, net, squares, (x, y), sample_size=m, generator=np.random.default_rng(5)).rows[
                0
            ]
            for s in (GradNorm(), optimal_probabilities(g))
        ]
        assert all(
            np.isclose(rows[0][k], rows[1][k], atol=1e-9)
            for k in rows[0]
            if "seconds" not in k and k != "gradient_equivalents"
        )


def snapshot(net):
    return (
        [p.detach().clone() for p in net.parameters()],
        [b.clone() for b in net.buffers()],
        [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        [m.training for m in net.modules()],
        [len(m._forward_hooks) + len(m._backward_hooks) for m in net.modules()],
    )


def same(a, b):
    return all(
        torch.equal(s, t) if isinstance(s, torch.Tensor) else s == t
        for u, v in zip(a, b)
        for s, t in zip(u, v)
    )


def test_nothing_is_touched(task):
    net, x, y = task
    squares(net(x), y).mean().backward()
    scheme = GradNorm(every=3).init(30)
    scheme.probabilities(np.arange(1.0, 31))
    before = snapshot(net)
    state = copy.deepcopy(scheme.__dict__)
    rng = torch.get_rng_state()
    callback = AssessCallback(scheme, net, squares, (x, y), sample_size=8)
    callback(0)
    callback(1)
    assert same(before, snapshot(net)) and torch.equal(rng, torch.get_rng_state())
    assert scheme.step == state["step"] and np.array_equal(scheme.scores, state["scores"])


def test_nothing_is_touched_on_failure(task):
    net, x, y = task
    before, rng = snapshot(net), torch.get_rng_state()
    with pytest.raises(InvalidScores, match="not finite"):
        assess(GradNorm(), net, squares, (torch.cat([x[:-1], torch.full((1, 4), np.nan)]), y))
    with pytest.raises(InvalidShape, match="reduction"):
        assess(GradNorm(), net, lambda o, t: squares(o, t).mean(), (x, y))
    assert same(before, snapshot(net)) and torch.equal(rng, torch.get_rng_state())


def test_callback_rows_every_k_and_probabilities_in_use(task):
    net, x, y = task
    callback = AssessCallback(GradNorm(), net, squares, (x, y), every=5)
    for step in range(11):
        callback(step)
    assert [r["step"] for r in callback.assessment.rows] == [0, 5, 10]
    row = callback(15, p=np.full(30, 1 / 30))
    assert compare_with_uniform(row) == "equal" and len(callback.assessment.table()) == 4


class Custom:
    "The smallest scheme a user may bring: no base class, no scope."

    needs = "norm"

    def init(self, n):
        self.n = n

    def probabilities(self, scores=None):
        return (
            np.asarray(scores, dtype=float) ** 2 / np.square(np.asarray(scores, dtype=float)).sum()
        )


def test_a_foreign_scheme_is_judged(task):
    net, x, y = task
    g, _ = exact(net, x, y)
    row = assess(Custom(), net, squares, (x, y)).rows[0]
    assert np.isclose(
        row["second_moment_ratio"],
        second_moment(g**2 / (g**2).sum(), g) / second_moment(np.full(30, 1 / 30), g),
    )


def test_without_any_gradient(task):
    net, x, y = task
    for p in net[2].parameters():
        p.data.zero_()
    y = torch.zeros_like(y)
    with pytest.raises(InvalidScores, match="gradient zero"):
        assess(GradNorm(), net, squares, (x, y))
    callback = AssessCallback(GradNorm(), net, squares, (x, y))
    assert callback(0) is None and callback.assessment.skipped == 1
    with pytest.raises(InvalidArgument, match="no evaluation yet"):
        callback.assessment.page()


def test_equal_arguments_give_equal_rows(task):
    net, x, y = task
    a, b = (assess(GradNorm(), net, squares, (x, y), sample_size=7).rows[0] for _ in range(2))
    assert all(a[k] == b[k] for k in a if "seconds" not in k and k != "gradient_equivalents")


@pytest.mark.parametrize(
    "change,error,words",
    [
        (dict(data=3), InvalidArgument, "must be"),
        (dict(data=(torch.zeros(4, 4), torch.zeros(3, 2))), InvalidShape, "4 samples but y has 3"),
        (dict(data=(torch.zeros(1, 4), torch.zeros(1, 2))), InvalidShape, "at least two"),
        (dict(data=(torch.zeros(0, 4), torch.zeros(0, 2))), InvalidShape, "at least two"),
        (dict(sample_size=1), InvalidArgument, "at least 2"),
        (dict(sample_size=31), InvalidArgument, "at most 30"),
        (dict(sample_size=2.5), InvalidArgument, "whole"),
        (dict(scheme="GradNorm"), InvalidArgument, "got str"),
        (dict(scheme=object()), InvalidArgument, "init"),
        (dict(scheme=np.full(29, 1 / 29)), InvalidShape, "29 items"),
        (dict(scheme=np.zeros(30)), InvalidProbabilities, "sums to 0"),
        (dict(generator="3"), InvalidArgument, "generator"),
        (dict(optimizer="sdg"), UnknownName, "did you mean 'sgd'"),
    ],
)
def test_bad_input(task, change, error, words):
    net, x, y = task
    kw = dict(scheme=GradNorm(), data=(x, y), generator=None, sample_size=5) | change
    with pytest.raises(error, match=words):
        assess(kw.pop("scheme"), net, squares, kw.pop("data"), **kw)


def test_unknown_needs(task):
    scheme = Custom()
    scheme.needs = "nrom"
    with pytest.raises(UnknownName, match="did you mean 'norm'"):
        assess(scheme, task[0], squares, task[1:])


def test_samples_that_interact_are_refused():
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()
    with pytest.raises(UnsupportedModel):
        assess(GradNorm(), net, squares, (torch.randn(8, 4).double(), torch.randn(8, 2).double()))
    with pytest.raises(UnsupportedModel):
        probe(net, squares, [(torch.randn(8, 4).double(), torch.randn(8, 2).double())], seconds=0.1)
    assert net[1].num_batches_tracked == 0


def counted(outline):
    "What a filled step histogram holds: the heights of its level stretches."
    xy = outline.get_xy()
    return sum(a[1] for a, b in itertools.pairwise(xy) if a[1] == b[1] and a[0] != b[0])


def test_pictures_have_the_data(task):
    import matplotlib.pyplot as plt

    net, x, y = task
    callback = AssessCallback(Mixture(GradNorm(), Uniform()), net, squares, (x, y), sample_size=9)
    for step in range(6):
        callback(step)
    fig = callback.assessment.histograms()
    assert len(fig.axes) == 5 and all(sum(map(counted, ax.patches)) == 12 for ax in fig.axes)
    fig = callback.assessment.evolution()
    assert np.allclose(
        fig.axes[0].lines[0].get_ydata(),
        [r["second_moment_ratio"] for r in callback.assessment.rows],
    )
    plt.close("all")
