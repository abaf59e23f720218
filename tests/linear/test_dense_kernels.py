"The kernels that move every coordinate: slopes, steps by hand, CSR rows against dense ones."

import numpy as np
import pytest
from scipy import sparse

from impsamp.linear.dense_kernels import KIND, SQUARED, anchored_steps, sarah_steps, slope
from impsamp.problems.linear import LOSSES, loss_slope


def csr(X):
    "CSR rows as the kernels take them."
    A = sparse.csr_matrix(X)
    return A.data, A.indices.view(np.uint32), A.indptr


@pytest.mark.parametrize("loss", LOSSES)
def test_the_compiled_slope_is_that_of_the_problem(loss):
    z = np.r_[np.linspace(-6, 6, 25), -900.0, 900.0]
    for s in (-1.0, 1.0):
        compiled = [slope(KIND[loss], v, s) for v in z]
        assert np.allclose(compiled, loss_slope(loss, z, s), rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("rows", [np.asarray, csr], ids=["dense", "csr"])
@pytest.mark.parametrize("intercept", [False, True])
def test_two_saga_steps_by_hand(rows, intercept):
    """Rows (1, 0) and (0, 2), squared loss, targets 1, lr 0.1, item 1, then item 0.

    Without an intercept: slope -1, x = (0, 0.2), g = (0, -1); slope -1, x = (0.1, 0.3). With one,
    its first step is 0.1 and its g -0.5, so the second margin is 0.1 and the slope -0.9."""
    x = np.zeros(2 + intercept)
    g = np.zeros(2 + intercept)
    h = np.zeros(2)
    one = np.ones(2)
    items = (rows(np.array([[1.0, 0.0], [0.0, 2.0]])), one, one, SQUARED, intercept)
    pull = (np.zeros(2 + intercept), 0.0, 0.1, 0.1)
    draws = (np.arange(3), np.array([1, 0]), np.zeros(3, np.int64), np.empty(0, np.int64))
    kept = np.full(2 + intercept, np.nan)
    anchored_steps(*items, x, g, h, one, *pull, *draws, 1, 1, kept, np.zeros(2), np.zeros(2))
    if intercept:
        assert np.allclose(x, [0.09, 0.3, 0.1 + 0.1 * (0.9 + 0.5)])
        assert np.allclose(g, [-0.45, -1, -0.95])
        assert np.allclose(h, [-0.9, -1])
        assert np.allclose(kept, [0, 0.2, 0.1])
    else:
        assert np.allclose(x, [0.1, 0.3], atol=1e-15)
        assert np.allclose(g, [-0.5, -1])
        assert np.allclose(h, [-1, -1])
        assert np.allclose(kept, [0, 0.2])


@pytest.mark.parametrize("rows", [np.asarray, csr], ids=["dense", "csr"])
def test_one_sarah_step_by_hand_with_a_penalty(rows):
    "The slope of item 0 went from -1 to 0: u = (2, 0) + (1, 0), x = 1 - 0.1 (3 + 0.5 * 1)."
    x = np.array([1.0, 0.0])
    before = np.zeros(2)
    u = np.array([2.0, 0.0])
    one = np.ones(2)
    items = (rows(np.array([[1.0, 0.0], [0.0, 2.0]])), one, one, SQUARED, False)
    pull = (np.full(2, 0.5), 0.0, 0.1, 0.1)
    sarah_steps(*items, x, before, u, one, *pull, np.arange(2), np.array([0]), -1, np.zeros(2))
    assert np.allclose(u, [3, 0])
    assert np.allclose(before, [1, 0])
    assert np.allclose(x, [0.65, 0])


def test_a_subset_without_items_still_moves_along_the_anchor():
    x = np.array([1.0])
    one = np.ones(1)
    items = (np.array([[1.0]]), one, one, SQUARED, False)
    pull = (np.zeros(1), 0.0, 0.1, 0.1)
    nothing = (np.zeros(2, np.int64), np.empty(0, np.int64))
    state = (x, np.array([3.0]), np.zeros(1), one)
    anchored_steps(*items, *state, *pull, *nothing, *nothing, 0, -1, *np.zeros((3, 1)))
    assert np.isclose(x[0], 0.7)


@pytest.mark.parametrize("rows", [np.asarray, csr], ids=["dense", "csr"])
@pytest.mark.parametrize("batch", [1, 2])
def test_an_intercept_has_its_own_step_size(rows, batch):
    """Squared loss, targets 1, from zero: slope -1 of each of the two rows (1, 0) and (0, 2).

    x = -0.1 c a for the coefficients, 0.5 of the same for the intercept."""
    x = np.zeros(3)
    one = np.ones(2)
    items = (rows(np.array([[1.0, 0.0], [0.0, 2.0]])), one, one, SQUARED, True)
    pull = (np.zeros(3), 0.0, 0.1, 0.5)
    nothing = (np.zeros(2, np.int64), np.empty(0, np.int64))
    draws = (np.array([0, batch]), np.arange(2)[:batch])
    state = (x, np.zeros(3), np.zeros(2), one)
    anchored_steps(*items, *state, *pull, *draws, *nothing, 0, -1, *np.zeros((3, 3)))
    assert np.allclose(x, [0.1, 0.2 * (batch == 2), 0.5 * batch])
