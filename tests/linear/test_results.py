"What a run gives back says what happened."

import pickle

import numpy as np
import pytest

from impsamp.linear import Interrupted, Result, minimize
from impsamp.linear.results import Progress, attainable_gradient
from impsamp.problems import LeastSquares


@pytest.fixture
def result():
    f = LeastSquares(np.ones((2, 1)), np.array([0.0, 2.0]))
    return minimize(f, "svrg", "uniform", max_passes=3, generator=0)


@pytest.mark.parametrize("word", ["converged", "diverged", "stagnated"])
def test_a_result_says_how_it_ended(result, word):
    assert word not in repr(result)
    setattr(result, word, True)
    assert f", {word}; compiled" in repr(result)


def test_an_interrupt_holds_the_result_and_says_so(result):
    empty = Result(result.x, [], False, result.plan, result.x, message="interrupted at the start")
    assert "no pass" in repr(empty)
    error = Interrupted(empty)
    assert isinstance(error, KeyboardInterrupt)
    assert str(error) == "interrupted at the start; the last iterate is in .result.last"
    again = pickle.loads(pickle.dumps(error))
    assert again.result.last == result.x


def test_the_attainable_norm_by_hand():
    "float32 rounds 5 to 2^-22, half of it either way: eps 5 = 5 2^-23; with lr = 1/2 twice that."
    least = attainable_gradient(np.array([3.0, 4.0]), 0.5, np.dtype(np.float32))
    assert least == 10 * 2.0**-23
    assert attainable_gradient(np.zeros(2), 0.5, np.dtype(np.float64)) == 0


def test_progress_counts_records_without_a_fall_by_a_tenth():
    progress = Progress()
    for norm in (1.0, 0.95, 0.91):
        progress.update(norm)
    assert progress == Progress(1.0, 2)
    progress.update(0.89)
    assert progress == Progress(0.89, 0)
    for _ in range(10):
        assert not progress.is_stuck(0.89, 1.0)
        progress.update(0.89)
    assert progress.is_stuck(0.89, 1.0)
    assert not progress.is_stuck(0.89, 0.1), "far above what can be attained"
