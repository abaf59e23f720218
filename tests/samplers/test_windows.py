"""Slices of episodes: every window is found, scored and renewed; the mean over windows is right."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument, InvalidScores, InvalidShape, UnknownName
from impsamp.samplers import SumTree, Windows, expected_coefficients


def slow_starts(episodes, length):
    found = []
    for k in range(len(episodes) - length + 1):
        if len(set(episodes[k : k + length])) == 1:
            found.append(k)
    return found


@given(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.integers(1, 4))
def test_windows_touching_and_scores_as_a_loop_finds_them(lengths, length):
    episodes = np.cumsum(lengths)  # never an old number again
    starts = slow_starts(episodes.tolist(), length)
    if not starts:
        with pytest.raises(InvalidArgument, match="shorten the window"):
            Windows(episodes, length)
        return
    windows = Windows(episodes, length)
    assert windows.starts.tolist() == starts
    s = np.arange(1.0, len(episodes) + 1)
    assert windows.scores(s).tolist() == [s[k : k + length].sum() for k in starts]
    assert windows.scores(s, "max").tolist() == [s[k + length - 1] for k in starts]
    for t in range(len(episodes)):
        assert windows.touching([t]).tolist() == [
            j for j, k in enumerate(starts) if k <= t < k + length
        ]


def test_draws_of_windows_are_unbiased_for_their_mean():
    windows = Windows([0, 0, 0, 1, 1], 2)
    tree = SumTree(windows.scores([1.0, 1.0, 2.0, 2.0, 3.0]))
    assert np.allclose(expected_coefficients(tree, 2), 1 / 3)
    draw = tree.draw(5, np.random.default_rng(0))
    rows = windows.rows(draw)
    assert rows.shape == (5, 2) and (rows[:, 0] == windows.starts[draw.idx]).all()
    assert windows.rows([2]).tolist() == [[3, 4]]


def test_an_episode_that_comes_again_is_another():
    assert Windows([0, 0, 1, 0, 0], 2).starts.tolist() == [0, 3]


def test_the_kind_of_scores_is_kept():
    found = Windows([0, 0], 2).scores(torch.tensor([1.0, 2.0]))
    assert isinstance(found, torch.Tensor) and found.tolist() == [3.0]


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda w: w.scores([1.0]), InvalidShape),
        (lambda w: w.scores([1.0, np.nan, 1.0]), InvalidScores),
        (lambda w: w.scores(np.ones(3), "mean"), UnknownName),
        (lambda w: w.rows([2]), InvalidShape),
        (lambda w: w.touching([3]), InvalidShape),
        (lambda w: Windows([], 1), InvalidArgument),
        (lambda w: Windows([0, 0], 0), InvalidArgument),
    ],
)
def test_bad_input(call, error):
    with pytest.raises(error):
        call(Windows([0, 0, 0], 2))
