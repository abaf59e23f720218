"""Each statistic against a slow oracle, and the size of the tests measured under the null."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from impsamp.errors import InvalidArgument, InvalidShape, UnknownName
from impsamp.reproduce import statistics as s

small = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=9)


# --- sign flips


def slow_tail(d, null=0.0):
    "(share of sign choices with a sum at most the one seen, share with at least), by enumeration."
    shifted = [x - null for x in d]
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
    slack = 1e-9 * np.abs(d).sum()
    below = (1 + (sums <= d.sum() + slack).sum()) / 30_001
    above = (1 + (sums >= d.sum() - slack).sum()) / 30_001
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


def coverage(draw, mean, n, runs, seed):
    "Share of `runs` samples whose interval holds the true mean."
    g = np.random.default_rng(seed)
    hits = []
    for d in draw(g, (runs, n)):
        low, high = s.bootstrap_interval(d, resamples=1_999, generator=g)
        hits.append(low <= mean <= high)
    return np.mean(hits)


def test_coverage_for_normal_differences():
    assert 0.90 < coverage(normal, 0.0, 45, 400, 2) < 0.98


@pytest.mark.full
@pytest.mark.parametrize("draw, mean, lowest", [(normal, 0.0, 0.93), (skewed, 1.0, 0.91)])
def test_coverage_at_45_seeds(draw, mean, lowest):
    assert lowest < coverage(draw, mean, 45, 3_000, 3) < 0.97
