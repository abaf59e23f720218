"""What few draws carry is said once, and never of uniform draws."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.samplers import Draw, InverseCDF, importance_loader, trust_of
from impsamp.samplers.trust import WINDOW, TrustWindow, doubt, is_doubtful


def test_two_draws_by_hand():
    trust = trust_of([0.5, 0.5], [1.0, 3.0])
    assert np.allclose(trust, (2, 1.6, 0.75, 1.0))
    trust = trust_of([1.0, 0.25], [1.0, 4.0])  # both add 1: the best that p can do
    assert np.allclose(trust, (2, 2.0, 0.5, 2 * 2 / (1.25 * 5)))
    assert trust_of([0.5, 0.5], [0.0, 0.0]) == (2, 2.0, 0.0, 1.0)


vectors = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(vectors, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_between_one_and_all_whatever_the_scale(s, a, b):
    w = np.linspace(1, 2, len(s))
    trust = trust_of(w, s)
    assert 1 - 1e-9 <= trust.effective <= len(s) * (1 + 1e-9)
    assert 1 / len(s) - 1e-9 <= trust.largest <= 1 + 1e-9
    assert np.allclose(trust_of(a * w, b * np.array(s)), trust)
    assert np.isclose(trust_of(np.full(len(s), a), s).against_uniform, 1)


def test_the_second_moment_against_uniform_is_that_of_all_items():
    "H(p)/H(u) = n sum g^2/p / (n^2 sum g^2), from many draws."
    g = np.arange(1.0, 9)
    for p in (g / g.sum(), g[::-1] / g.sum(), np.full(8, 1 / 8)):
        draw = InverseCDF(p).draw(200_000, np.random.default_rng(0))
        wanted = (g**2 / p).sum() / (8 * (g**2).sum())
        assert np.isclose(trust_of(draw.weight, g[draw.idx]).against_uniform, wanted, rtol=0.02)


def draw_of(weight, step=0):
    w = torch.tensor(weight, dtype=torch.float64)
    return Draw(torch.arange(len(w)), w, w, step)


def test_the_window_holds_the_last_thousand_draws():
    window = TrustWindow()
    assert window.measure() == (0, 0.0, 0.0, 1.0)
    for k in range(30):
        window.add(draw_of([1.0] * 64), np.full(64, 1.0 + k))
        assert window.full == (64 * (k + 1) >= WINDOW)
    assert window.draws == 1024
    s = np.repeat(np.arange(15.0, 31), 64)
    assert np.isclose(window.measure().effective, s.sum() ** 2 / (s * s).sum())


def test_batches_that_are_not_finite_or_do_not_fit_are_left_out():
    window = TrustWindow()
    window.add(draw_of([1.0, 1.0]), [1.0, np.nan])
    window.add(draw_of([1.0, 1.0]), [1.0])
    window.add(draw_of([]))
    assert window.draws == 0
    assert window.measure().effective == 0


# ---- in a loop --------------------------------------------------------------------------------
N = 500


def said(p, losses, steps=40, **options):
    "The warnings of a loop that reports `losses` (N,)."
    loader = importance_loader(range(N), p, 64, steps=steps, generator=0, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _, draw in loader:
            if losses is not None:
                loader.update(draw, losses[draw.idx])
    return [str(w.message) for w in caught], loader


HEAVY = np.exp(2.5 * np.random.default_rng(1).normal(size=N))  # a few losses are nearly all


def test_uniform_draws_of_heavy_losses_are_not_accused():
    for scheme in ("uniform", "shuffle"):
        words, loader = said(scheme, HEAVY)
        assert not words
        assert loader.trust.effective < 0.1 * loader.trust.draws
        assert np.isclose(loader.trust.against_uniform, 1)


def test_good_probabilities_are_not_accused_however_large_their_weights():
    words, loader = said(HEAVY / HEAVY.sum(), HEAVY)
    assert not words
    assert np.isclose(loader.trust.effective, loader.trust.draws)
    assert loader.trust.against_uniform < 0.2


def test_probabilities_that_are_wrong_are_named_once_with_the_cure():
    p = HEAVY / HEAVY.sum()
    words, loader = said(p, np.ones(N), steps=80)
    assert len(words) == 1
    assert "Mixture(scheme, Uniform(), 0.5)" in words[0]
    assert "said once" in words[0]
    assert loader.trust.against_uniform > 2


def test_the_cure_cures():
    p = HEAVY / HEAVY.sum()
    words, _ = said(0.5 * p + 0.5 / N, np.ones(N), steps=80)
    assert not words


def test_a_loop_that_never_reports_is_judged_by_its_weights():
    p = HEAVY / HEAVY.sum()
    words, _ = said(p, None, steps=80)
    assert len(words) == 1
    assert not said("uniform", None)[0]


@pytest.mark.parametrize("scheme", ["stale", "loss", "prioritized"])
def test_schemes_that_remember_heavy_losses_are_not_accused(scheme):
    assert not said(scheme, HEAVY, steps=120)[0]


def test_a_single_draw_that_carries_a_tenth_is_doubted():
    w = np.full(1000, 1.0)
    w[3] = 120.0
    trust = trust_of(w, np.ones(1000))
    assert trust.largest > 0.1
    assert is_doubtful(trust)
    assert "carries 11%" in doubt(trust)
    w[3] = 20.0
    assert not is_doubtful(trust_of(w, np.ones(1000)))
