"""What is let in, as what, and what is said about the rest."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impsamp.checks import (
    check_count,
    check_number,
    check_owner,
    check_probabilities,
    check_scores,
    load_together,
    per_item,
    refuse_mask,
    same_kind,
    state_entries,
    state_value,
    to_float64,
)
from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidScores, InvalidShape

NAN = float("nan")
INFINITE = float("inf")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_any_dtype_become_float64(dtype):
    inside = to_float64(torch.tensor([1, 2], dtype=dtype))
    assert inside.dtype == np.float64
    assert inside.tolist() == [1.0, 2.0]


def test_gradients_are_left_behind():
    assert to_float64(torch.ones(2, requires_grad=True)).tolist() == [1.0, 1.0]


def test_a_float64_array_is_not_copied():
    x = np.ones(3)
    assert to_float64(x) is x


def test_what_is_not_numeric_is_refused_by_name():
    with pytest.raises(InvalidShape, match="scores is not a numeric array"):
        to_float64("abc", "scores")


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="inhomogeneous"):
        to_float64([[1.0], [2.0, 3.0]])


def test_a_wrong_dimension_is_named():
    with pytest.raises(InvalidShape, match=r"grads must have 2 dimension\(s\), got shape \(3,\)"):
        to_float64(np.ones(3), "grads", ndim=2)


def test_the_same_kind_comes_out():
    inside = np.array([1.0, 2.0])
    back = same_kind(inside, torch.ones(2, dtype=torch.float16))
    assert isinstance(back, torch.Tensor)
    assert back.dtype == torch.float64
    for like in (np.ones(2), [1.0, 2.0]):
        assert same_kind(inside, like) is inside


def test_checks_cost_no_torch():
    code = (
        "import sys\n"
        "from impsamp.checks import same_kind, to_float64\n"
        "same_kind(to_float64([1.0]), [1.0])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=9).filter(any))
def test_normalised_weights_are_probabilities(weights):
    p = np.array(weights) / sum(weights)
    assert np.array_equal(check_probabilities(p), p)


BAD_PROBABILITIES = [
    ([], {}, InvalidShape, "p is empty"),
    ([[0.5, 0.5]], {}, InvalidShape, "dimension"),
    ([0.5, NAN], {}, InvalidProbabilities, r"not finite at index 1 \(1 in all\)"),
    ([0.5, INFINITE], {}, InvalidProbabilities, "not finite at index 1"),
    ([-0.1, -0.1, 1.2], {}, InvalidProbabilities, r"negative at index 0 \(2 in all\)"),
    ([1.0, 0.0], {"positive": True}, InvalidProbabilities, "zero at index 1"),
    ([0.5, 0.6], {}, InvalidProbabilities, "sums to 1.1, expected 1; normalise it"),
    ([0.5, 0.5], {"total": 2.0}, InvalidProbabilities, "sums to 1, expected 2"),
]


@pytest.mark.parametrize("p, options, error, words", BAD_PROBABILITIES, ids=range(8))
def test_bad_probabilities_are_refused_with_words(p, options, error, words):
    with pytest.raises(error, match=words):
        check_probabilities(p, **options)


def test_the_sum_is_free_on_request_and_its_tolerance_scales():
    assert check_probabilities([0.5, 2.5], total=None).tolist() == [0.5, 2.5]
    check_probabilities([1000.0, 0.0005], total=1000.0)
    with pytest.raises(InvalidProbabilities, match="sums to"):
        check_probabilities([1.0, 0.0005])


BAD_SCORES = [
    ([], {}, InvalidShape, "scores is empty"),
    ([1.0, 2.0], {"n": 3}, InvalidShape, "2 entries, expected 3"),
    ([1.0, NAN], {}, InvalidScores, "not finite at index 1"),
    ([1.0, -1.0], {}, InvalidScores, "negative at index 1"),
    ([0.0, 0.0], {"allow_zero": False}, InvalidScores, "all zero"),
]


@pytest.mark.parametrize("s, options, error, words", BAD_SCORES, ids=range(5))
def test_bad_scores_are_refused_with_words(s, options, error, words):
    with pytest.raises(error, match=words):
        check_scores(s, **options)


def test_good_scores_pass():
    assert check_scores([0.0, 0.0]).tolist() == [0.0, 0.0]
    assert check_scores([0.0, 3.0], n=2, allow_zero=False).tolist() == [0.0, 3.0]


@pytest.mark.parametrize("k", [3, 3.0, np.int64(3), np.float32(3)])
def test_a_count_may_come_as_any_number(k):
    count = check_count(k, "steps", high=3)
    assert type(count) is int
    assert count == 3


@pytest.mark.parametrize(
    "k, limits, words",
    [
        (2.5, {}, "steps must be a whole number, got 2.5"),
        (True, {}, "whole number"),
        (0, {}, "steps must be at least 1, got 0"),
        (4, {"low": 0, "high": 3}, "at least 0 and at most 3, got 4"),
    ],
)
def test_a_bad_count_is_refused_with_words(k, limits, words):
    with pytest.raises(InvalidArgument, match=words):
        check_count(k, "steps", **limits)


@pytest.mark.parametrize(
    "x, limits, words",
    [
        ("much", {}, "lr must be a number, got 'much'"),
        (None, {}, "must be a number"),
        (NAN, {}, "must be finite, above 0"),
        (INFINITE, {}, "must be finite, above 0"),
        (0.0, {}, "must be finite, above 0, got 0.0"),
        (-1.0, {"strict": False}, "at least 0, got -1.0"),
        (2.0, {"high": 1.0}, "above 0 and at most 1, got 2.0"),
    ],
)
def test_a_bad_number_is_refused_with_words(x, limits, words):
    with pytest.raises(InvalidArgument, match=words):
        check_number(x, "lr", **limits)


def test_the_ends_of_the_range():
    assert check_number(0, "momentum", strict=False) == 0.0
    assert check_number(torch.tensor(1.0), "mu", high=1.0) == 1.0


# ---- counts that are none, masks, means ------------------------------------------------------
NO_COUNTS = [
    NAN,
    INFINITE,
    -INFINITE,
    None,
    "3",
    "x",
    2.5,
    True,
    np.True_,
    torch.tensor(True),
    [1, 2],
]


@pytest.mark.parametrize("k", NO_COUNTS, ids=str)
def test_what_is_no_count_is_refused_by_name(k):
    with pytest.raises(InvalidArgument, match="steps must be a whole number"):
        check_count(k, "steps")


@pytest.mark.parametrize("k", [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3)], ids=str)
def test_counts_of_any_number_type(k):
    assert check_count(k, "steps") == 3


@pytest.mark.parametrize(
    "mask", [[True, False], (False,), np.array([True]), torch.tensor([True, False]), np.True_]
)
def test_a_mask_is_no_list_of_items(mask):
    with pytest.raises(InvalidShape, match="items are named by their numbers"):
        refuse_mask(mask)


@pytest.mark.parametrize("idx", [[0, 1], np.array([0, 1]), torch.tensor([1, 0]), [], ()])
def test_items_by_their_numbers_pass(idx):
    refuse_mask(idx)


@pytest.mark.parametrize("mean", [0.7, np.float64(0.7), torch.tensor(0.7, requires_grad=True)])
def test_a_mean_in_place_of_one_per_item_is_named(mean):
    with pytest.raises(InvalidShape, match='reduction="none"'):
        per_item(mean)
    with pytest.raises(InvalidShape, match=r"one number per item, got shape \(2, 1\)"):
        per_item(np.ones((2, 1)))
    assert per_item([NAN, 1.0]).size == 2


# ---- states ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "state, words",
    [
        ([1], "a scheme state is a dict, got list"),
        ({}, "it has no n"),
        ({"n": 4}, "its n is 4, expected 3; start afresh"),
        ({"n": 3.0}, "its n is 3.0"),
        ({"n": True}, "its n is True"),
    ],
)
def test_a_foreign_state_is_named(state, words):
    with pytest.raises(InvalidArgument, match=words):
        check_owner(state, "scheme", {"n": 3}, "; start afresh")


def test_values_and_lists_of_a_state():
    state = {"a": 1, "b": [1, 2]}
    assert state_value(state, "a", "scheme") == 1
    assert state_entries(state, "b", "scheme", 2) == [1, 2]
    for key, count in (("a", None), ("b", 3)):
        with pytest.raises(InvalidArgument, match=f"{key} of this scheme state must be a list"):
            state_entries(state, key, "scheme", count)


class Box:
    "Refuses what is above its limit."

    def __init__(self, limit):
        self.limit = limit
        self.value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        if state["value"] > self.limit:
            raise KeyError("too much")
        self.value = state["value"]


@pytest.mark.parametrize("third", [1, 9])
def test_all_are_loaded_or_none(third):
    boxes = [Box(5), Box(5), Box(5)]
    loads = [(box, {"value": v}) for box, v in zip(boxes, (3, 2, third))]
    if third == 9:
        with pytest.raises(KeyError, match="too much"):
            load_together(loads)
    else:
        load_together(loads)
    assert [b.value for b in boxes] == ([0, 0, 0] if third == 9 else [3, 2, 1])
