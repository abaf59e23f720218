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
        dict(eps=0.1, memory=1),
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


def test_the_bound_is_kept_where_scores_mislead_by_a_hidden_factor():
    """Norms are scores times an unknown constant and noise.

    Signal and audits are simulated exactly, with the noise of signs (chi-square with 3 degrees)."""
    rng = np.random.default_rng(0)
    eps = 0.2
    bound = VarianceBound(eps)
    spent = 0.0
    earned = 0.0
    kept = []
    for t in range(3000):
        s = rng.lognormal(0, 1.0, size=128)
        g = 30.0 * s * rng.lognormal(0, 0.3, size=128)
        signal = 0.05 * (g**2).mean()
        pi = bound.inclusion(s)
        ref = bound.reference(s, pi)
        audited = added_variance(ref, g) * rng.chisquare(3) / 3 if bound.due() else None
        square = signal + added_variance(pi, g) * rng.chisquare(3) / 3
        bound.observe(s, pi, square, audited)
        if t >= 500:
            spent += added_variance(pi, g)
            earned += signal
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


def test_a_bound_prints_its_settings():
    text = "VarianceBound(0.1, audit_every=5, warm_up=50, low=0.05, memory=0.9, recent=0.9)"
    assert repr(VarianceBound(0.1, warm_up=50)) == text
