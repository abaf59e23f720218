"""Thinning: unbiased by enumeration, its variance and audits exact, its bound kept, its backward pass the plain one."""

from contextlib import nullcontext
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
from impsamp.thinning import Thinning, keep_probabilities, output_scores, thin
from impsamp.thinning.row_skipping import skip_zero_rows
from impsamp.thinning.variance_bound import VarianceBound, added_variance, threshold

positive = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(1e-3, 1e3))


def subsets(pi):
    "All 2^n outcomes of the coins with their chances."
    for kept in product([False, True], repeat=len(pi)):
        kept = np.array(kept)
        yield np.flatnonzero(kept), np.prod(np.where(kept, pi, 1 - pi))


def weights_of_outcome(scores, keep, rows, pi, monkeypatch, **kwargs):
    "What `thin` gives when its coins fall so that `rows` are kept."
    coins = np.where(np.isin(np.arange(len(pi)), rows), 0.0, np.nextafter(1, 0))
    monkeypatch.setattr(thinning, "uniforms", lambda generator, size: coins)
    return thin(scores, keep, generator=None, **kwargs)


@pytest.mark.parametrize("keep", [0.5, 2, 1, 1.0])
@pytest.mark.parametrize("floor", [0.0, 0.3, 1.0])
def test_unbiased_and_variance_by_enumeration(keep, floor, monkeypatch):
    scores, g = np.array([0.1, 1.0, 2.0, 5.0]), np.random.default_rng(0).normal(size=(4, 3))
    pi, mean, second = keep_probabilities(scores, keep, floor=floor), 0, 0
    for rows, chance in subsets(pi):
        if chance == 0:
            continue
        draw = weights_of_outcome(scores, keep, rows, pi, monkeypatch, floor=floor)
        assert draw.idx.tolist() == rows.tolist() and np.allclose(draw.prob, pi[rows])
        estimate = (draw.weight.numpy()[:, None] * g[rows]).sum(0)
        mean, second = (
            mean + chance * estimate,
            second + chance * ((estimate - g.mean(0)) ** 2).sum(),
        )
    assert np.allclose(mean, g.mean(0), atol=1e-14)
    assert np.isclose(second, added_variance(pi, np.linalg.norm(g, axis=1)), rtol=1e-12, atol=1e-14)


@settings(deadline=None, max_examples=80)
@given(positive, st.floats(0.01, 1), st.floats(0, 1))
def test_keep_probabilities_have_the_sum_the_floor_and_the_form(s, keep, floor):
    pi = keep_probabilities(s, keep, floor=floor)
    assert np.isclose(pi.sum(), keep * s.size) and (pi <= 1).all()
    assert (pi >= floor * keep * (1 - 1e-9)).all()
    if floor == 0:
        free = pi < 1
        assert np.allclose(pi[free] / s[free], (pi[free] / s[free])[:1])
        assert added_variance(pi, s) <= added_variance(np.full(s.size, keep), s) * (1 + 1e-9)


@settings(deadline=None, max_examples=80)
@given(positive, st.floats(0, 1e6))
def test_threshold_spends_the_budget(s, budget):
    tau = threshold(s, budget)

    def spent(t):
        return np.where(s < t, t * s - s * s, 0).sum()

    rounding = 1e-14 * (s @ s)  # of tau s - s^2, where both are equal but for the last bit
    if np.isfinite(tau):
        assert spent(tau) <= budget * (1 + 1e-9) + 1e-9 + rounding and (
            spent(tau * 1.001) >= budget * (1 - 1e-9) - rounding
        )


def test_zero_scores_are_never_kept_and_the_rest_is_certain():
    pi = keep_probabilities(np.array([0.0, 0.0, 1.0, 3.0]), 3)
    assert pi.tolist() == [0, 0, 1, 1]
    draws = [
        thin(np.array([0.0, 0.0, 1.0, 3.0]), 1, generator=np.random.default_rng(k)).idx.tolist()
        for k in range(200)
    ]
    assert not {0, 1} & set(sum(draws, []))
    assert [] in draws  # a subset may be empty; its sum is zero and the step is still made


def test_all_zero_scores_warn_and_keep_uniformly():
    with pytest.warns(RuntimeWarning, match="all scores"):
        assert keep_probabilities(np.zeros(4), 0.5).tolist() == [0.5] * 4


@pytest.mark.parametrize(
    "generator",
    [np.random.default_rng(0), torch.Generator().manual_seed(0)],
    ids=["numpy", "torch"],
)
def test_tensors_and_generators(generator):
    draw = thin(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float16), 0.7, generator=generator)
    assert (
        draw.idx.dtype == torch.int64
        and draw.weight.dtype == torch.float64
        and not draw.weight.requires_grad
    )


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
        thin([1.0, 2.0], 0.5, generator=0)
    with pytest.raises(InvalidArgument, match="generator"):
        Thinning([], 0.5, generator=None)


@pytest.mark.parametrize(
    "settings_",
    [
        dict(eps=0),
        dict(eps=-1),
        dict(eps=np.nan),
        dict(eps=np.inf),
        dict(eps=0.1, low=0),
        dict(eps=0.1, memory=1),
        dict(eps=0.1, audit_every=0),
        dict(eps=0.1, warm_up=-1),
    ],
)
def test_bad_bounds(settings_):
    with pytest.raises(InvalidArgument):
        VarianceBound(**settings_)


def test_added_variance_at_the_edges():
    assert added_variance([0, 1], [0, 5]) == 0 and added_variance([0, 1], [1, 5]) == np.inf
    with pytest.raises(InvalidShape):
        added_variance([1], [1, 2])


# The module that trains
def regression(seed=0, n=6):
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    return (
        net,
        torch.randn(n, 3, generator=g, dtype=torch.float64),
        torch.randint(0, 2, (n,), generator=g),
    )


def cross_entropy(out, y):
    return nn.functional.cross_entropy(out, y, reduction="none")


def flat_grad(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def test_output_scores_are_softmax_minus_one_hot():
    net, x, y = regression()
    out = net(x)
    s = output_scores(cross_entropy(out, y), out)
    assert torch.allclose(s, (out.softmax(1) - nn.functional.one_hot(y, 2)).norm(dim=1))
    cross_entropy(out, y).mean().backward()  # the graph is still usable


def test_backward_is_unbiased_and_accumulates_by_enumeration(monkeypatch):
    net, x, y = regression(n=4)
    cross_entropy(net(x), y).mean().backward()
    full, mean = flat_grad(net).clone(), 0
    out = net(x)
    pi = keep_probabilities(
        output_scores(cross_entropy(out, y), out).detach().numpy(), 0.5, floor=0.05
    )
    for rows, chance in subsets(pi):
        if chance == 0:
            continue
        coins = np.where(np.isin(np.arange(4), rows), 0.0, np.nextafter(1, 0))
        net.zero_grad()
        monkeypatch.setattr(thinning, "uniforms", lambda generator, size: coins[:size])
        out = net(x)
        Thinning(net.parameters(), 0.5, generator=None).backward(cross_entropy(out, y), out)
        mean = mean + chance * flat_grad(net)
    assert torch.allclose(mean, full, rtol=1e-12)


def test_the_audit_is_unbiased_over_all_coins_and_signs(monkeypatch):
    from impsamp.gradnorms import grad_norms

    net, x, y = regression(n=3)
    losses = cross_entropy(net(x), y)
    s, norms, pi = (
        np.array([1.0, 2.0, 4.0]),
        grad_norms(net, cross_entropy, x, y).numpy(),
        np.array([0.2, 0.5, 0.8]),
    )
    bound = VarianceBound(0.1)
    expected = 0
    for rows, chance in subsets(pi):
        for signs in product([0.0, 0.9], repeat=len(rows)):
            monkeypatch.setattr(
                thinning, "uniforms", lambda generator, size: np.array(signs)[:size]
            )
            audit = Thinning(net.parameters(), bound, generator=None)._audit(
                losses[rows.tolist()], s, pi, rows
            )
            expected += chance * audit / 2 ** len(rows)
    assert np.isclose(expected, added_variance(pi, norms), rtol=1e-10)


def test_the_bound_is_kept_where_scores_mislead_by_a_hidden_factor():
    """Norms are scores times an unknown constant and noise; signal and audits are simulated exactly, with the noise of signs (chi-square with 3 degrees)."""
    rng, eps = np.random.default_rng(0), 0.2
    bound, spent, earned, kept = VarianceBound(eps), 0.0, 0.0, []
    for t in range(3000):
        s = rng.lognormal(0, 1.0, size=128)
        g = 30.0 * s * rng.lognormal(0, 0.3, size=128)
        signal = 0.05 * (g**2).mean()
        pi = bound.inclusion(s)
        ref = bound.reference(s, pi)
        audited = added_variance(ref, g) * rng.chisquare(3) / 3 if bound.due() else None
        bound.observe(s, pi, signal + added_variance(pi, g) * rng.chisquare(3) / 3, audited)
        if t >= 500:
            spent, earned = spent + added_variance(pi, g), earned + signal
        kept.append(pi.mean())
    assert spent / earned <= eps  # the true added variance, not the estimate
    assert spent / earned >= 0.5 * eps  # and the bound is used, not merely respected
    assert np.mean(kept[500:]) < 0.6
    assert abs(bound.relative_variance() - spent / earned) < 0.25 * eps


def test_a_bound_resumes_where_it_stopped():
    net, x, y = regression(n=32)
    bound = VarianceBound(0.5, warm_up=2)
    thinner = Thinning(net.parameters(), bound, generator=np.random.default_rng(0))
    for _ in range(10):
        net.zero_grad()
        out = net(x)
        thinner.backward(cross_entropy(out, y), out)
    again = VarianceBound(0.9)
    again.load_state_dict(bound.state_dict())
    s = np.linspace(0.1, 3, 32)
    assert (again.inclusion(s) == bound.inclusion(s)).all() and (bound.inclusion(s) < 1).any()
    with pytest.raises(InvalidArgument, match="VarianceBound"):
        again.load_state_dict({"eps": 1})


def test_losses_that_are_already_reduced_are_refused():
    net, x, y = regression()
    out = net(x)
    with pytest.raises(InvalidShape, match="reduction='none'"):
        Thinning(net.parameters(), 0.5, generator=np.random.default_rng(0)).backward(
            cross_entropy(out, y).mean(), out
        )
    with pytest.raises(InvalidArgument, match="output"):
        Thinning(net.parameters(), 0.5, generator=np.random.default_rng(0)).backward(
            cross_entropy(out, y)
        )


# Skipping rows
NETS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)), (7, 6)),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Flatten(1), nn.Linear(40, 2)),
        (7, 5, 6),
    ),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
        ),
        (7, 2, 9),
    ),
    "conv2d": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, dilation=2, groups=2),
            nn.ReLU(),
            nn.Conv2d(6, 2, 3, padding="same", bias=False),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        (7, 4, 8, 8),
    ),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.LazyLinear(3)),
        (7, 1, 3, 3, 3),
    ),
    "circular": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.LazyLinear(3)
        ),
        (7, 1, 4, 4),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
        (7, 6),
    ),
    "attention": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        (7, 4, 6),
    ),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rows", [[], [2], [0, 5, 6], list(range(7))], ids=len)
def test_skipping_rows_changes_no_gradient(name, rows):
    build, shape = NETS[name]
    net, x = (
        build().double(),
        torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    )
    net(x)
    grads = []
    for context in (nullcontext(), skip_zero_rows()):
        net.zero_grad()
        leaf = x.clone().requires_grad_()
        with context:
            out = net(leaf)
        out[rows].square().sum().backward()
        grads.append([leaf.grad] + [p.grad for p in net.parameters()])
    for plain, skipped in zip(*grads):
        assert torch.allclose(plain, skipped, rtol=1e-10, atol=1e-12)


def test_skipping_rows_leaves_no_trace_and_really_skips():
    net, x = nn.Linear(3, 2), torch.randn(5, 3)
    with skip_zero_rows():
        out = net(x)
    assert (
        type(out.grad_fn).__name__ == "_LinearBackward"
        and type(net(x).grad_fn).__name__ == "AddmmBackward0"
    )
    seen = []
    from impsamp.thinning import row_skipping

    original = row_skipping._nonzero_rows
    try:
        row_skipping._nonzero_rows = lambda d: seen.append(original(d)) or seen[-1]
        out[[1, 3]].sum().backward()
    finally:
        row_skipping._nonzero_rows = original
    assert [s.tolist() for s in seen] == [[1, 3]]


def test_a_gradient_that_is_not_a_number_is_not_skipped():
    net, x = nn.Linear(2, 1), torch.randn(3, 2)
    with skip_zero_rows():
        out = net(x)
    (out * torch.tensor([[0.0], [float("nan")], [0.0]])).sum().backward()
    assert net.weight.grad.isnan().all()
