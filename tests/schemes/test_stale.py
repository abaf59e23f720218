"""Remembered scores: bins, calibration against what the draws show, the bound on weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument, InvalidShape, UnknownName
from impsamp.schemes import Stale
from impsamp.schemes.stale import BINS, score_bin
from tests.schemes.helpers import uniform_ratio
from tests.states import same


@pytest.mark.parametrize(
    "build, error",
    [
        (lambda: Stale("size"), UnknownName),
        (lambda: Stale(weight=1), InvalidArgument),
        (lambda: Stale(memory=1), InvalidArgument),
    ],
)
def test_bad_settings(build, error):
    with pytest.raises(error):
        build()


def test_a_draw_before_init_says_what_to_do():
    with pytest.raises(InvalidArgument, match=r"call init\(n\) first"):
        Stale().draw(2, 0)


def test_stale_never_exceeds_its_weight_bound_and_unvisited_items_are_a_bin():
    s = Stale("norm", weight=0.8).init(100)
    rng = np.random.default_rng(0)
    for _ in range(30):
        p = s.probabilities()
        idx = rng.choice(100, 5, p=p)
        s.update(idx, rng.lognormal(0, 3, 5))
        assert p.min() >= 0.2 / 100 * (1 - 1e-12)
        unseen = np.isnan(s.scores)
        if unseen.any():
            assert np.ptp(s.probabilities()[unseen]) == 0


def ratio_after_a_swap(calibrate, then, now):
    """H(p)/H(u) for norms `now`, where `then` was remembered and forty batches bore witness.

    The memory of visited items is put back, so that each group stays in its old bin."""
    n = now.size
    rng = np.random.default_rng(0)
    s = Stale("norm", weight=0.9, calibrate=calibrate).init(n)
    for _ in range(40):
        p = s.probabilities(then)
        idx = rng.choice(n, 50, p=p)
        s.update(idx, now[idx], p[idx])
    s.probabilities(then)
    return uniform_ratio(s.probabilities(), now)


def test_calibration_recovers_the_law_that_bins_allow():
    """Two groups whose scores swapped since they were remembered: p follows the present.

    Its second moment is near the best that bins can do."""
    n = 1000
    few = np.arange(n) < 100
    then = np.where(few, 10.0, 0.1)
    now = np.where(few, 0.1, 1.0)
    best = uniform_ratio(0.9 * now / now.sum() + 0.1 / n, now)
    assert ratio_after_a_swap(True, then, now) < 1.02 * best < 1
    assert ratio_after_a_swap(False, then, now) > 2


def test_score_bins_are_monotone_and_cover_everything():
    made = np.random.default_rng(0).lognormal(0, 9, 500)
    s = np.sort(np.concatenate([[0.0, 5e-324, 1e308], made]))
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


def test_the_moment_of_a_bin_is_the_weighted_mean_of_its_draws():
    s = Stale("norm", memory=0.5).init(4)
    s.probabilities([1.0, 1.0, 1.0, 1024.0])
    s.update([0, 1], [2.0, 4.0], [0.5, 0.25])
    # (4/0.5 + 16/0.25) / (1/0.5 + 1/0.25) = 72/6; a distant bin borrows it
    assert np.isclose(s.moments()[score_bin(np.array([1.0]))[0]], 12)
    assert np.isclose(s.moments()[score_bin(np.array([1024.0]))[0]], 12)


# ---- by bin: the law of `probabilities`, without the vector ----------------------------------
def trained(n, steps=60, batch=8, seed=0, **settings):
    "A scheme that has drawn and been told for a while."
    rng = np.random.default_rng(seed)
    g = rng.lognormal(-2, 2, n)
    scheme = Stale("norm", **settings).init(n)
    for _ in range(steps):
        idx, prob = scheme.draw(batch, rng)
        scheme.update(idx, g[idx] * rng.lognormal(0, 0.5, batch), prob)
    return scheme


def moved_points(scheme, eps=1e-9):
    "Both ends of each item's interval of the distribution function, items in bin order."
    p = scheme.probabilities()[scheme.items.order]
    upper = np.cumsum(p)
    return scheme.items.order, upper - p + eps, upper - eps


class Script(np.random.Generator):
    "A generator whose uniforms are told."

    def __init__(self, points):
        super().__init__(np.random.PCG64(0))
        self.points = points

    def random(self, size=None, **_):
        assert size == self.points.size
        return self.points


@pytest.mark.parametrize("steps", [0, 1, 5, 60])
@pytest.mark.parametrize("n", [1, 7, 150])
def test_draw_has_the_law_that_probabilities_writes_down(n, steps):
    "Exactly: every item owns an interval of its probability's length."
    scheme = trained(n, steps=steps)
    assert scheme.by_bin
    items, low, high = moved_points(scheme)
    for points in (low, high):
        idx, prob = scheme.draw(n, Script(points))
        assert (idx == items).all()
        np.testing.assert_allclose(prob, scheme.probabilities()[idx], rtol=1e-12)


def test_counts_of_draws_by_chi_square():
    from scipy.stats import chisquare

    scheme = trained(60)
    rng = np.random.default_rng(5)
    idx, _ = scheme.draw(100_000, rng)
    expected = 100_000 * scheme.probabilities()
    assert chisquare(np.bincount(idx, minlength=60), expected).pvalue > 1e-4


def test_weighted_draws_are_unbiased_over_all_pairs():
    "The mean of (1/2n) sum g_i/p_i over all outcomes of two draws is the mean of g."
    n = 5
    scheme = trained(n, steps=20, batch=2)
    _, low, _ = moved_points(scheme)
    idx, prob = scheme.draw(n, Script(low))
    g = np.arange(1.0, n + 1)
    mean = 0.0
    for a in range(n):
        for b in range(n):
            estimate = (g[idx[a]] / prob[a] + g[idx[b]] / prob[b]) / (2 * n)
            mean += prob[a] * prob[b] * estimate
    assert mean == pytest.approx(g.mean(), rel=1e-12)


def test_scores_given_before_any_draw_are_drawn_from_as_they_are():
    scheme = Stale("norm").init(4)
    scheme.probabilities([1.0, 1.0, 1.0, 5.0])
    assert not scheme.by_bin
    idx, prob = scheme.draw(4000, 0)
    p = 0.8 * np.array([1, 1, 1, 5]) / 8 + 0.05
    np.testing.assert_allclose(prob, p[idx])
    assert abs((idx == 3).mean() - p[3]) < 0.03


def test_without_prob_a_report_is_of_the_law_drawn_from_last():
    one = trained(40)
    two = trained(40)
    idx, prob = one.draw(6, 3)
    two.draw(6, 3)
    one.update(idx, np.arange(6.0), prob)
    two.update(idx, np.arange(6.0))
    assert same(one.state_dict(), two.state_dict())


def test_a_restart_draws_the_same_items():
    whole = trained(50)
    resumed = Stale("norm").init(50)
    resumed.load_state_dict(whole.state_dict())
    rng = np.random.default_rng(9)
    for k in range(30):
        a, p = whole.draw(5, k)
        b, q = resumed.draw(5, k)
        assert (a == b).all() and (p == q).all()
        g = rng.lognormal(0, 2, 5)
        whole.update(a, g, p)
        resumed.update(b, g, q)


def test_the_kernel_of_the_law_is_the_slow_one():
    "Also with empty bins, bins without a neighbour's evidence, and probed ratios."
    rng = np.random.default_rng(0)
    for k in range(30):
        scheme = trained(30, steps=k, seed=k, probe_every=1)
        idx, prob = scheme.draw(5, rng)
        scheme.probe(idx, rng.lognormal(0, 1, 5), rng.lognormal(0, 1, 5), prob)
        p = scheme.bin_probabilities()[scheme.bins]
        np.testing.assert_allclose(p, scheme.probabilities(), rtol=1e-12)


# ---- bad input -------------------------------------------------------------------------------
def test_all_scores_zero_is_uniform_and_said_once():
    scheme = Stale("loss").init(6)
    idx, prob = scheme.draw(6, 0)
    scheme.update(idx, np.zeros(6), prob)
    with pytest.warns(RuntimeWarning, match="all scores are zero") as said:
        for _ in range(3):
            _, prob = scheme.draw(4, 1)
            np.testing.assert_allclose(prob, 1 / 6)
            np.testing.assert_allclose(scheme.probabilities(), 1 / 6)
    assert len(said) == 1


def test_one_item_with_all_the_mass_leaves_every_weight_bounded():
    n = 1000
    scheme = Stale("loss", weight=0.8).init(n)
    for _ in range(2):  # remembered, then borne witness to
        scheme.update(np.arange(n), np.r_[1e30, np.zeros(n - 1)], np.full(n, 1 / n))
    idx, prob = scheme.draw(5000, 0)
    assert abs((idx == 0).mean() - 0.8) < 0.03
    assert (1 / (n * prob)).max() <= 1 / 0.2 * (1 + 1e-12)


def test_nan_scores_teach_nothing_and_the_next_draw_goes_on():
    scheme = trained(20)
    before = scheme.state_dict()
    with pytest.warns(RuntimeWarning, match="not finite"):
        scheme.update(np.array([0, 1]), np.array([np.nan, 1.0]), np.array([0.1, 0.1]))
    assert same({**scheme.state_dict(), "ignored": 0}, before)
    scheme.draw(3, 0)


def test_fewer_items_than_the_batch():
    scheme = trained(3, batch=16)
    idx, prob = scheme.draw(16, 0)
    assert set(idx) <= {0, 1, 2} and (prob > 0).all()


def test_a_bin_runs_empty_and_fills_again():
    scheme = Stale("loss").init(4)
    all_items = np.arange(4)
    for s in ([1.0, 1, 8, 8], [1.0, 1, 1, 1], [8.0, 8, 8, 8], [1.0, 8, 8, 8]):
        prob = scheme.probabilities()
        scheme.update(all_items, np.array(s), prob)
        p = scheme.bin_probabilities()
        assert (p[scheme.items.sizes == 0] == 0).all()
        assert scheme.items.sizes @ p == pytest.approx(1)
        np.testing.assert_allclose(p[scheme.bins], scheme.probabilities(), rtol=1e-12)


def test_a_data_set_grows_and_is_not_cut():
    scheme = trained(10)
    seen = scheme.unseen
    scheme.grow(14)
    assert scheme.n == 14 and scheme.unseen == seen + 4
    assert np.isnan(scheme.scores[10:]).all()
    idx, prob = scheme.draw(200, 0)
    assert set(range(10, 14)) <= set(idx)
    np.testing.assert_allclose(prob, scheme.probabilities()[idx], rtol=1e-12)
    scheme.update([13], [1.0], [0.1])
    scheme.grow(14)
    with pytest.raises(InvalidArgument, match="cannot be cut"):
        scheme.grow(13)
    with pytest.raises(InvalidArgument, match="0 to 13"):
        scheme.update([14], [1.0], [0.1])


def test_scores_beyond_float32_are_kept_as_its_largest():
    scheme = Stale("loss").init(2)
    for _ in range(2):
        scheme.update([0, 1], [1e300, 1e-300], [0.5, 0.5])
    assert np.isfinite(scheme.scores).all()
    np.testing.assert_allclose(scheme.bin_probabilities()[scheme.bins], [0.9, 0.1])


# ---- the first epoch, probes -----------------------------------------------------------------
def test_the_first_epoch_is_over_when_everything_was_seen():
    scheme = Stale("loss", shuffle_first=True)
    assert scheme.replacement
    scheme.init(3)
    assert not scheme.replacement and Stale("loss").init(3).replacement
    scheme.update([0, 2], [1.0, 1.0], [1 / 3, 1 / 3])
    assert not scheme.replacement
    scheme.update([1], [1.0], [1 / 3])
    assert scheme.replacement


def test_probed_norms_change_what_a_bin_is_worth():
    """Two groups with equal scores in different bins; the first's norms are three times as large.

    Without probes p follows the scores, with them the norms, after a few batches."""
    n = 200
    first = np.arange(n) < 100
    s = np.where(first, 1.0, 2.0)
    g = np.where(first, 6.0, 2.0)
    rng = np.random.default_rng(0)
    shares = []
    for every in (0, 5):
        scheme = Stale("upper", weight=0.9, probe_every=every).init(n)
        probes = 0
        for _ in range(60):
            idx, prob = scheme.draw(20, rng)
            if scheme.probe_due:
                scheme.probe(idx, g[idx], s[idx], prob)
                probes += 1
            scheme.update(idx, s[idx], prob)
        shares.append(scheme.probabilities()[first].sum())
        assert probes == (12 if every else 0)
    assert shares[0] == pytest.approx(0.9 / 3 + 0.05, abs=0.02)
    assert shares[1] == pytest.approx(0.9 * 3 / 4 + 0.05, abs=0.02)


scores_of_a_batch = st.sampled_from([0.0, 1e-30, 0.5, 1.0, 7.0, 1e30, 1e300, np.nan])
events = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(0, 4)),
        st.tuples(st.just("draw"), st.lists(scores_of_a_batch, min_size=1, max_size=9)),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=12,
)


def check_law(scheme):
    "Draws have the written law, which is one, bounded below, and consistent with the bins."
    n = scheme.n
    p = scheme.probabilities()
    assert p.shape == (n,) and np.isclose(p.sum(), 1)
    assert p.min() >= (1 - scheme.weight) / n * (1 - 1e-9)
    idx, prob = scheme.draw(3 * n, 0)
    np.testing.assert_allclose(prob, p[idx], rtol=1e-9)
    items = scheme.items
    assert (items.order[items.place] == np.arange(n)).all() and items.sizes.sum() == n
    seen = ~np.isnan(scheme.scores)
    assert (items.bins[seen] < BINS).all() and (items.bins[~seen] == BINS).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), events)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_happens_to_growing_data_the_law_stays_one(n, events):
    "Items added, batches above n, scores all zero, huge, tiny or NaN, bins that run empty."
    scheme = Stale("loss").init(n)
    for step, (event, what) in enumerate(events):
        if event == "grow":
            scheme.grow(scheme.n + what)
        elif event == "draw":
            idx, prob = scheme.draw(len(what), step)
            scheme.update(idx, np.array(what), prob)
        else:
            state = scheme.state_dict()
            scheme = Stale("loss").init(scheme.n)
            scheme.load_state_dict(state)
        check_law(scheme)
