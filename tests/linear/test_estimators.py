"scikit-learn's own checks, whole; weights that are copies; the answers of other solvers."

import doctest
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from impsamp.errors import InvalidArgument, UnknownName
from impsamp.linear.composites import Composite, best_intercepts, duality_gap
from impsamp.linear.estimators import VRClassifier, VRRegressor

# needs SCIPY_ARRAY_API in the environment
MAY_BE_SKIPPED = {"check_array_api_input"}


QUICK = [
    VRClassifier(),
    VRRegressor(),
    VRClassifier(multi_class="ovr"),
    VRClassifier(l1_ratio=0.5, l2=1e-2),
    VRRegressor(l1_ratio=1.0, l2=1e-2),
    VRRegressor(method="saga"),
    VRRegressor(method="svrg"),
    VRRegressor(method="sarah"),
]
LONG = [VRClassifier(method=method) for method in ("saga", "svrg", "sarah")]
LONG.append(VRClassifier(method="saga", l1_ratio=0.5, l2=1e-2))


@pytest.mark.parametrize(
    "estimator",
    [*QUICK, *(pytest.param(e, marks=pytest.mark.full) for e in LONG)],
    ids=str,
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
    many = VRClassifier("saga", l2=0.1, max_iter=100, random_state=1)
    many.fit(kind(X.repeat(weight, axis=0)), y.repeat(weight))
    once = VRClassifier("saga", l2=0.1, max_iter=100, random_state=1)
    once.fit(kind(X[order]), y[order], sample_weight=weight[order])
    assert np.array_equal(many.coef_, once.coef_)
    assert np.array_equal(many.intercept_, once.intercept_)


@pytest.mark.parametrize("method", ["saga", "svrg", "sarah"])
@pytest.mark.parametrize("sampling", ["importance", "uniform"])
def test_the_minimum_is_that_of_newtons_method(method, sampling):
    X, y, rng = data()
    weight = rng.random(len(y)) + 0.1
    mine = VRClassifier(method, sampling, l2=0.05, tol=1e-13, max_iter=3000, random_state=0)
    mine.fit(X, y, weight)
    theirs = newton(0.05, weight, tol=1e-13, max_iter=500).fit(X, y, weight)
    assert np.allclose(mine.coef_, theirs.coef_, atol=1e-6)
    assert np.allclose(mine.intercept_, theirs.intercept_, atol=1e-6)
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
    mine = VRRegressor(l2=0.1).fit(X, y)
    assert np.allclose(mine.coef_, exact.coef_, atol=1e-7)
    assert np.isclose(mine.intercept_, exact.intercept_)
    scaled = X / X.std(axis=0)
    exact = Ridge(alpha=0.1 * len(y)).fit(scaled, y)
    thin = VRRegressor(l2=0.1, random_state=0)
    thin.fit(sparse.csr_matrix(scaled), y)
    assert np.allclose(thin.predict(scaled), exact.predict(scaled), atol=1e-6)


@pytest.mark.parametrize("multi_class, problems", [("multinomial", 1), ("ovr", 3)])
def test_classes_of_any_kind_and_probabilities(multi_class, problems):
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])
    f = VRClassifier(multi_class=multi_class).fit(X, names[y])
    assert f.score(X, names[y]) > 0.95
    assert f.coef_.shape == (3, 4)
    assert f.n_iter_.shape == (problems,)
    p = f.predict_proba(X)
    assert np.allclose(p.sum(axis=1), 1)
    assert (names[p.argmax(axis=1)] == f.predict(X)).all()
    wide = f.predict_proba(np.full((1, 4), -1e6))
    assert np.isfinite(wide).all()
    assert np.isclose(wide.sum(), 1)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_the_multinomial_solution_is_scikit_learns(ratio):
    X, y = load_iris(return_X_y=True)
    weight = np.random.default_rng(0).random(len(y)) + 0.1
    C = 1 / (1e-2 * weight.sum())
    solver = "saga" if ratio else "newton-cholesky"
    theirs = LogisticRegression(C=C, l1_ratio=ratio, solver=solver, tol=1e-11, max_iter=10**5)
    theirs.fit(X, y, weight)
    mine = VRClassifier(l2=1e-2, l1_ratio=ratio, tol=1e-13).fit(X, y, weight)
    assert np.allclose(mine.coef_, theirs.coef_, atol=1e-6)
    assert np.allclose(mine.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


def test_class_weights_are_weights():
    X, y, rng = data()
    weight = rng.random(len(y))
    mine = VRClassifier(class_weight={0: 2.0, 1: 5.0}).fit(X, y, weight)
    same = VRClassifier().fit(X, y, weight * np.where(y == 1, 5.0, 2.0))
    assert np.allclose(mine.coef_, same.coef_, rtol=1e-8)
    theirs = newton(1e-4, np.ones(len(y)), class_weight="balanced", tol=1e-10).fit(X, y)
    mine = VRClassifier(class_weight="balanced", l2=1e-4).fit(X, y)
    assert np.allclose(mine.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("method", ["auto", "saga"])
def test_warm_start_and_callback(method, capsys):
    X, y, _ = data()
    f = VRClassifier(method, l2=0.05, warm_start=True, random_state=0).fit(X, y)
    cold = f.n_iter_[0]
    assert f.fit(X, y).n_iter_[0] <= 2 < cold
    rows = []

    def third(row):
        rows.append(row)
        return len(rows) == 3

    VRClassifier(method, tol=1e-12, callback=third, verbose=1, random_state=0).fit(X, y)
    assert len(rows) == 3
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert set(rows[0]) >= {"iteration", "loss", "gap", "phase"}
    assert capsys.readouterr().out.count("relative gap") == 3


def test_a_warm_start_from_other_classes_begins_anew():
    X, y = load_iris(return_X_y=True)
    f = VRClassifier(warm_start=True).fit(X, y)
    cold = VRClassifier().fit(X[y < 2], y[y < 2])
    f.fit(X[y < 2], y[y < 2])
    assert f.classes_.tolist() == [0, 1]
    assert np.allclose(f.coef_, cold.coef_)
    f.fit(X[y > 0], y[y > 0])
    assert f.classes_.tolist() == [1, 2]


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
        (dict(max_iter=None), InvalidArgument),
        (dict(max_iter="a"), InvalidArgument),
        (dict(l1_ratio=1.5), InvalidArgument),
        (dict(l1_ratio=-0.1), InvalidArgument),
        (dict(l1_ratio="a"), InvalidArgument),
        (dict(method="sarah", l1_ratio=0.5), InvalidArgument),
        (dict(multi_class="some"), UnknownName),
        (dict(class_weight="even"), ValueError),
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
    fit = VRClassifier("saga", l2=1e-3, random_state=0, max_iter=60).fit(X, y)
    assert fit.gap_[0] <= fit.tol


ORDINARY = {
    "iris": load_iris,
    "wine": load_wine,
    "digits": load_digits,
    "breast cancer": load_breast_cancer,
    "diabetes": load_diabetes,
}


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("scale", ["raw", "standardised"])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_defaults_converge_on_ordinary_data(name, scale, kind, dtype):
    "No warning; the gap, computed anew from the coefficients in the user's units, within 1e-6."
    X, y = ORDINARY[name](return_X_y=True)
    X = (StandardScaler().fit_transform(X) if scale == "standardised" else X).astype(dtype)
    make = VRRegressor if name == "diabetes" else VRClassifier
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = make(random_state=0).fit(kind(X), y)
    assert (f.gap_ <= 1e-6).all() and (f.n_iter_ <= 1000).all()
    assert gap_of(f, X.astype(np.float64), y, name == "diabetes") <= 1.1e-6


def gap_of(f, X, y, regression):
    coef = np.atleast_2d(f.coef_)
    K = coef.shape[0]
    t = y if K > 1 or regression else np.where(y > 0, 1.0, -1.0)
    loss = "multinomial" if K > 1 else "logistic"
    loss = "squared" if regression else loss
    whole = Composite(X, t, np.ones(len(y)), loss=loss, l2=1e-4, classes=K)
    theta = np.hstack([coef, np.atleast_1d(f.intercept_)[:, None]])
    theta[:, -1] += best_intercepts(whole, theta, whole.scores(theta))
    gap, value = duality_gap(whole, whole.scores(theta), theta)
    return gap / value


def test_wide_regressions_have_no_cliff():
    rng = np.random.default_rng(0)
    for k in (256, 257):
        Z = rng.normal(size=(2000, k)) @ rng.normal(size=(k, k)) / k**0.5
        t = Z @ rng.normal(size=k)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit = VRRegressor(l2=1e-6).fit(Z, t)
        assert fit.score(Z, t) > 0.999999


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_columns_of_very_different_size_in_any_order(order, kind):
    "Sizes from 1e-7 to 1e7: the fit of each estimator is right, or says that it is not."
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 8))
    y = base @ rng.normal(size=8) + 0.3 * rng.normal(size=300)
    X = (base * 10.0 ** np.linspace(-7, 7, 8))[:, ::order]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        free = VRRegressor(l2=0.0).fit(kind(X), y)
    assert np.isclose(free.score(X, y), LinearRegression().fit(base, y).score(base, y), atol=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = VRClassifier(l2=0.0).fit(kind(X), y > 0)
    even = newton(1e-12, np.ones(300), tol=1e-12).fit(base, y > 0)
    assert np.allclose(labels.predict_proba(X), even.predict_proba(base), atol=1e-2)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(class_weight={0: -1}), "class_weight of class 0"),
        (dict(class_weight={0: np.nan}), "class_weight of class 0"),
        (dict(callback=3), "callback"),
        (dict(verbose="a"), "verbose"),
        (dict(fit_intercept="a"), "fit_intercept"),
        (dict(warm_start="a"), "warm_start"),
        (dict(max_iter=None), "max_iter"),
        (dict(max_iter="a"), "max_iter"),
    ],
)
def test_what_a_parameter_cannot_be(options, words):
    with pytest.raises(InvalidArgument, match=words):
        VRClassifier(**options).fit([[0.0], [1.0], [2.0]], [0, 1, 1])


@pytest.mark.parametrize("size", [1e-200, 1e160])
def test_features_of_any_size_without_a_word_of_overflow(size):
    X, y = load_breast_cancer(return_X_y=True)
    y[::7] = 1 - y[::7]  # not separable: there is a minimum without a penalty
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = VRClassifier(max_iter=100).fit(X[:, :4] * size, y)
    assert fit.gap_[0] <= 1e-6


def test_a_tolerance_of_zero_ends_where_rounding_does():
    X, y = load_iris(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match="Rounding allows no more"):
        fit = VRClassifier(tol=0, max_iter=500).fit(X, y)
    assert fit.n_iter_[0] < 50 and fit.gap_[0] < 1e-20


def test_several_separable_classes_without_a_penalty_are_said():
    with pytest.warns(ConvergenceWarning, match="separable"):
        VRClassifier(l2=0).fit([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0, 1, 2])


def test_a_warm_start_from_what_is_no_number_begins_anew():
    X, y = load_iris(return_X_y=True)
    model = VRClassifier(warm_start=True).fit(X, y)
    right = model.coef_.copy()
    model.coef_ *= np.nan
    assert np.allclose(model.fit(X, y).coef_, right)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_targets_of_any_size(size):
    X, _, rng = data()
    y = X @ [1, -0.1, 0.01, 5] + rng.normal(size=len(X))
    unit = VRRegressor().fit(X, y)
    mine = VRRegressor().fit(X, y * size)
    assert np.allclose(mine.coef_ / size, unit.coef_)
    assert np.isclose(mine.intercept_ / size, unit.intercept_)


def test_weights_of_any_skew_and_size():
    X, y, rng = data()
    weight = rng.pareto(1.0, size=len(y)) ** 3 + 1e-6
    one = VRClassifier().fit(X, y, weight)
    many = VRClassifier().fit(X, y, weight * 1e300 / weight.max())
    assert np.allclose(one.coef_, many.coef_, rtol=1e-5)
    with pytest.raises(ValueError, match="NaN"):
        VRClassifier().fit(X, y, np.where(weight > 1, np.nan, 1.0))


def test_one_warning_names_class_and_cure():
    X, y = load_digits(return_X_y=True)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        f = VRClassifier("saga", multi_class="ovr", max_iter=2, random_state=0).fit(X, y)
    assert len(seen) == 1
    assert issubclass(seen[0].category, ConvergenceWarning)
    text = str(seen[0].message)
    for part in ("VRClassifier", "class 3 against the rest", "raise max_iter", "SAGA"):
        assert part in text
    assert (f.n_iter_ <= 2).all()


def test_separable_classes_without_a_penalty_are_said():
    with pytest.warns(ConvergenceWarning, match="separable"):
        VRClassifier(l2=0.0).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])


def test_threads_give_the_same_answer():
    X, y = load_iris(return_X_y=True)
    one = VRClassifier(multi_class="ovr").fit(X, y)
    two = VRClassifier(multi_class="ovr", n_jobs=2).fit(X, y)
    assert np.array_equal(one.coef_, two.coef_)


def test_names_of_columns():
    pandas = pytest.importorskip("pandas")
    X, y, _ = data()
    frame = pandas.DataFrame(X, columns=list("abcd"))
    f = VRClassifier().fit(frame, y)
    assert f.feature_names_in_.tolist() == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        f.predict(frame[list("dcba")])


def test_examples_of_the_docstrings():
    for thing in (VRClassifier, VRRegressor):
        public = [thing, *(getattr(thing, name) for name in METHODS if name in vars(thing))]
        for one in public:
            tests = doctest.DocTestFinder(recurse=False).find(one, one.__qualname__)
            assert sum(len(t.examples) for t in tests) > 0, one
            for test in tests:
                assert doctest.DocTestRunner().run(test).failed == 0


METHODS = ("fit", "predict", "predict_proba", "predict_log_proba", "decision_function")


def test_scikit_learns_examples_with_ours_in_place():
    "From the documentation of LogisticRegression, LogisticRegressionCV's data and GridSearchCV."
    X, y = load_iris(return_X_y=True)
    clf = VRClassifier(random_state=0).fit(X, y)
    assert clf.predict(X[:2, :]).tolist() == [0, 0]
    assert np.allclose(clf.predict_proba(X[:2, :]).sum(axis=1), 1)
    assert clf.score(X, y) > 0.97
    pipe = make_pipeline(StandardScaler(), VRClassifier())
    search = GridSearchCV(pipe, {"vrclassifier__l2": [1e-4, 1e-2]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.94
    chosen = SelectFromModel(VRClassifier(l2=0.05, l1_ratio=1.0)).fit(X, y)
    assert chosen.transform(X).shape[1] < 4
    assert cross_val_score(VRRegressor(), *load_diabetes(return_X_y=True), cv=3).mean() > 0.3
