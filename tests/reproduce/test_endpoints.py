"""Times, ratios and verdicts with numbers that can be checked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.reproduce.endpoints import (
    horizons,
    partial_conjunction,
    time_ratio,
    time_to_target,
)
from impsamp.reproduce.statistics import sign_flip_interval


@given(st.floats(0.2, 3), st.floats(-3, 3), st.lists(st.floats(0.1, 10), min_size=2, unique=True))
def test_a_power_law_is_read_off_exactly(power, level, seconds):
    if max(seconds) / min(seconds) < 1.01:
        return
    t = np.array(seconds)
    wanted = np.sqrt(t.min() * t.max())
    values = np.exp(level) * t**-power
    found = time_to_target(t, values, np.exp(level) * wanted**-power)
    assert found == pytest.approx((wanted, wanted), rel=1e-6)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.03, 0.02, 0.011], (4, np.inf)),  # a miss
        ([0.009, 0.005, 0.002], (0, 1)),  # there before the first
        ([0.02, np.inf, 0.02], (4, np.inf)),  # no better with time, and not there
        ([0.002, 0.002, 0.005], (0, 1)),  # no better with time, and there
        ([np.inf, np.nan, 0.001], (4, np.inf)),  # one run is no line
        ([0.04, 0.02, 0.0], (1.3454, 1.3454)),  # an error of nothing is finite
    ],
)
def test_what_lies_outside_of_the_horizons_is_a_bound(values, expected):
    found = time_to_target([1, 2, 4], values, 0.01)
    assert found == pytest.approx(expected, rel=1e-3)


def test_bad_horizons():
    with pytest.raises(InvalidShape, match="1 horizons and 1 values"):
        time_to_target([1], [1], 0.1)
    with pytest.raises(InvalidArgument, match="positive"):
        time_to_target([0, 1], [1, 1], 0.1)


def points(times):
    return [(t, t) for t in times]


def test_without_bounds_it_is_the_plain_sign_flip_interval():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(1, 0.2, (2, 9))
    found = time_ratio(points(a), points(b))
    low, high = sign_flip_interval(np.log(a / b))
    assert (found.low, found.high) == pytest.approx((np.exp(low), np.exp(high)))
    assert found.ratio == pytest.approx(np.exp(np.log(a / b).mean()))
    assert (found.exact, found.empty, found.pairs) == (9, 0, 9)


def test_a_bound_confirms_and_never_refutes():
    "The rival misses once: the lower end can only be raised by what is not known."
    rival = [*points([3.0] * 7), (6, np.inf)]
    arm = points([2.0] * 8)
    found = time_ratio(rival, arm)
    assert found.low == pytest.approx(1.5)
    assert found.high == np.inf
    assert found.p_faster == pytest.approx(1 / 2**8)
    other = time_ratio(arm, rival)
    assert other.low == 0
    assert other.p_faster == 1


@given(st.lists(st.tuples(st.floats(1, 9), st.floats(1, 9)), min_size=6, max_size=8), st.data())
def test_hiding_a_time_only_widens(times, data):
    a = points([t for t, _ in times])
    b = points([t for _, t in times])
    known = time_ratio(a, b)
    k = data.draw(st.integers(0, len(times) - 1))
    a[k] = (a[k][0] / 2, np.inf)
    hidden = time_ratio(a, b)
    assert hidden.low <= known.low * (1 + 1e-9)
    assert hidden.high >= known.high * (1 - 1e-9)


def test_every_arm_misses_everywhere():
    found = time_ratio([(9, np.inf)] * 6, [(9, np.inf)] * 6)
    assert found.censored
    assert found.empty == 6
    assert np.isnan(found.ratio)
    assert (found.low, found.high, found.p) == (0, np.inf, 1)


def test_pairs_need_the_same_seeds():
    with pytest.raises(InvalidShape, match="got 2 and 1"):
        time_ratio(points([1, 2]), points([1]))


def test_at_least_two_of_m():
    assert partial_conjunction([0.04, 0.01, 0.001]) == pytest.approx(0.02)
    assert partial_conjunction([0.001, 0.6, 0.9]) == 1.0
    with pytest.raises(InvalidArgument, match="two p-values"):
        partial_conjunction([0.01])


def test_horizons_surround_what_is_expected():
    assert horizons((3, 3), 4) == pytest.approx([2, 3, 4.5])
    assert horizons((0, 1.5), 4) == pytest.approx([1 / 1.5, 1, 1.5])  # clipped at 4 / 4
    assert horizons((4, np.inf), 4) == pytest.approx([4, 6, 9])
