"""What remembered scores could do against shuffled epochs: the gain, the bound, the words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from impsamp.assess.remembering import Remembering, calibrated_gain, remembered_time
from impsamp.errors import InvalidArgument


def second_moments(norms, share):
    "H(u) and H(p) by their definition, n p = share."
    n = len(norms)
    p = share / n
    assert p.sum() == pytest.approx(1)
    return (norms**2).sum() / n, (norms**2 / (n * p)).sum() / n


def test_two_levels_by_hand():
    norms = np.repeat([1.0, 4.0], 50)  # half octaves 0 and 4: each bin is pure
    share = 0.8 * norms / norms.mean() + 0.2
    H_u, H_p = second_moments(norms, share)
    assert calibrated_gain(norms, norms) == pytest.approx(H_u / H_p)
    assert calibrated_gain(norms, norms, weight=0.0) == 1


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_scale_is_of_no_account(factor):
    norms = np.random.default_rng(0).lognormal(0, 1, 500)
    assert calibrated_gain(norms * factor, norms) == pytest.approx(calibrated_gain(norms, norms))


def test_scores_that_know_nothing_are_not_said_to_gain():
    rng = np.random.default_rng(1)
    found = [calibrated_gain(rng.lognormal(0, 1, 400), rng.lognormal(0, 1, 400)) for _ in range(30)]
    assert (
        np.mean(found) < 1
    )  # from one half applied to the other: noise costs, it does not flatter
    naive = calibrated_gain(np.ones(400), rng.lognormal(0, 1, 400))
    assert naive == pytest.approx(1)


def test_a_tail_that_one_half_lacks_is_reached_for():
    norms = np.ones(1000)
    norms[10] = 100.0  # an even item: the odd half has never seen its bin
    gain = calibrated_gain(norms, norms)
    assert 0.9 < gain <= (norms**2).mean() / norms.mean() ** 2


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=12), st.floats(0, 1))
def test_the_gain_is_finite_and_positive(norms, weight):
    gain = calibrated_gain(np.array(norms), np.ones(len(norms)), weight)
    assert np.isfinite(gain) and gain > 0


def test_items_without_gradient_cost_nothing():
    norms = np.array([0.0, 0.0, 2.0, 2.0])
    assert calibrated_gain(norms, norms, weight=1.0) == pytest.approx(2.0)  # half of them drawn
    assert calibrated_gain(np.zeros(4), norms) == 1
    assert calibrated_gain(np.ones(1), np.ones(1)) == 1


def test_the_bound_by_hand():
    assert remembered_time(4.0, 1.0, 5, np.inf) == pytest.approx((1 + 4 / 4) / 5)
    # q = 1: a step of G = 4 has (1 + 1/4)/(1 + 1) of what limits a plain one
    assert remembered_time(4.0, 1.5, 5, 1.0) == pytest.approx(1.5 * (1 + 4 * 0.625) / 5)
    assert remembered_time(4.0, 1.5, 1, 1.0) == 1.5


@given(st.floats(1, 100), st.floats(1, 3), st.floats(1, 1000), st.floats(0, 1e6))
def test_the_bound_lies_between_all_noise_and_none(gain, cost, epochs, noise):
    found = remembered_time(gain, cost, epochs, noise)
    least = remembered_time(gain, cost, epochs, np.inf)
    assert least * (1 - 1e-9) <= found <= cost * (1 + 1e-9)


@pytest.mark.parametrize("epochs", [0.5, 0, -1, np.nan, "many"])
def test_training_takes_an_epoch_at_least(epochs):
    with pytest.raises(InvalidArgument, match="epochs"):
        remembered_time(2.0, 1.0, epochs, 1.0)


def test_words():
    assert Remembering(1.1, 1.2, 10, 1.1).words().endswith(": shuffle.")
    said = Remembering(3.0, 1.2, 10, 0.48).words()
    assert "need 0.48 of the time over 10 epochs" in said
    assert "`certify`" in said


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (0.5, 0.79, "certify"),
        (0.7, 0.9, "undecided"),
        (0.81, 1.2, "shuffle"),
        (0.0, np.inf, "undecided"),
    ],
)
def test_no_verdict_while_the_cost_leaves_it_open(low, high, verdict):
    said = Remembering(2.0, 1.2, 10, 0.78, low, high)
    assert said.verdict == verdict
    assert ("undecided" in said.words()) is (verdict == "undecided")
    assert Remembering(2.0, 1.2, 10, 0.78).verdict == "certify"
