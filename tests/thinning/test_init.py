"""Thinning: unbiased by enumeration, its variance and audits exact, its refusals."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from impsamp import thinning
from impsamp.errors import InvalidArgument, InvalidScores, InvalidShape
from impsamp.gradnorms import grad_norms
from impsamp.thinning import (
    Thinning,
    VarianceBound,
    added_variance,
    keep_probabilities,
    output_scores,
    thin,
)
from tests.thinning.helpers import coins_that_keep, cross_entropy, flat_grad, regression, subsets

positive = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(1e-3, 1e3))


@pytest.mark.parametrize("keep", [0.5, 2, 1, 1.0])
@pytest.mark.parametrize("floor", [0.0, 0.3, 1.0])
def test_unbiased_and_variance_by_enumeration(keep, floor, monkeypatch):
    scores = np.array([0.1, 1.0, 2.0, 5.0])
    g = np.random.default_rng(0).normal(size=(4, 3))
    pi = keep_probabilities(scores, keep, floor=floor)
    mean = 0
    variance = 0
    for rows, chance in subsets(pi):
        monkeypatch.setattr(thinning, "uniforms", coins_that_keep(rows, 4))
        draw = thin(scores, keep, generator=None, floor=floor)
        assert draw.idx.tolist() == rows.tolist() and np.allclose(draw.prob, pi[rows])
        estimate = (draw.weight.numpy()[:, None] * g[rows]).sum(0)
        mean = mean + chance * estimate
        variance = variance + chance * ((estimate - g.mean(0)) ** 2).sum()
    expected = added_variance(pi, np.linalg.norm(g, axis=1))
    assert np.allclose(mean, g.mean(0), atol=1e-14)
    assert np.isclose(variance, expected, rtol=1e-12, atol=1e-14)


@settings(deadline=None, max_examples=80)
@given(positive, st.floats(0.01, 1), st.floats(0, 1))
def test_keep_probabilities_have_the_sum_the_floor_and_the_form(s, keep, floor):
    pi = keep_probabilities(s, keep, floor=floor)
    assert np.isclose(pi.sum(), keep * s.size) and (pi <= 1).all()
    assert (pi >= floor * keep * (1 - 1e-9)).all()
    if floor == 0:
        free = pi < 1
        assert np.allclose(pi[free] / s[free], (pi[free] / s[free])[:1])
        uniform = added_variance(np.full(s.size, keep), s)
        assert added_variance(pi, s) <= uniform * (1 + 1e-9)


def test_zero_scores_are_never_kept_and_the_rest_is_certain():
    scores = np.array([0.0, 0.0, 1.0, 3.0])
    assert keep_probabilities(scores, 3).tolist() == [0, 0, 1, 1]
    draws = []
    for seed in range(200):
        draw = thin(scores, 1, generator=np.random.default_rng(seed))
        draws.append(draw.idx.tolist())
    assert not {0, 1} & {row for rows in draws for row in rows}
    assert [] in draws  # a subset may be empty; its sum is zero and the step is still made


def test_all_zero_scores_warn_and_keep_uniformly():
    with pytest.warns(RuntimeWarning, match="all scores"):
        assert keep_probabilities(np.zeros(4), 0.5).tolist() == [0.5] * 4


def zero_scores_of_a_step():
    out = torch.ones(4, 2, requires_grad=True)
    thinner = Thinning([out], 0.5, generator=np.random.default_rng(0))
    thinner.backward(out.sum(1), scores=np.zeros(4))


@pytest.mark.parametrize(
    "call",
    [
        lambda: keep_probabilities(np.zeros(4), 0.5),
        lambda: thin(np.zeros(4), 0.5, generator=np.random.default_rng(0)),
        zero_scores_of_a_step,
    ],
    ids=["keep_probabilities", "thin", "backward"],
)
def test_the_warning_of_zero_scores_points_at_the_caller(call):
    with pytest.warns(RuntimeWarning) as caught:
        call()
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.parametrize(
    "generator",
    [np.random.default_rng(0), torch.Generator().manual_seed(0)],
    ids=["numpy", "torch"],
)
def test_tensors_and_generators(generator):
    draw = thin(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float16), 0.7, generator=generator)
    assert draw.idx.dtype == torch.int64
    assert draw.weight.dtype == torch.float64
    assert not draw.weight.requires_grad


@pytest.mark.parametrize(
    "scores, keep, floor, error",
    [
        ([1, np.nan], 0.5, 0, InvalidScores),
        ([1, np.inf], 0.5, 0, InvalidScores),
        ([1, -1], 0.5, 0, InvalidScores),
        ([], 0.5, 0, InvalidShape),
        ([[1, 2]], 0.5, 0, InvalidShape),
        ([1, 2], 0.0, 0, InvalidArgument),
        ([1, 2], 1.5, 0, InvalidArgument),
        ([1, 2], 3, 0, InvalidArgument),
        ([1, 2], 0, 0, InvalidArgument),
        ([1, 2], True, 0, InvalidArgument),
        ([1, 2], "half", 0, InvalidArgument),
        ([1, 2], np.nan, 0, InvalidArgument),
        ([1, 2], 0.5, 2, InvalidArgument),
        ([1, 2], 0.5, np.nan, InvalidArgument),
    ],
)
def test_bad_input(scores, keep, floor, error):
    with pytest.raises(error):
        thin(scores, keep, floor=floor, generator=np.random.default_rng(0))


def test_a_generator_is_demanded():
    with pytest.raises(InvalidArgument, match="generator"):
        thin([1.0, 2.0], 0.5, generator="7")
    with pytest.raises(InvalidArgument, match="generator"):
        Thinning([], 0.5, generator=-1)


def test_a_seed_is_a_generator():
    scores = np.arange(1.0, 30.0)
    coins = [thin(scores, 0.5, generator=g).idx for g in (7, np.random.default_rng(7))]
    assert coins[0].tolist() == coins[1].tolist()
    thinner = Thinning([], 0.5, generator=7)
    losses = torch.ones(29, requires_grad=True) * 1
    draws = [thinner.backward(losses, scores=scores).idx.tolist() for _ in range(1)]
    assert draws == [thin(scores, 0.5, floor=0.05, generator=7).idx.tolist()]


def test_output_scores_are_softmax_minus_one_hot():
    net, x, y = regression()
    out = net(x)
    s = output_scores(cross_entropy(out, y), out)
    assert torch.allclose(s, (out.softmax(1) - nn.functional.one_hot(y, 2)).norm(dim=1))
    cross_entropy(out, y).mean().backward()  # the graph is still usable


def test_backward_is_unbiased_and_accumulates_by_enumeration(monkeypatch):
    net, x, y = regression(n=4)
    cross_entropy(net(x), y).mean().backward()
    full = flat_grad(net).clone()
    out = net(x)
    scores = output_scores(cross_entropy(out, y), out).detach().numpy()
    pi = keep_probabilities(scores, 0.5, floor=0.05)
    mean = 0
    for rows, chance in subsets(pi):
        net.zero_grad()
        monkeypatch.setattr(thinning, "uniforms", coins_that_keep(rows, 4))
        out = net(x)
        Thinning(net.parameters(), 0.5, generator=None).backward(cross_entropy(out, y), out)
        mean = mean + chance * flat_grad(net)
    assert torch.allclose(mean, full, rtol=1e-12)


def test_a_bound_hears_of_the_step_alone_whatever_the_gradients_held():
    net, x, y = regression()
    squares = []
    for steps_before in (0, 3):
        net.zero_grad()
        for _ in range(steps_before):
            cross_entropy(net(x), y).sum().backward()
        bound = VarianceBound(0.1, audit_every=1000, warm_up=5)
        out = net(x)
        thinner = Thinning(net.parameters(), bound, generator=np.random.default_rng(0))
        thinner.backward(cross_entropy(out, y), scores=np.ones(6))
        squares.append(bound.signal)
    net.zero_grad()
    cross_entropy(net(x), y).mean().backward()  # all rows are kept while warming up
    assert np.allclose(squares, float(flat_grad(net).square().sum()), rtol=1e-9)


def test_the_audit_is_unbiased_over_all_coins_and_signs(monkeypatch):
    net, x, y = regression(n=3)
    losses = cross_entropy(net(x), y)
    norms = grad_norms(net, cross_entropy, x, y).numpy()
    s = np.array([1.0, 2.0, 4.0])
    pi = np.array([0.2, 0.5, 0.8])
    bound = VarianceBound(0.1)
    expected = 0
    for rows, chance in subsets(pi):
        monkeypatch.setattr(thinning, "uniforms", lambda generator, size: np.zeros(size))
        thinner = Thinning(net.parameters(), bound, generator=None)
        for signs in product([0.0, 0.9], repeat=len(rows)):
            coins = np.array(signs)
            monkeypatch.setattr(thinning, "uniforms", lambda generator, size, c=coins: c[:size])
            audit = thinner._auditor.audit(losses[rows.tolist()], s, pi, rows)
            expected += chance * audit / 2 ** len(rows)
    assert np.isclose(expected, added_variance(pi, norms), rtol=1e-10)


def test_losses_that_are_already_reduced_are_refused():
    net, x, y = regression()
    out = net(x)
    losses = cross_entropy(out, y)
    thinner = Thinning(net.parameters(), 0.5, generator=np.random.default_rng(0))
    with pytest.raises(InvalidShape, match="reduction='none'"):
        thinner.backward(losses.mean(), out)
    with pytest.raises(InvalidArgument, match="output"):
        thinner.backward(losses)


def test_a_thinner_prints_what_it_was_made_of():
    net, _, _ = regression()
    thinner = Thinning(net.parameters(), 0.5, generator=np.random.default_rng(0))
    assert repr(thinner) == "Thinning(<4 parameters>, 0.5, floor=0.05)"


@pytest.mark.parametrize("bound", [False, True])
def test_the_loss_has_the_gradient_of_backward(bound):
    "For a loop that goes backward itself: the same coins, the same observations."

    def gradients(go_backward):
        x = torch.linspace(-1, 1, 24).reshape(8, 3).requires_grad_()
        thinner = Thinning([x], VarianceBound(0.3) if bound else 0.5, generator=4)
        for _ in range(3):
            go_backward(thinner, x.exp().sum(1), x)
        return x.grad, thinner.state_dict()["bound"]

    ours, seen = gradients(lambda thinner, *args: thinner.loss(*args).backward())
    wanted, observed = gradients(lambda thinner, *args: thinner.backward(*args))
    assert torch.equal(ours, wanted)
    assert seen == observed


def test_the_loss_of_an_audited_bound_is_refused_and_that_of_no_rows_is_zero():
    x = torch.ones(0, 3, requires_grad=True)
    audited = Thinning([x], VarianceBound(0.3, audit_every=2), generator=4)
    with pytest.raises(InvalidArgument, match="leave out audit_every"):
        audited.loss(x.sum(1), x)
    thinner = Thinning([x], 0.5, generator=4)
    loss = thinner.loss(x.sum(1), x)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize(
    "params",
    [
        nn.Linear(2, 1),
        torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=1.0),
        nn.Linear(2, 1).weight,
        nn.Linear(2, 1).named_parameters(),
        None,
    ],
    ids=["model", "optimizer", "one tensor", "named", "none"],
)
def test_what_is_not_the_parameters_is_refused_in_words(params):
    with pytest.raises(InvalidArgument, match=r"pass model.parameters\(\)"):
        Thinning(params, 0.5, generator=0)


def test_without_a_generator_the_seed_is_torchs():
    scores = torch.arange(1.0, 41.0)

    def kept():
        losses = torch.ones(40, requires_grad=True)
        return Thinning([losses], 0.5).backward(losses, scores=scores).idx.tolist()

    torch.manual_seed(3)
    first = kept()
    assert kept() != first
    torch.manual_seed(3)
    assert kept() == first
