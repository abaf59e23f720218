"""Clocks and paired costs: ranks against the binomial law, intervals that cover, refusals."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.schemes.timing import _rank, cost_ratio, step_clock


def test_the_clock_is_that_of_whoever_does_the_work(monkeypatch):
    assert step_clock("cuda") is time.perf_counter is step_clock(torch.device("cuda", 0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert step_clock("cpu") is time.thread_time
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert step_clock("cpu") is time.process_time
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert step_clock() is time.process_time
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert step_clock() is time.perf_counter


@pytest.mark.parametrize("pairs", range(1, 201))
def test_the_ranks_are_those_of_the_binomial_law(pairs):
    k = _rank(pairs)
    assert k == 0 or binom.cdf(k - 1, pairs, 0.5) <= 0.025
    assert binom.cdf(k, pairs, 0.5) > 0.025 or pairs == 0


def test_intervals_cover_the_median_of_skewed_ratios():
    rng = np.random.default_rng(0)
    hit = 0
    for _ in range(400):
        noise = rng.exponential(size=15)
        found = cost_ratio(1 + noise, np.ones(15))
        hit += found.low <= 1 + np.log(2) <= found.high
    assert hit > 0.93 * 400


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=30), st.floats(0.01, 100))
def test_what_slows_both_arms_of_a_pair_changes_nothing(plain, factor):
    b = np.array(plain)
    slow = np.linspace(1, factor, b.size)
    found = cost_ratio(1.3 * b * slow, b * slow)
    assert found.value == pytest.approx(1.3) and found.low <= 1.3 * (1 + 1e-9)
    assert found.high >= 1.3 * (1 - 1e-9) and found.pairs == b.size


def test_few_pairs_are_not_sure():
    assert cost_ratio([2.0] * 5, [1.0] * 5)[1:] == (0.0, np.inf, 5)
    assert cost_ratio([2.0] * 6, [1.0] * 6) == (2.0, 2.0, 2.0, 6)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_what_is_no_cost_is_refused(bad):
    with pytest.raises(InvalidArgument, match="positive"):
        cost_ratio([1.0, bad], [1.0, 1.0])
    with pytest.raises(InvalidArgument):
        cost_ratio([1.0, 1.0], [1.0, bad])
    with pytest.raises(InvalidShape, match="pairs"):
        cost_ratio([1.0], [1.0, 1.0])
