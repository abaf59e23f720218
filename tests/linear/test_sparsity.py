"""l1 and elastic net: scikit-learn's solutions to 1e-6."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import ElasticNet, LogisticRegression

from impsamp.linear.composites import Composite
from impsamp.linear.second_order import Progress, point_at
from impsamp.linear.sparsity import lasso_descent, on_working_sets
from impsamp.linear.strategy import solve


def data(n=120, k=200, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) * (rng.random((n, k)) < 0.5)
    return X, X[:, :4] @ [1, -1, 2, 0.5] + rng.normal(size=n)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_elastic_net(kind, ratio):
    X, y = data()
    l1, l2 = 0.1 * ratio, 0.1 * (1 - ratio)
    f = Composite(kind(X), y, np.ones(len(y)), loss="squared", l2=l2, l1=l1)
    run = Progress(tol=1e-12, max_iter=500)
    mine = on_working_sets(f, point_at(f, f.start), run)
    theirs = ElasticNet(alpha=0.1, l1_ratio=ratio, tol=1e-13, max_iter=10**5).fit(X, y)
    assert run.converged
    assert np.allclose(mine.theta[0, :-1], theirs.coef_, atol=1e-6)
    assert np.isclose(mine.theta[0, -1], theirs.intercept_, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_l1_logistic_and_multinomial(classes):
    X, y = data(k=20)
    t = np.digitize(y, [0] if classes == 2 else [-1, 1])
    loss = "logistic" if classes == 2 else "multinomial"
    labels = np.where(t > 0, 1.0, -1.0) if classes == 2 else t
    K = 1 if classes == 2 else 3
    f = Composite(X, labels, np.ones(len(y)), loss=loss, l2=0.0, l1=0.02, classes=K)
    run = Progress(tol=1e-10, max_iter=500)
    mine = solve(f, f.start, run, np.random.default_rng(0))
    assert run.converged
    theirs = LogisticRegression(
        C=1 / (0.02 * len(y)), l1_ratio=1.0, solver="saga", tol=1e-7, max_iter=20000
    )
    assert np.allclose(mine.theta[:, :-1], theirs.fit(X, t).coef_, atol=1e-5)
    assert (mine.theta[:, :-1] == 0).any()


def test_descent_on_a_quadratic_meets_the_conditions_of_a_minimum():
    rng = np.random.default_rng(0)
    B = rng.normal(size=(30, 8))
    H = B.T @ B
    g0 = 10 * rng.normal(size=8)
    x = np.zeros(8)
    g = g0.copy()
    l1 = np.full(8, 3.0)
    lasso_descent(H, g, x, l1, 10**5, 0.0)
    assert np.allclose(g, g0 + H @ x)
    on = x != 0
    assert np.allclose(g[on], -3 * np.sign(x[on]))
    assert (np.abs(g[~on]) <= 3 + 1e-9).all()
