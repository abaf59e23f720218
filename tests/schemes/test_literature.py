"""Schemes of the literature, stale scores, adaptive metrics, the switch: their laws by hand, unbiasedness by enumeration, hostile input."""

import warnings
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from impsamp.errors import InvalidArgument, InvalidScores, InvalidShape, UnknownName
from impsamp.gradnorms import grad_norms
from impsamp.samplers import importance_weights
from impsamp.schemes import (
    Floored,
    GradNorm,
    Lipschitz,
    Loss,
    LossRank,
    Mixture,
    PreconditionedGradNorm,
    Prioritized,
    Stale,
    SwitchOn,
    Tempered,
    Uniform,
    UpperBound,
)
from impsamp.schemes.stale import score_bin
from impsamp.theory.convergence import second_moment
from impsamp.theory.minibatch import minibatch_probabilities

ALL = {
    "upper": lambda n: UpperBound(pool_size=4),
    "upper visits": lambda n: UpperBound("visits"),
    "loss": lambda n: Loss(),
    "loss all": lambda n: Loss("all", every=3),
    "rank": lambda n: LossRank(),
    "rank corrected": lambda n: LossRank(corrected=True),
    "prioritized": lambda n: Prioritized(steps=5),
    "lipschitz": lambda n: Lipschitz(np.arange(1, n + 1)),
    "stale": lambda n: Stale(),
    "raw": lambda n: Stale(calibrate=False),
    "preconditioned": lambda n: PreconditionedGradNorm(),
    "half": lambda n: Mixture(Loss(), Uniform()),
    "tempered": lambda n: Tempered(Stale(), 0.5),
    "floored": lambda n: Floored(Loss(), 0.2),
    "switch": lambda n: SwitchOn(Loss(), every=9, trial=2, clock=iter(np.arange(1e6)).__next__),
}
MEMORY = [k for k in ALL if k not in ("upper", "loss all", "preconditioned", "lipschitz")]


def law(scheme, scores=None):
    "Probabilities as a training loop asks for them."
    scheme.due()
    return scheme.probabilities(scores if scheme.scope in ("all", "pool") else None)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=15)
@given(st.lists(hnp.arrays(np.float64, 4, elements=st.floats(0, 1e9)), min_size=1, max_size=8))
def test_probabilities_at_every_step_whatever_was_seen(name, history):
    scheme, rng = ALL[name](4).init(4), np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for scores in history:
            p = law(scheme, scores)
            assert (
                p.shape == (4,)
                and np.isfinite(p).all()
                and (p >= 0).all()
                and abs(p.sum() - 1) < 1e-9
            )
            if scheme.scope == "visits":
                assert (p > 0).all(), "a remembered zero must not hide an item"
                idx = rng.integers(0, 4, 3)
                scheme.update(idx, scores[idx], p[idx])


@pytest.mark.filterwarnings("ignore:.*all scores are zero")
@pytest.mark.parametrize("name", MEMORY)
def test_two_draws_enumerated_mean_is_right_if_and_only_if_unbiased(name):
    "Every pair of items in a first step (its scores remembered) and a second: the second estimate's mean is the mean gradient unless the scheme says otherwise."
    n, values, scores = 3, np.array([2.0, -1.0, 5.0]), np.array([0.5, 2.0, 0.0])
    mean = 0.0
    for first in product(range(n), repeat=2):
        scheme = ALL[name](n).init(n)
        p = law(scheme)
        scheme.update(list(first), scores[list(first)], p[list(first)])
        q = law(scheme)
        for second in product(range(n), repeat=2):
            weight = importance_weights(q, np.array(second), batch=2, beta=scheme.beta)
            mean += (
                p[list(first)].prod()
                * q[list(second)].prod()
                * (weight * values[list(second)]).sum()
            )
    assert np.isclose(mean, values.mean(), rtol=1e-9) == scheme.unbiased


@pytest.mark.parametrize("name", [*MEMORY, "lipschitz", "preconditioned"])
def test_resume_continues_exactly(name, tmp_path):
    def steps(scheme, rng, count):
        laws = []
        for _ in range(count):
            p = law(scheme, np.ones(6) if scheme.scope == "all" else None)
            idx = rng.integers(0, 6, 3)
            if scheme.scope == "visits":
                scheme.update(idx, rng.random(3))
            laws.append(p)
        return np.array(laws)

    full = steps(ALL[name](6).init(6), np.random.default_rng(0), 12)
    one, rng = ALL[name](6).init(6), np.random.default_rng(0)
    steps(one, rng, 5)
    torch.save(one.state_dict(), tmp_path / "s.pt")
    two = ALL[name](6).init(6)
    two.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    if name != "switch":
        assert (steps(two, rng, 7) == full[5:]).all()
    else:
        assert (
            two.ratio() == one.ratio() and two.log == one.log
        )  # its clock is not part of a run that must repeat: that is what `replay` is for


@pytest.mark.parametrize("name", ALL)
def test_a_memory_of_another_data_set_is_refused(name):
    with pytest.raises(InvalidArgument, match="not for here"):
        ALL[name](4).init(4).load_state_dict(ALL[name](5).init(5).state_dict())


@pytest.mark.parametrize("name", [k for k in ALL if k != "lipschitz"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_bad_scores_are_refused(name, bad):
    scheme = ALL[name](3).init(3)
    if scheme.scope == "visits":
        law(scheme)
        with pytest.raises(InvalidScores):
            scheme.update([0, 1], [1.0, bad])
    else:
        with pytest.raises(InvalidScores):
            law(scheme, np.array([1.0, bad, 1.0]))


@pytest.mark.parametrize(
    "build, error",
    [
        (lambda: Loss("some"), UnknownName),
        (lambda: UpperBound(pool_size=0), InvalidArgument),
        (lambda: LossRank(pressure=0.5), InvalidArgument),
        (lambda: LossRank(steps=0), InvalidArgument),
        (lambda: Prioritized(alpha=-1), InvalidArgument),
        (lambda: Prioritized(beta0=2), InvalidArgument),
        (lambda: Prioritized(needs="size"), UnknownName),
        (lambda: Prioritized(eps=0), InvalidArgument),
        (lambda: Lipschitz([0, 0]), InvalidScores),
        (lambda: Lipschitz([0, 1]), InvalidScores),
        (lambda: Lipschitz([1, 2]).init(3), InvalidShape),
        (lambda: Lipschitz([1, np.nan]), InvalidScores),
        (lambda: Stale("size"), UnknownName),
        (lambda: Stale(weight=1), InvalidArgument),
        (lambda: Stale(memory=1), InvalidArgument),
        (lambda: PreconditionedGradNorm(power=0), InvalidArgument),
        (lambda: PreconditionedGradNorm(clip=0.5), InvalidArgument),
        (lambda: SwitchOn(Loss(), margin=0.5), InvalidArgument),
        (lambda: SwitchOn(Loss(), every=10, trial=5), InvalidArgument),
        (lambda: Mixture(Loss(), GradNorm()), InvalidArgument),
    ],
)
def test_bad_settings(build, error):
    with pytest.raises(error):
        build()


def test_loss_rank_is_the_published_law_and_its_pressure_decays():
    n, s = 50, LossRank(pressure=100, end=1, steps=10).init(50)
    losses = np.random.default_rng(0).permutation(n) / 10
    s.update(np.arange(n), losses)
    p = s.probabilities()
    order = np.argsort(-losses)
    assert np.allclose(p[order][1:] / p[order][:-1], np.exp(-np.log(100) / n))
    for _ in range(10):
        p = s.probabilities()
    assert np.allclose(p, 1 / n)


def test_loss_rank_sorts_as_rarely_as_asked():
    s = LossRank(sort_every=3).init(3)
    s.update([0, 1, 2], [1.0, 2.0, 3.0])
    first = s.probabilities()
    s.update([0], [9.0])
    assert (s.probabilities() == first).all() and (s.probabilities() == first).all()
    assert s.probabilities().argmax() == 0


def test_stale_never_exceeds_its_weight_bound_and_unvisited_items_are_a_bin():
    s, rng = Stale("norm", weight=0.8).init(100), np.random.default_rng(0)
    for _ in range(30):
        p = s.probabilities()
        idx = rng.choice(100, 5, p=p)
        s.update(idx, rng.lognormal(0, 3, 5))
        assert p.min() >= 0.2 / 100 * (1 - 1e-12)
        unseen = np.isnan(s.scores)
        if unseen.any():
            assert np.ptp(s.probabilities()[unseen]) == 0


def test_calibration_recovers_the_law_that_bins_allow():
    "Two groups whose scores swapped since they were remembered: p follows the present, and its second moment is near the best that bins can do."
    rng, n = np.random.default_rng(0), 1000
    then, now = np.where(np.arange(n) < 100, 10.0, 0.1), np.where(np.arange(n) < 100, 0.1, 1.0)
    ratio = {}
    for calibrate in (True, False):
        s = Stale("norm", weight=0.9, calibrate=calibrate).init(n)
        s.probabilities(then)
        for _ in range(
            40
        ):  # evidence about the bins, without the visited items' memory: the group stays in its old bin
            p = s.probabilities()
            idx = rng.choice(n, 50, p=p)
            bins, memory = s.bins.copy(), s.scores.copy()
            s.update(idx, now[idx], p[idx])
            s.bins, s.scores = bins, memory
        ratio[calibrate] = second_moment(s.probabilities(), now) / second_moment(
            np.full(n, 1 / n), now
        )
    best = second_moment(0.9 * now / now.sum() + 0.1 / n, now) / second_moment(
        np.full(n, 1 / n), now
    )
    assert ratio[True] < 1.02 * best < 1 and ratio[False] > 2


def test_score_bins_are_monotone_and_cover_everything():
    s = np.sort(
        np.concatenate([[0.0, 5e-324, 1e308], np.random.default_rng(0).lognormal(0, 9, 500)])
    )
    k = score_bin(s)
    assert (np.diff(k) >= 0).all() and k.min() >= 0 and k.max() < 161


def test_stale_update_refuses_what_does_not_fit():
    s = Stale().init(4)
    with pytest.raises(InvalidShape):
        s.update([0, 1], [1.0, 2.0], [0.5])
    with pytest.raises(ValueError):
        s.update([0, 1], [1.0, 2.0], [0.5, 0.0])
    with pytest.raises(InvalidArgument):
        s.update([4], [1.0])
    assert not s.counts.any() and np.isnan(s.scores).all()


def test_preconditioned_norms_are_those_of_the_stretched_gradient():
    torch.manual_seed(0)
    net, x, y = nn.Linear(5, 3).double(), torch.randn(6, 5).double(), torch.randint(0, 3, (6,))
    loss = nn.CrossEntropyLoss(reduction="none")
    opt = torch.optim.Adam(net.parameters(), lr=0.01)
    scheme = PreconditionedGradNorm(clip=None)
    assert scheme.precondition(opt, net) is None
    for _ in range(3):
        opt.zero_grad()
        loss(net(x), y).mean().backward()
        opt.step()
    slow = []
    for i in range(6):
        net.zero_grad()
        loss(net(x[i : i + 1]), y[i : i + 1]).sum().backward()
        v = {p: opt.state[p]["exp_avg_sq"] / (1 - 0.999**3) for p in net.parameters()}
        slow.append(sum((p.grad**2 / (v[p].sqrt() + 1e-8)).sum() for p in net.parameters()).sqrt())
    p = scheme.init(6).probabilities(
        grad_norms(net, loss, x, y, precondition=scheme.precondition(opt, net))
    )
    assert torch.allclose(p, torch.stack(slow) / sum(slow), rtol=1e-9)


@pytest.mark.parametrize(
    "make", [GradNorm, lambda: Mixture(GradNorm(), Uniform()), lambda: Floored(GradNorm(), 0.3)]
)
def test_random_subsets_get_the_design_of_lemma_2(make):
    g = np.array([0.2, 1.0, 1.0, 4.0, 9.0])
    pi = make().init(5).inclusion_probabilities(3, g)
    assert np.isclose(pi.sum(), 3) and (pi <= 1).all()
    assert np.allclose(pi, minibatch_probabilities(make().init(5).probabilities(g), 3))


def test_a_subset_larger_than_the_items_with_a_score_is_refused():
    with pytest.raises(InvalidArgument, match="floor"):
        GradNorm().init(3).inclusion_probabilities(3, [0.0, 1.0, 1.0])


# The switch
def rides(scheme, g, seconds, steps):
    "Run a switch on scores `g`, with `seconds(on)` per step on its clock; returns which steps were on."
    scheme.clock, time, on = (lambda: time[0]), [0.0], []
    scheme.init(len(g))
    for _ in range(steps):
        due = scheme.due()
        time[0] += seconds(scheme.on)
        scheme.probabilities(g if due else None)
        on.append(scheme.on)
    return on


@pytest.mark.parametrize("slower, stays", [(1.5, True), (10.0, False)])
def test_the_switch_weighs_measured_ratio_against_measured_time(slower, stays):
    g = np.array([0.1] * 90 + [5.0] * 10)
    ratio = second_moment(g / g.sum(), g) / second_moment(np.full(100, 0.01), g)
    assert slower * ratio < 1 if stays else slower * ratio > 1
    s = SwitchOn(GradNorm(), every=20, trial=3)
    on = rides(s, g, lambda on: slower if on else 1.0, 60)
    assert on[:6] == [True] * 3 + [False] * 3 and on[6:20] == [stays] * 14
    assert (
        [d.on for d in s.log] == [stays] * 3
        and np.isclose(s.log[0].ratio, ratio)
        and s.log[0].seconds_on == slower
        and s.log[0].seconds_off == 1.0
    )


def test_the_switch_asks_for_no_scores_while_off_and_draws_uniformly():
    s, asked = SwitchOn(GradNorm(), every=20, trial=2), []
    rides(s, np.ones(10), lambda on: 2.0 if on else 1.0, 10)
    for _ in range(5):
        asked.append(s.due())
        assert (s.probabilities() == 0.1).all()
    assert not any(asked)


def test_replayed_decisions_ignore_the_clock():
    g, rng = np.array([0.1] * 90 + [5.0] * 10), np.random.default_rng(0)
    first = SwitchOn(GradNorm(), every=20, trial=3)
    on = rides(first, g, lambda on: rng.random() + on, 100)
    again = SwitchOn(GradNorm(), every=20, trial=3, replay=first.log)
    assert rides(again, g, lambda on: 100.0 * rng.random(), 100) == on and [
        d.on for d in again.log
    ] == [d.on for d in first.log]
    with pytest.raises(InvalidArgument, match="replayed log"):
        rides(again, g, lambda on: 1.0, 120)


def test_the_switch_estimates_the_ratio_from_its_own_draws():
    rng, n = np.random.default_rng(0), 500
    g = rng.lognormal(0, 1, n)
    s = SwitchOn(Stale("norm", weight=0.9), every=2000, trial=900, memory=0.998).init(n)
    for _ in range(900):
        s.due()
        p = s.probabilities()
        idx = rng.choice(n, 20, p=p)
        s.update(idx, g[idx], p[idx])
    true = second_moment(p, g) / second_moment(np.full(n, 1 / n), g)
    assert abs(s.ratio() - true) < 0.1 * true and true < 0.6


@pytest.mark.parametrize("make", [Loss, Prioritized, Stale, lambda: Stale("norm")])
def test_the_training_loop_feeds_schemes_that_remember(make):
    from impsamp.training import train

    torch.manual_seed(0)
    net, x, y = nn.Linear(3, 2), torch.randn(12, 3), torch.randint(0, 2, (12,))
    scheme = make()
    train(
        net,
        nn.CrossEntropyLoss(reduction="none"),
        x,
        y,
        torch.optim.SGD(net.parameters(), lr=0.1),
        scheme,
        batch=4,
        steps=20,
        seed=0,
    )
    assert not np.isnan(scheme.scores).any() and np.ptp(scheme.probabilities()) > 0
