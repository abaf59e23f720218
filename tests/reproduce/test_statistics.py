"""Each statistic against a slow oracle, and the size of the tests measured under the null."""

from bisect import bisect
from fractions import Fraction
from itertools import compress, pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from impsamp.errors import InvalidArgument, InvalidShape, UnknownName
from impsamp.reproduce import statistics as s

small = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=9)


# --- sign flips


def slow_tail(d, null=0.0):
    """(share of sign choices with a sum at most the one seen, share with at least).

    By enumeration in rational arithmetic, so that ties are ties."""
    shifted = [Fraction(x) - Fraction(null) for x in d]
    seen = sum(shifted)
    choices = product((-1, 1), repeat=len(d))
    sums = [sum(a * b for a, b in zip(signs, shifted)) for signs in choices]
    below = sum(x <= seen for x in sums)
    above = sum(x >= seen for x in sums)
    return below / len(sums), above / len(sums)


@settings(max_examples=60, deadline=None)
@given(small, st.sampled_from([-2.0, -0.5, 0.0, 0.5, 1.0]))
def test_flips_equal_enumeration(d, null):
    assert tuple(s.flip_tails(d, [null], generator=None)[0]) == slow_tail(d, null)


WIDE = st.builds(lambda m, e: m * 10.0**e, st.integers(-9, 9), st.integers(0, 10))


@settings(max_examples=60, deadline=None)
@given(st.lists(WIDE, min_size=1, max_size=8), st.sampled_from([0.0, 1.0, -3.0]))
def test_flips_of_values_ten_decades_apart_equal_enumeration(d, null):
    "A slack in units of the largest value would call different sums a tie."
    assert tuple(s.flip_tails(d, [null])[0]) == slow_tail(d, null)


@pytest.mark.parametrize(
    "d, want",
    [
        ([1e10, 1, 1, 1, 1], 1 / 32),
        ([1e9, 0.3, 0.3, 0.3, 0.4], 1 / 32),
        ([1e12, -1e12, 1, 2, 3], 10 / 32),
    ],
)
def test_a_capped_failure_makes_no_ties(d, want):
    assert s.sign_flip_test(d, alternative="greater") == want
    assert slow_tail(d)[1] == want


def test_sums_that_are_equal_on_paper_are_ties():
    "0.1 + 0.2 - 0.3 is 5.6e-17 in floats; on paper these are the integers 1, 2, -3 over ten."
    d = [0.1, 0.2, -0.3, 0.7, -0.7, 1.1]
    tenths = [round(10 * x) for x in d]
    assert tuple(s.flip_tails(d)[0]) == slow_tail(tenths)


# --- the interval inverts the test


def centres_of(d):
    "Every mean of a subset, the middles between them, and one outside on either side, in order."
    choices = product((False, True), repeat=len(d))
    subsets = [list(compress(map(Fraction, d), keep)) for keep in choices]
    means = sorted({sum(own) / len(own) for own in subsets if own})
    between = [(x + y) / 2 for x, y in pairwise(means)]
    return sorted([means[0] - 1, *means, *between, means[-1] + 1])


def check_interval(d, alpha, interval, centres):
    "The interval holds just those centres that the test does not reject, by enumeration."
    for centre in centres:
        kept = 2 * min(slow_tail(d, centre)) > Fraction(alpha)
        assert (interval[0] <= centre <= interval[1]) == kept, centre


levels = st.sampled_from([0.05, 0.25, 0.5, 0.6, 0.9])


@settings(max_examples=25, deadline=None)
@given(small, levels)
def test_the_interval_holds_what_the_test_does_not_reject(d, alpha):
    """At the ends, and next to them on either side.

    The tails are monotone in the centre, so a wrong end is wrong there."""
    interval = s.sign_flip_interval(d, level=1 - alpha)
    centres = centres_of(d)
    places = [bisect(centres, end) for end in interval]
    near = {k for place in places for k in range(place - 2, place + 2)}
    chosen = [centres[k] for k in sorted(near | {0, len(centres) - 1}) if 0 <= k < len(centres)]
    check_interval(d, alpha, interval, chosen)


@pytest.mark.full
@settings(max_examples=25, deadline=None)
@given(small, levels)
def test_the_interval_holds_it_at_every_mean_of_a_subset(d, alpha):
    check_interval(d, alpha, s.sign_flip_interval(d, level=1 - alpha), centres_of(d))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=40),
    st.floats(-2, 2),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_interval_and_pvalue_never_disagree(d, null, alpha):
    "Random flips too: both read the same choices."
    table = s.sign_flips(d, flips=999, generator=5)
    low, high = table.interval(1 - alpha)
    for centre in (null, 0.0, d[0]):
        rejected = 2 * min(table.tails(centre)) <= alpha * (1 + 1e-12)
        assert rejected == (not low <= centre <= high)


def test_interval_by_hand():
    """Six values: 64 choices, so at .05 one choice a side may be as extreme.

    The interval is cut at the second lowest and second highest mean of a subset: 1 alone is the
    lowest, {1, 2} and {1, 2, 3} come next."""
    d = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert s.sign_flip_interval(d, level=0.95) == pytest.approx((1.0, 6.0))
    assert s.sign_flip_interval(d, level=0.93) == pytest.approx((1.5, 5.5))
    assert s.sign_flip_interval(d[:5], level=0.95) == (-np.inf, np.inf)
    assert s.sign_flip_interval([2.0] * 9, level=0.95) == pytest.approx((2.0, 2.0))


def test_interval_of_normal_differences_is_close_to_t():
    d = np.random.default_rng(3).normal(0.2, 1, 60)
    low, high = s.sign_flip_interval(d, generator=0)
    t = stats.ttest_1samp(d, 0).confidence_interval()
    assert abs(low - t.low) < 0.03
    assert abs(high - t.high) < 0.03


def test_values_known_between_bounds_give_the_widest_of_their_intervals():
    "Whatever the true values are, tail and interval of the bounds are no narrower."
    g = np.random.default_rng(0)
    low = g.normal(0, 1, 8)
    high = low + g.choice([0.0, 1.5], 8)
    bound = s.sign_flips(low, high=high)
    for share in (0.0, 0.3, 1.0):
        truth = s.sign_flips(low + share * (high - low))
        for centre in (-0.7, 0.0, 0.9):
            assert bound.tails(centre)[0] >= truth.tails(centre)[0]
            assert bound.tails(centre)[1] >= truth.tails(centre)[1]
        assert bound.interval()[0] <= truth.interval()[0]
        assert bound.interval()[1] >= truth.interval()[1]
    with pytest.raises(InvalidArgument, match="bound"):
        s.sign_flips(low, high=low - 1)


def test_generators_of_all_kinds_and_seeds_serve():
    d = np.random.default_rng(0).normal(0.3, 1, 40)
    for kind in (3, np.random.default_rng(3), torch.Generator().manual_seed(3)):
        assert 0 < s.sign_flip_test(d, flips=499, generator=kind) <= 1
    one = s.sign_flip_test(d, flips=499, generator=3)
    assert one == s.sign_flip_test(d, flips=499, generator=np.random.default_rng(3))
    assert s.bootstrap_interval(d, generator=3) == s.bootstrap_interval(d, generator=3)
    curves = {"a": np.ones((3, 2)), "b": np.full((3, 2), 2.0)}
    assert s.order_chance(curves, [("a", "b")], generator=1) == 1


@pytest.mark.parametrize("n", [2, 7, 12])
def test_flips_equal_scipy(n):
    d = np.random.default_rng(n).normal(0.4, 1, n)
    for alternative in ("two-sided", "less", "greater"):
        theirs = stats.permutation_test(
            (d,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
        ).pvalue
        assert s.sign_flip_test(d, alternative=alternative) == pytest.approx(theirs, abs=1e-12)


def test_random_flips_approach_enumeration():
    d = np.random.default_rng(0).normal(0.3, 1, 12)
    exact = s.flip_tails(d, [0, 0.2], generator=None)
    drawn = s.flip_tails(d, [0, 0.2], flips=4_000, generator=np.random.default_rng(1))
    assert np.abs(exact - drawn).max() < 4 * 0.5 / np.sqrt(4_000)


def test_random_flips_never_give_zero_and_are_seeded():
    d = np.full(45, 1.0)
    p = [
        s.sign_flip_test(d, alternative="greater", flips=999, generator=np.random.default_rng(4))
        for _ in range(2)
    ]
    assert p == [0.001, 0.001]


def test_the_stream_of_random_flips_is_kept():
    "Records hold p-values of this stream: the numbers of one generator, drawn in one order."
    g = np.random.default_rng(0)
    d = g.normal(0.1, 1, 45)
    found = s.flip_tails(d, [0.0], flips=30_000, generator=np.random.default_rng(7))
    again = np.random.default_rng(7)
    blocks = [again.integers(0, 2, (rows, 45), dtype=np.int8) for rows in (20_000, 10_000)]
    sums = (2.0 * np.concatenate(blocks) - 1.0) @ d
    below = (1 + (sums <= d.sum() + 1e-12).sum()) / 30_001
    above = (1 + (sums >= d.sum() - 1e-12).sum()) / 30_001
    assert found.tolist() == [[below, above]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_flips_mirror(d):
    tails = s.flip_tails(d, [0, 0.3], generator=None)
    mirrored = s.flip_tails([-x for x in d], [0, -0.3], generator=None)
    assert np.array_equal(tails, mirrored[:, ::-1])


# --- intervals


def test_bootstrap_is_close_to_t_for_normal_data_and_ordered_by_level():
    d = np.random.default_rng(3).normal(0.2, 1, 60)
    low, high = s.bootstrap_interval(d, generator=np.random.default_rng(0))
    wide = s.bootstrap_interval(d, level=0.99, generator=np.random.default_rng(0))
    t = stats.ttest_1samp(d, 0).confidence_interval()
    assert abs(low - t.low) < 0.04
    assert abs(high - t.high) < 0.04
    assert wide[0] < low
    assert high < wide[1]


def test_bootstrap_corners():
    g = np.random.default_rng(0)
    assert s.bootstrap_interval([1.5] * 4, generator=g) == (1.5, 1.5)
    assert s.bootstrap_interval([1.0, 2.0], generator=g) == (-np.inf, np.inf)
    assert s.bootstrap_difference([1, 2], [1, 2, 3], generator=g) == (-np.inf, np.inf)


def test_bootstrap_of_a_difference_is_close_to_welch():
    g = np.random.default_rng(4)
    x = g.normal(1.0, 1, 60)
    y = g.normal(0.5, 2, 80)
    low, high = s.bootstrap_difference(x, y, generator=np.random.default_rng(0))
    welch = stats.ttest_ind(x, y, equal_var=False).confidence_interval()
    assert abs(low - welch.low) < 0.06
    assert abs(high - welch.high) < 0.06


def test_two_samples_against_enumeration():
    x = [1.0, 2.0, 6.0]
    y = [0.0, 1.5, 2.5]
    pool = np.array(x + y)
    seen = np.mean(x) - np.mean(y)
    more = []
    for pick in product((False, True), repeat=6):
        first = np.array(pick)
        if first.sum() == 3:
            more.append(pool[first].mean() - pool[~first].mean() >= seen - 1e-12)
    got = s.two_sample_test(x, y, alternative="greater", generator=np.random.default_rng(0))
    assert got == pytest.approx(np.mean(more))


# --- several claims, failures, equivalence


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_is_the_step_down_procedure(p, alpha):
    rejected = set()
    left = sorted(range(len(p)), key=lambda i: p[i])
    while left and p[left[0]] <= alpha / len(left):
        rejected.add(left.pop(0))
    assert {i for i, q in enumerate(s.holm(p)) if q <= alpha * (1 + 1e-12)} >= rejected
    levels = s.holm_levels(p, alpha)
    assert {i for i in range(len(p)) if p[i] <= levels[i]} == rejected
    assert all(levels[i] == pytest.approx(alpha / max(1, len(left))) for i in left)


def test_mcnemar_is_the_sign_test_of_the_pairs_that_disagree():
    a = np.array([1, 1, 1, 1, 1, 0, 0, 1])
    b = np.array([0, 0, 0, 0, 0, 1, 0, 1])
    assert s.mcnemar_exact(a, b) == pytest.approx(2 * (1 + 6) / 2**6)
    assert s.mcnemar_exact([0, 1], [0, 1]) == 1.0
    assert s.mcnemar_exact(a == 1, b == 1) == s.mcnemar_exact(a, b)


@pytest.mark.parametrize(
    "failures", [[2, 7, 1], ["yes", "no", "no"], [np.nan, 1.0, 0.0], [None, True, False]]
)
def test_mcnemar_takes_failures_only(failures):
    good = [True, False, True]
    for pair in ((failures, good), (good, failures)):
        with pytest.raises(InvalidArgument, match="booleans"):
            s.mcnemar_exact(*pair)


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    d = np.array([0.01, -0.02, 0.03, 0.0, 0.01, -0.01, 0.02])
    want = max(slow_tail(d, -0.05)[1], slow_tail(d, 0.05)[0])
    assert s.equivalence_test(d, -0.05, 0.05) == want
    assert s.equivalence_test(d + 1, -0.05, 0.05) == 1.0
    assert s.intersection_union([0.2, 0.01]) == 0.2


# --- what could have been missed, and what to expect


def test_detectable_effect_has_the_stated_power():
    g = np.random.default_rng(0)
    n = 45
    d = g.normal(0, 1, n)
    effect = s.detectable_effect(d / d.std(ddof=1), alpha=0.05)
    x = g.normal(effect, 1, (4_000, n))
    found = stats.ttest_1samp(x, 0, axis=1).pvalue <= 0.05
    assert abs(np.mean(found) - 0.8) < 0.03


@pytest.mark.parametrize("n, effect", [(8, 0.6), (45, 0.3), (45, 0.05)])
def test_detection_power_is_that_of_the_t_test(n, effect):
    g = np.random.default_rng(0)
    d = g.normal(0, 1, n)
    said = s.detection_power(d / d.std(ddof=1), -effect)
    x = g.normal(effect, 1, (4_000, n))
    found = np.mean(stats.ttest_1samp(x, 0, axis=1).pvalue <= 0.05)
    assert abs(found - said) < 0.03


def test_runs_for_an_effect_have_the_power_asked_for():
    d = np.random.default_rng(0).normal(0, 1, 400)
    d /= d.std(ddof=1)
    n = s.runs_for_effect(d, 0.2)
    assert n == int(np.ceil(((1.959964 + 0.841621) / 0.2) ** 2)) == 197
    assert abs(s.detection_power(d[:n] / d[:n].std(ddof=1), 0.2) - 0.8) < 0.01
    assert s.runs_for_effect([-1, 1], 1e-9) == 10_000


def test_detectable_effect_and_power_are_inverse():
    d = np.random.default_rng(1).normal(0, 1, 45)
    assert s.detection_power(d, s.detectable_effect(d)) == pytest.approx(0.8, abs=0.01)
    assert s.detection_power([1.0], 1.0) == 0.0
    assert s.detection_power([1.0, 1.0], 0.5) == 1.0
    assert s.detection_power([1.0, 1.0, 1.0 + 1e-6], 9.0) == 1.0
    assert s.detection_power([1.0, 2.0], 0.0) == 0.05
    # where scipy's far tail is not a number
    certain = [s.detection_power(d, c * np.std(d)) for c in np.linspace(2, 6, 40)]
    assert np.isfinite(certain).all()


def test_runs_needed_by_hand():
    "A spread of sqrt(0.02) asks for (1.96 * 0.1414 / 0.025)^2 = 122.9 runs."
    assert s.runs_needed([-0.1, 0.1]) == 123
    assert s.runs_needed([-1, 1]) == 200
    assert s.runs_needed([-1e-9, 1e-9]) == 2


def test_prediction_interval_covers_a_new_value():
    g = np.random.default_rng(1)
    x = g.normal(0.3, 2, (3_000, 8))
    inside = []
    for row in x:
        low, high = s.prediction_interval(row[:7])
        inside.append(low <= row[7] <= high)
    assert abs(np.mean(inside) - 0.95) < 0.015


def test_order_chance_against_a_loop():
    g = np.random.default_rng(5)
    curves = {"a": g.exponential(1.0, (12, 6)), "b": g.exponential(1.3, (10, 6))}
    options = dict(runs=9, share=0.5, resamples=3_000)
    got = s.order_chance(curves, [("a", "b")], **options, generator=np.random.default_rng(6))
    loop = []
    h = np.random.default_rng(7)
    for _ in range(3_000):
        a, b = (c[h.integers(0, len(c), 9)].mean(0) for c in curves.values())
        loop.append((a < b).mean() >= 0.5)
    assert abs(got - np.mean(loop)) < 4 * np.sqrt(0.5 / 3_000)


def test_paired_chance_resamples_the_same_runs():
    base = np.random.default_rng(0).exponential(1, (20, 5))
    curves = {"a": base, "b": base + 1e-6}
    pairs = [("a", "b")]
    assert s.order_chance(curves, pairs, paired=True, generator=np.random.default_rng(1)) == 1
    assert s.order_chance(curves, pairs, generator=np.random.default_rng(1)) < 0.9


# --- what is refused


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: s.sign_flip_test([]), InvalidShape),
        (lambda: s.sign_flip_test([[1.0]]), InvalidShape),
        (lambda: s.sign_flip_test([1, np.inf]), InvalidArgument),
        (lambda: s.sign_flip_test([1.0], alternative="larger"), UnknownName),
        (lambda: s.sign_flip_test([1.0], flips=0), InvalidArgument),
        (lambda: s.sign_flip_test([1.0] * 45), InvalidArgument),  # needs a generator
        (lambda: s.sign_flip_test([1.0] * 45, generator="seed"), InvalidArgument),
        (lambda: s.sign_flip_test([1.0, 2.0], null=np.nan), InvalidArgument),
        (lambda: s.flip_tails([1.0, 2.0], [0.0, np.inf]), InvalidArgument),
        (lambda: s.sign_flips([1.0, 2.0]).tails(np.nan), InvalidArgument),
        (lambda: s.sign_flip_interval([1.0, 2.0], level=95), InvalidArgument),
        (lambda: s.equivalence_test([1.0], np.nan, 1), InvalidArgument),
        (lambda: s.equivalence_test([1.0], -np.inf, 1), InvalidArgument),
        (lambda: s.detection_power([1.0, 2.0], np.nan), InvalidArgument),
        (lambda: s.runs_for_effect([1.0, 2.0], 0.0), InvalidArgument),
        (lambda: s.runs_for_effect([1.0], 1.0), InvalidArgument),
        (lambda: s.holm([-0.1]), InvalidArgument),
        (lambda: s.holm_levels([0.1], alpha=0), InvalidArgument),
        (lambda: s.equivalence_test([1.0], 1, -1), InvalidArgument),
        (lambda: s.mcnemar_exact([1], [1, 0]), InvalidShape),
        (lambda: s.bootstrap_interval([1, 2, 3], level=95, generator=None), InvalidArgument),
        (lambda: s.runs_needed([1.0]), InvalidArgument),
    ],
)
def test_bad_input(call, error):
    with pytest.raises(error):
        call()


# --- sizes and coverage


def normal(g, size):
    return g.normal(0, 1, size)


def heavy(g, size):
    return g.standard_t(2, size)


def skewed_arms(g, size):
    "Exchangeable arms, each of them skewed."
    return g.exponential(1, size) - g.exponential(1, size)


def skewed(g, size):
    return g.exponential(1, size)


NULLS = {"normal": normal, "heavy": heavy, "exchangeable, skewed arms": skewed_arms}


def rejections(draw, n, runs, flips, seed):
    "Two-sided p-values of `runs` samples of `n` differences: (runs,)."
    g = np.random.default_rng(seed)
    samples = draw(g, (runs, n))
    tails = [s.flip_tails(d, [0.0], flips=flips, generator=g)[0] for d in samples]
    return 2 * np.min(tails, axis=1)


@pytest.mark.parametrize("name", NULLS)
def test_size_under_exchangeable_nulls(name):
    p = rejections(NULLS[name], 10, 1_500, 1_023, 0)
    assert (p <= 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1_500)


@pytest.mark.full
@pytest.mark.parametrize("name", NULLS)
def test_size_at_45_seeds(name):
    p = rejections(NULLS[name], 45, 6_000, 1_999, 1)
    for alpha in (0.005, 0.05):
        assert abs((p <= alpha).mean() - alpha) < 4 * np.sqrt(alpha / 6_000)


def coverage(interval, draw, mean, n, runs, seed):
    "Share of `runs` samples whose interval holds the true mean."
    g = np.random.default_rng(seed)
    hits = []
    for d in draw(g, (runs, n)):
        low, high = interval(d, g)
        hits.append(low <= mean <= high)
    return np.mean(hits)


def inverted(d, g):
    return s.sign_flip_interval(d, flips=1_999, generator=g)


def bootstrapped(d, g):
    return s.bootstrap_interval(d, resamples=1_999, generator=g)


@pytest.mark.parametrize("interval", [inverted, bootstrapped])
def test_coverage_for_normal_differences(interval):
    assert 0.90 < coverage(interval, normal, 0.0, 45, 400, 2) < 0.98


# lowest coverage that the prose may claim, measured with 3 000 samples
@pytest.mark.full
@pytest.mark.parametrize(
    "interval, draw, mean, n, lowest",
    [
        (inverted, normal, 0.0, 45, 0.935),
        (inverted, heavy, 0.0, 45, 0.935),
        (inverted, skewed, 1.0, 45, 0.91),
        (inverted, normal, 0.0, 8, 0.935),
        (inverted, heavy, 0.0, 8, 0.935),
        (inverted, skewed, 1.0, 8, 0.85),
        (bootstrapped, normal, 0.0, 45, 0.93),
        (bootstrapped, skewed, 1.0, 45, 0.91),
    ],
)
def test_coverage(interval, draw, mean, n, lowest):
    assert lowest < coverage(interval, draw, mean, n, 3_000, 3) < 0.975


@pytest.mark.full
def test_bootstrap_intervals_of_eight_values_cover_less_than_they_say():
    "Why verdicts invert the test: at n = 8 BCa covers some ten points too little."
    for draw, mean in ((normal, 0.0), (skewed, 1.0)):
        assert coverage(bootstrapped, draw, mean, 8, 3_000, 4) < 0.92
