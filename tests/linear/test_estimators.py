"scikit-learn's own checks, whole; weights that are copies; the answers of other solvers."

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.estimator_checks import check_estimator

from impsamp.errors import InvalidArgument, UnknownName
from impsamp.linear.estimators import VRClassifier, VRRegressor, fingerprints, merge_rows

# needs SCIPY_ARRAY_API in the environment
MAY_BE_SKIPPED = {"check_array_api_input"}


@pytest.mark.parametrize(
    "estimator", [VRClassifier(), VRRegressor()], ids=["classifier", "regressor"]
)
def test_scikit_learns_checks_pass_whole(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_fail=None, on_skip=None)
    assert {r["check_name"] for r in results if r["status"] not in ("passed", "skipped")} == set()
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= MAY_BE_SKIPPED
    assert len(results) > 40


def newton(l2, weights, **options):
    "scikit-learn's Newton method on the objective of `VRClassifier`."
    return LogisticRegression(C=1 / (l2 * np.sum(weights)), solver="newton-cholesky", **options)


def data(n=80, k=4, seed=0):
    "Rows on four different scales, rounded so that some repeat in part; labels; a generator."
    rng = np.random.default_rng(seed)
    X = np.round(rng.normal(size=(n, k)), 1) * [1, 10, 100, 0.1][:k]
    return X, (X @ [1, -0.1, 0.01, 5] + rng.normal(size=n) > 0) * 1, rng


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_a_weight_of_two_is_two_copies_to_the_last_bit(kind):
    X, y, rng = data()
    weight = rng.integers(0, 4, size=len(y))
    order = rng.permutation(len(y))
    many = VRClassifier(l2=0.1, max_iter=20, random_state=1)
    many.fit(kind(X.repeat(weight, axis=0)), y.repeat(weight))
    once = VRClassifier(l2=0.1, max_iter=20, random_state=1)
    once.fit(kind(X[order]), y[order], sample_weight=weight[order])
    assert np.array_equal(many.coef_, once.coef_)
    assert np.array_equal(many.intercept_, once.intercept_)


def test_merging_keeps_different_rows_apart():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, size=(2000, 3)).astype(float)
    t = rng.integers(0, 2, size=2000).astype(float)
    _, b, w = merge_rows(X, t, np.ones(2000))
    assert len(b) == len(np.unique(np.c_[X, t], axis=0))
    assert w.sum() == 2000


def test_fingerprints_see_content_only():
    "Dense or CSR, wherever the row stands, whatever the sign of a zero; and the target counts."
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, size=(50, 3)).astype(float)
    t = rng.integers(0, 2, size=50).astype(float)
    prints = fingerprints(X, t)
    assert np.array_equal(fingerprints(sparse.csr_matrix(X), t), prints)
    assert np.array_equal(fingerprints(X[::-1], t[::-1]), prints[::-1])
    assert np.array_equal(fingerprints(np.where(X == 0, -0.0, X), t), prints)
    assert (fingerprints(X, 1 - t) != prints).all()


@pytest.mark.parametrize("method", ["saga", "svrg", "sarah"])
@pytest.mark.parametrize("sampling", ["importance", "uniform"])
def test_the_minimum_is_that_of_newtons_method(method, sampling):
    X, y, rng = data()
    weight = rng.random(len(y)) + 0.1
    mine = VRClassifier(method, sampling, l2=0.05, tol=1e-9, max_iter=3000, random_state=0)
    mine.fit(X, y, weight)
    theirs = newton(0.05, weight, tol=1e-13, max_iter=500).fit(X, y, weight)
    assert np.allclose(mine.coef_, theirs.coef_, atol=1e-7)
    assert np.allclose(mine.intercept_, theirs.intercept_, atol=1e-7)
    assert np.allclose(mine.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


def test_raw_breast_cancer_with_few_passes():
    X, y = load_breast_cancer(return_X_y=True)
    f = VRClassifier(l2=1e-2, max_iter=300, random_state=0).fit(X, y)
    best = newton(1e-2, np.ones(len(y)), tol=1e-12, max_iter=1000).fit(X, y)

    def objective(e):
        margins = (2 * y - 1) * e.decision_function(X)
        return np.mean(np.logaddexp(0, -margins)) + 0.005 * np.sum(e.coef_**2)

    assert objective(f) - objective(best) < 1e-6


def test_regressor_equals_ridge_dense_and_sparse():
    X, _, rng = data()
    y = X @ [1, -0.1, 0.01, 5] + 7 + rng.normal(size=len(X))
    exact = Ridge(alpha=0.1 * len(y)).fit(X, y)
    mine = VRRegressor(l2=0.1, tol=1e-10, max_iter=2000, random_state=0).fit(X, y)
    assert np.allclose(mine.coef_, exact.coef_, atol=1e-7)
    assert np.isclose(mine.intercept_, exact.intercept_)
    scaled = X / X.std(axis=0)
    exact = Ridge(alpha=0.1 * len(y)).fit(scaled, y)
    thin = VRRegressor(l2=0.1, tol=1e-10, max_iter=3000, random_state=0)
    thin.fit(sparse.csr_matrix(scaled), y)
    assert np.allclose(thin.predict(scaled), exact.predict(scaled), atol=1e-6)


def test_classes_of_any_kind_and_probabilities():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])
    f = VRClassifier(l2=1e-2, max_iter=300, random_state=0).fit(X, names[y])
    assert f.score(X, names[y]) > 0.93
    assert f.coef_.shape == (3, 4)
    assert f.n_iter_.shape == (3,)
    p = f.predict_proba(X)
    assert np.allclose(p.sum(axis=1), 1)
    assert (names[p.argmax(axis=1)] == f.predict(X)).all()
    wide = f.predict_proba(np.full((1, 4), -1e6))
    assert np.isfinite(wide).all()
    assert np.isclose(wide.sum(), 1)


def test_warm_start_and_callback():
    X, y, _ = data()
    f = VRClassifier(l2=0.05, tol=1e-9, max_iter=3000, warm_start=True, random_state=0).fit(X, y)
    cold = f.n_iter_[0]
    again = f.fit(X, y).n_iter_[0]
    assert again <= 2 < cold
    rows = []

    def fourth(row):
        rows.append(row)
        return len(rows) == 4

    VRClassifier(callback=fourth, random_state=0).fit(X, y)
    assert len(rows) == 4
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_class_without_weight_is_absent():
    X, y = load_iris(return_X_y=True)
    f = VRClassifier(random_state=0, l2=1e-2).fit(X, y, sample_weight=(y < 2) * 1.0)
    assert f.classes_.tolist() == [0, 1]
    assert f.coef_.shape == (1, 4)


@pytest.mark.parametrize(
    "options, error",
    [
        (dict(method="sag"), UnknownName),
        (dict(sampling="some"), UnknownName),
        (dict(l2=-1), InvalidArgument),
        (dict(tol=np.nan), InvalidArgument),
        (dict(max_iter=0), InvalidArgument),
    ],
)
def test_bad_parameters(options, error):
    X, y, _ = data()
    with pytest.raises(error):
        VRClassifier(**options).fit(X, y)


def test_a_single_class_and_no_weight():
    X, y, _ = data()
    with pytest.raises(InvalidArgument, match="only one class"):
        VRClassifier().fit(X, np.ones(len(y)))
    with pytest.raises(ValueError, match=r"zero|Sample weights"):
        VRClassifier().fit(X, y, sample_weight=np.zeros(len(y)))
    assert clone(VRClassifier(l2=3)).l2 == 3


def test_rows_of_very_different_size_do_not_leave_saga_with_stale_slopes():
    """With p_i proportional to L_i alone the smallest rows are refreshed every few hundred passes.

    And so many it takes."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 6)) * np.exp(1.5 * rng.normal(size=(2000, 1)))
    direction = rng.normal(size=6)
    y = X @ direction / np.linalg.norm(X, axis=1) + rng.normal(size=2000) > 0
    fit = VRClassifier(l2=1e-3, random_state=0, max_iter=60).fit(X, y)
    assert fit.history_[0][-1]["grad_norm"] <= fit.tol
