"""The contest's tasks: what is held out, how they are judged, how they are augmented."""

import numpy as np
import pytest
import torch

from impsamp.data.fetch import find_local
from impsamp.errors import UnknownName
from impsamp.reproduce.contest_tasks import (
    TASKS,
    _shifted,
    balanced_error,
    contest_task,
    error_rate,
    squared_error,
)


def test_a_rare_class_counts_like_a_frequent_one():
    output = torch.eye(3)[torch.tensor([0, 0, 0, 0, 0])]
    y = torch.tensor([0, 0, 0, 1, 2])
    assert error_rate(output, y) == pytest.approx(0.4)
    assert balanced_error(output, y) == pytest.approx(2 / 3)


def test_a_squared_error_is_a_mean_over_colours():
    output = torch.tensor([[0.0, 3.0], [1.0, 1.0]])
    assert squared_error(output, torch.zeros(2, 2)).tolist() == [4.5, 1.0]


def test_a_shift_moves_zeros_in_and_nothing_further_than_two():
    x = torch.ones(2, 1, 6, 6)
    for seed in range(10):
        moved = _shifted(x, np.random.default_rng(seed))
        assert moved.shape == x.shape
        assert moved.sum() >= 2 * 16
        assert set(moved.unique().tolist()) <= {0.0, 1.0}
    kept = [_shifted(x, np.random.default_rng(s)).sum() for s in range(30)]
    assert min(kept) < 72


def test_a_task_that_is_none():
    with pytest.raises(UnknownName, match="digits"):
        contest_task("digit")


def test_the_photograph_needs_no_download():
    task = contest_task("image")
    x, y = task.train
    assert x.shape == (273_280, 2)
    assert y.shape == (273_280, 3)
    assert (x.min(), x.max()) == (-1, 1)
    assert task.make()(x[:5]).shape == (5, 3)
    assert task.judge is None


@pytest.mark.skipif(find_local("train-labels-idx1-ubyte", "mnist") is None, reason="no MNIST here")
def test_what_is_held_out_is_not_trained_on():
    task = TASKS["mnist"]()
    assert len(task.train[1]) == 50_000
    assert len(task.validation[1]) == len(task.test[1]) == 10_000
    rare = TASKS["imbalanced"]()
    counts = rare.train[1].bincount()
    assert counts[:5].max() < 150 < 4000 < counts[5:].min()
    assert len(rare.validation[1]) == 10_000
