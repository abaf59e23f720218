"""The segment from u to p^GN: the theorem on any norms, and runs that differ by t alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument
from impsamp.reproduce.lahire import paper_run
from impsamp.reproduce.segment import (
    POINTS,
    noise_ratios,
    segment_law,
    segment_promise,
    segment_run,
    segment_scheme,
)


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=2, max_size=20).filter(any))
def test_the_noise_falls_all_the_way_and_most_of_it_first(norms):
    "H(p_t) is convex in t and least at t = 1."
    ratios = list(noise_ratios(norms).values())
    steps = np.diff(ratios)
    assert (steps <= 1e-9).all()
    assert (np.diff(steps) >= -1e-9).all()


def test_no_norm_is_positive():
    assert set(noise_ratios([0, 0]).values()) == {1.0}


def test_the_scheme_draws_from_the_law():
    g = np.array([1.0, 3.0])
    for t, first in ((0, 0.5), (0.5, 0.375), (1, 0.25)):
        assert segment_law(g, t)[0] == pytest.approx(first)
        assert segment_scheme(t).init(2).probabilities(g)[0] == pytest.approx(first)


@pytest.mark.parametrize("t, scheme", [(0.0, "u"), (0.5, "half"), (1.0, "gn")])
def test_the_papers_schemes_are_three_of_the_points(t, scheme):
    ours = segment_run(t=t, seed=1, batch=5, steps=4, eval_every=2)
    theirs = paper_run(optimizer="sgd", scheme=scheme, seed=1, steps=4, eval_every=2, test=False)
    assert (ours["train_loss"] == theirs["train_loss"]).all()


def test_a_point_outside_of_the_segment_is_refused():
    with pytest.raises(InvalidArgument, match="t must lie"):
        segment_run(t=1.5, seed=0)


def test_a_promise_needs_no_luck():
    first, again = (segment_promise(seed=0, steps=1, every=1, draws=4) for _ in range(2))
    for t in POINTS:
        assert (first[f"rate {t:g}"] == again[f"rate {t:g}"]).all()
