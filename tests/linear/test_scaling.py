"""Units of features: the same scores, features of any size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from impsamp import VRClassifier
from impsamp.linear.scaling import as_rows, moments, scaling_of


@settings(max_examples=30, deadline=None)
@given(powers=st.lists(st.integers(-12, 12), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_scores_are_the_same_in_both_units(powers, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, 3)) * 10.0 ** np.array(powers) + rng.normal(size=3)
    c = np.full(30, 1 / 30)
    to = scaling_of(X, c, True)
    theta = rng.normal(size=(2, 4)) / np.r_[np.abs(X).max(axis=0), 1]
    inside = to.enter(theta, True)
    scores = X @ theta[:, :3].T + theta[:, 3]
    again = to.rows(X) @ inside[:, :3].T + inside[:, 3]
    assert np.allclose(scores, again, atol=1e-9)
    assert np.allclose(to.leave(inside, True), theta, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1e-160, 1.0, 1e160])
def test_moments_of_features_of_any_size(size):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 2)) * size
    c = np.full(100, 0.01)
    mean, spread = moments(X, c, True)
    assert np.allclose(mean / size, (X / size).mean(axis=0))
    assert np.allclose(spread / size, (X / size).std(axis=0))
    spread = moments(sparse.csr_matrix(X), c, False)[1]
    assert np.allclose(spread / size, np.sqrt(((X / size) ** 2).mean(axis=0)))


def test_sparse_rows_keep_their_zeros():
    X = sparse.random_array((500, 400), density=0.02, format="csr", rng=0)
    X = X @ sparse.diags_array(10.0 ** np.linspace(-3, 3, 400))
    to = scaling_of(X, np.full(500, 1 / 500), False)
    assert to.moved
    assert to.rows(X).nnz == X.nnz


def test_what_is_even_already_is_not_copied():
    X = np.random.default_rng(0).normal(size=(50, 3))
    to = scaling_of(X, np.full(50, 0.02), True)
    assert to.rows(X) is X


def test_dense_enough_is_dense():
    thick = sparse.random_array((2000, 200), density=0.3, format="csr", rng=0)
    thin = sparse.random_array((2000, 200), density=0.01, format="csr", rng=0)
    assert isinstance(as_rows(thick), np.ndarray)
    assert sparse.issparse(as_rows(thin))
    assert as_rows(np.ones((2, 2), np.float32)).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_array_of_zeros_is_computed_with_as_csr_only_where_centring_gains_nothing(dtype):
    X = sparse.random_array((3000, 400), density=0.03, rng=0).toarray().astype(dtype)
    thin = as_rows(X, thin=True)
    assert sparse.issparse(thin) and (thin != sparse.csr_matrix(X)).nnz == 0
    assert as_rows(X).dtype == np.float64 and isinstance(as_rows(X), np.ndarray)
    X[:, 3] = 2000  # a year: constant but for little, so it wants its mean taken off
    assert isinstance(as_rows(X, thin=True), np.ndarray)


def test_a_thin_array_and_its_csr_have_one_fit():
    X = sparse.random_array((3000, 400), density=0.03, rng=0)
    y = np.asarray(X.sum(axis=1)).ravel() > 6
    array = VRClassifier(l2=1e-2).fit(X.toarray(), y)
    rows = VRClassifier(l2=1e-2).fit(sparse.csr_matrix(X), y)
    assert np.allclose(array.coef_, rows.coef_, atol=1e-9)
    assert array.gap_[0] < 1e-6
