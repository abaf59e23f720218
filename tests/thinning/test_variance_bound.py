"""The added variance and its bound: the threshold spends the budget, the bound is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.thinning import Thinning
from impsamp.thinning.variance_bound import VarianceBound, added_variance, threshold
from tests.thinning.helpers import cross_entropy, regression

positive = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(1e-3, 1e3))


@settings(deadline=None, max_examples=80)
@given(positive, st.floats(0, 1e6))
def test_threshold_spends_the_budget(s, budget):
    tau = threshold(s, budget)

    def spent(t):
        return np.where(s < t, t * s - s * s, 0).sum()

    rounding = 1e-14 * (s @ s)  # of tau s - s^2, where both are equal but for the last bit
    if np.isfinite(tau):
        assert spent(tau) <= budget * (1 + 1e-9) + 1e-9 + rounding
        assert spent(tau * 1.001) >= budget * (1 - 1e-9) - rounding


@pytest.mark.parametrize(
    "settings_",
    [
        dict(eps=0),
        dict(eps=-1),
        dict(eps=np.nan),
        dict(eps=np.inf),
        dict(eps=0.1, low=0),
        dict(eps=0.1, low=1.5),
        dict(eps=0.1, audit_every=0),
        dict(eps=0.1, warm_up=-1),
    ],
)
def test_bad_bounds(settings_):
    with pytest.raises(InvalidArgument):
        VarianceBound(**settings_)


def test_added_variance_at_the_edges():
    assert added_variance([0, 1], [0, 5]) == 0
    assert added_variance([0, 1], [1, 5]) == np.inf
    with pytest.raises(InvalidShape):
        added_variance([1], [1, 2])


@settings(deadline=None, max_examples=80)
@given(positive, st.floats(0.01, 3))
def test_every_step_spends_the_share_of_its_own_scores_and_remembers_nothing(s, eps):
    bound = VarianceBound(eps, low=1e-6)
    pi = bound.inclusion(s)
    spent = ((1 - pi) / pi * s * s).sum()
    assert spent == pytest.approx(eps * (s @ s))
    least = 1 - 1e-9
    assert pi.sum() >= s.size / (1 + eps) * least or (s != s[0]).any()
    bound.observe(s * 1e6, pi, square=1e30, audited=1e30)
    assert VarianceBound(eps, low=1e-6).inclusion(s).tolist() == pi.tolist()
    # any design of as many rows spends at least as much: Lemma 2
    uniform = np.full(s.size, pi.mean())
    assert added_variance(uniform, s) >= added_variance(pi, s) * least


def test_equal_rows_count_as_n_over_one_plus_eps():
    assert VarianceBound(0.25).inclusion(np.full(10, 3.0)).sum() == pytest.approx(10 / 1.25)


def simulated(bound, steps, rng, spread=0.3):
    """(added V, signal, kept) per step. Norms are scores times an unknown constant and noise.

    Signal and audits are simulated exactly, with the noise of signs (chi-square, 3 degrees)."""
    for _ in range(steps):
        s = rng.lognormal(0, 1.0, size=128)
        g = 30.0 * s * rng.lognormal(0, spread, size=128)
        signal = 0.05 * (g**2).mean()
        pi = bound.inclusion(s)
        ref = bound.reference(s, pi)
        audited = added_variance(ref, g) * rng.chisquare(3) / 3 if bound.due() else None
        square = signal + added_variance(pi, g) * rng.chisquare(3) / 3
        bound.observe(s, pi, square, audited)
        yield added_variance(pi, g), signal, pi.mean()


def test_audits_keep_the_bound_on_the_signal_where_that_keeps_fewer_rows():
    bound = VarianceBound(0.2, audit_every=5, warm_up=50)
    plain = VarianceBound(0.2)
    spent, earned, kept = np.array(list(simulated(bound, 3000, np.random.default_rng(0)))).T[
        :, 500:
    ]
    _, _, kept_plain = np.array(list(simulated(plain, 300, np.random.default_rng(0)))).T
    true = spent.sum() / earned.sum()  # the true added variance, not the estimate
    assert 0.1 < true <= 0.2  # the bound is kept, and used
    assert kept.mean() < 0.8 * kept_plain.mean()
    assert abs(bound.relative_variance() - true) < 0.1


@pytest.mark.parametrize("audit_every", [None, 5])
def test_a_spike_is_forgotten_at_once(audit_every):
    rng = np.random.default_rng(0)
    bound = VarianceBound(0.1, audit_every=audit_every, warm_up=10)
    list(simulated(bound, 100, rng))
    pi = bound.inclusion(np.ones(128))
    spike = 100 * rng.lognormal(0, 1.0, size=128)
    at = bound.inclusion(spike)
    bound.observe(spike, at, square=1e4 * 900 * 0.05 * (spike**2).mean(), audited=None)
    assert np.allclose(bound.inclusion(np.ones(128)), pi, rtol=0.1)
    spent, earned, _ = np.array(list(simulated(bound, 25, rng))).T
    assert spent.sum() / earned.sum() < 0.1 * 1.5


@pytest.mark.parametrize("audit_every", [None, 1])
def test_scores_at_the_ends_of_the_numbers_poison_nothing(audit_every):
    bound = VarianceBound(0.1, audit_every=audit_every)
    s = np.array([1e-300, 1e100, 1.0, 0.0])
    extremes = [s, s * 1e208 / 1e8, np.full(4, 5e-324), np.array([0, 0, 0, 1e308])]
    for scores in [*extremes, *extremes]:
        pi = bound.inclusion(scores)
        assert np.isfinite(pi).all() and ((pi >= 0) & (pi <= 1)).all() and pi.sum() > 0
        bound.observe(scores, pi, square=1e300, audited=1e300)
    for _ in range(40):
        ones = np.ones(4)
        bound.observe(ones, bound.inclusion(ones), square=1.0, audited=0.25)
    assert np.isfinite([*bound.ratios, *bound.signals, *bound.spent]).all()
    assert 0.05 <= bound.inclusion(np.ones(4)).mean() <= 0.95
    again = VarianceBound(1.0)
    again.load_state_dict(bound.state_dict())


def test_relative_variance_says_nothing_where_nothing_was_audited():
    bound = VarianceBound(0.1)
    list(simulated(bound, 10, np.random.default_rng(0)))
    assert bound.relative_variance() is None
    noisy = VarianceBound(0.1, audit_every=1)
    noisy.observe(np.ones(4), np.full(4, 0.5), square=0.0, audited=1.0)
    assert noisy.relative_variance() == np.inf


def audited_bound():
    net, x, y = regression(n=32)
    bound = VarianceBound(0.5, warm_up=2, audit_every=2)
    thinner = Thinning(net.parameters(), bound, generator=np.random.default_rng(0))
    for _ in range(10):
        net.zero_grad()
        out = net(x)
        thinner.backward(cross_entropy(out, y), out)
    return bound


def test_a_bound_resumes_where_it_stopped():
    bound = audited_bound()
    again = VarianceBound(0.9)
    again.load_state_dict(bound.state_dict())
    s = np.linspace(0.1, 3, 32)
    assert (again.inclusion(s) == bound.inclusion(s)).all() and (bound.inclusion(s) < 1).any()
    assert again.state_dict() == bound.state_dict()
    again.observe(s, np.ones(32), square=1.0)
    assert again.state_dict() != bound.state_dict()  # nothing is shared


@pytest.mark.parametrize(
    "change",
    [
        dict(eps=-1.0),
        dict(eps="x"),
        dict(low=0.0),
        dict(step=-5),
        dict(step=None),
        dict(audit_every=0),
        dict(ratios=[np.nan]),
        dict(signals=[1.0] * 32),
        dict(spent="x"),
        dict(spent=1.0),
        dict(other=1),
    ],
)
def test_a_state_that_no_bound_saved_changes_nothing(change):
    bound = audited_bound()
    before = bound.state_dict()
    with pytest.raises((InvalidArgument, InvalidShape)):
        bound.load_state_dict(VarianceBound(0.9).state_dict() | change)
    with pytest.raises(InvalidArgument, match="VarianceBound"):
        bound.load_state_dict({"eps": 1})
    assert bound.state_dict() == before


def test_a_bound_prints_its_settings():
    text = "VarianceBound(0.1, audit_every=None, warm_up=50, low=0.05)"
    assert repr(VarianceBound(0.1, warm_up=50)) == text
