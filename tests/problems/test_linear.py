"""Linear sums: gradients by differences, bounds, refusals by name, sparse never made dense."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from impsamp.errors import (
    DataError,
    InvalidArgument,
    InvalidScores,
    InvalidShape,
    UnknownName,
)
from impsamp.problems import LeastSquares, LogisticRegression, SigmoidLeastSquares
from tests.problems.helpers import central_differences, two_classes


def sigmoid_pm1(*args, **kwargs):
    return SigmoidLeastSquares(*args, reading="pm1", **kwargs)


MAKERS = {
    "logistic": LogisticRegression,
    "squares": LeastSquares,
    "sigmoid 01": SigmoidLeastSquares,
    "sigmoid pm1": sigmoid_pm1,
}


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    l2=st.sampled_from([0.0, 0.3]),
    nonconvex=st.sampled_from([0.0, 0.7]),
    intercept=st.booleans(),
)
def test_gradient_constants_and_items(name, seed, l2, nonconvex, intercept):
    X, y = two_classes(seed)
    rng = np.random.default_rng(seed)
    f = MAKERS[name](
        X,
        y,
        l2=l2,
        nonconvex=nonconvex,
        fit_intercept=intercept,
        sample_weight=rng.random(15) + 0.1,
    )
    x, z = rng.normal(size=f.d), rng.normal(size=f.d)
    gradient = f.grad(x)
    bar = 1e-6 * (1 + np.abs(gradient).max())
    assert np.allclose(central_differences(f, x), gradient, atol=bar)
    every = np.arange(f.n)
    assert np.allclose(f.grad_items(x, every).mean(axis=0), gradient)
    assert np.isclose(f.loss_items(x).mean(), f.loss(x))
    change = np.linalg.norm(f.grad_items(x, every) - f.grad_items(z, every), axis=1)
    assert (change <= f.L * np.linalg.norm(x - z) * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", MAKERS)
def test_the_constant_is_attained(name):
    "c is the least bound: along one row the curvature of the loss comes within two per cent of it."
    f = MAKERS[name]([[1.0], [1.0]], [0, 1])
    grid = np.linspace(-8, 8, 160_001)[::400]
    slopes = np.array([f.grad_items([t], [0, 1])[:, 0] for t in grid])
    curvature = np.abs(np.diff(slopes, axis=0)).max(axis=0) / (grid[1] - grid[0])
    assert (curvature > 0.98 * f.L).all()


def test_floats_stay_and_integers_become_float64():
    X, y = two_classes()
    assert LogisticRegression(X.astype(np.float32), y).dtype == np.float32
    assert LogisticRegression(X.astype(int), y).dtype == np.float64


def test_sparse_is_never_made_dense(monkeypatch):
    S = sparse.random(50, 10**6, density=1e-5, format="csr", random_state=0)
    for name in ("toarray", "todense"):
        monkeypatch.setattr(sparse.csr_matrix, name, lambda *a, **k: pytest.fail("made dense"))
    f = SigmoidLeastSquares(S, np.arange(50) % 2)
    assert f.is_sparse
    assert f.grad(np.zeros(f.d)).shape == (10**6,)
    assert np.isfinite(f.loss(np.zeros(f.d)))


def test_unsorted_and_duplicate_entries_mean_their_sum():
    entries = np.array([1.0, 2.0, 3.0, 4.0])
    columns = np.array([2, 0, 2, 1])
    messy = sparse.csr_matrix((entries, columns, np.array([0, 3, 4])), shape=(2, 3))
    before = messy.indices.copy()
    f = LogisticRegression(messy, [0, 1])
    assert np.allclose(f.L, np.array([4 + 16, 16]) / 4)
    assert np.array_equal(messy.indices, before)
    dense = LogisticRegression(messy.toarray(), [0, 1])
    assert np.allclose(f.grad(np.ones(3)), dense.grad(np.ones(3)))


def test_rows_of_zeros_are_lifted():
    f = LogisticRegression([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]], [0, 1, 1])
    assert f.L[0] == 0 and f.lifted_smoothness.tolist() == [0.5, 0.5, 1.0]
    with pytest.raises(DataError, match="every row of X is zero"):
        _ = LogisticRegression(np.zeros((2, 2)), [0, 1]).lifted_smoothness


def test_no_overflow_in_exp():
    f = LogisticRegression([[1e4], [-1e4]], [1, 0])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for x in (1.0, -1.0):
            assert np.isfinite(f.loss([x])) and np.isfinite(f.grad([x])).all()
    g = SigmoidLeastSquares([[1e4], [-1e4]], [1, 0])
    assert g.saturation([1.0]) == 1 and g.saturation([0.0]) == 0


@pytest.mark.parametrize(
    "X, y, error, what",
    [
        ([[1.0], [np.nan]], [0, 1], DataError, "row 1"),
        ([[1.0], [np.inf]], [0, 1], DataError, "row 1"),
        ([["a"], ["b"]], [0, 1], DataError, "not numeric"),
        ([[1.0], [2.0]], [1, 1], DataError, "single class"),
        ([[1.0], [2.0]], [0, 2], DataError, "labels must be"),
        ([[1.0], [2.0]], [-1, 0], DataError, "labels must be"),
        ([[1.0], [2.0]], ["x", "y"], DataError, "labels must be"),
        ([[1.0], [2.0]], [np.nan, 1], DataError, "labels must be"),
        ([[1.0], [2.0]], [0, 1, 1], InvalidShape, "one label per row"),
        (np.zeros((0, 2)), [], InvalidShape, "at least one row"),
        ([1.0, 2.0], [0, 1], InvalidShape, "matrix"),
        ([[1e200], [1.0]], [0, 1], DataError, "overflow"),
    ],
)
def test_bad_data(X, y, error, what):
    with pytest.raises(error, match=what):
        LogisticRegression(X, y)


@pytest.mark.parametrize(
    "options, error, what",
    [
        (dict(l2=-1), InvalidArgument, "l2"),
        (dict(l2=np.nan), InvalidArgument, "l2"),
        (dict(nonconvex=-0.1), InvalidArgument, "nonconvex"),
        (dict(l2=[1, 2, 3]), InvalidShape, "l2"),
        (dict(sample_weight=[0, 0]), InvalidScores, "all zero"),
        (dict(sample_weight=[1, -1]), InvalidScores, "negative"),
        (dict(reading="02"), UnknownName, "choose from 01, pm1"),
    ],
)
def test_bad_options(options, error, what):
    with pytest.raises(error, match=what):
        SigmoidLeastSquares([[1.0], [2.0]], [0, 1], **options)


def test_targets_of_least_squares():
    with pytest.raises(DataError, match="index 1"):
        LeastSquares([[1.0], [2.0]], [0, np.inf])
    with pytest.raises(InvalidShape):
        LeastSquares([[1.0], [2.0]], [[0.0], [1.0]])


def test_a_problem_says_what_it_is():
    X = sparse.csr_matrix(np.eye(2, dtype=np.float32))
    shown = repr(SigmoidLeastSquares(X, [0, 1], fit_intercept=True))
    assert shown == "SigmoidLeastSquares(n=2, d=3, CSR float32, sigmoid01)"
