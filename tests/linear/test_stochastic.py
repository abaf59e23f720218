"""Laws of the draws, and epochs that end where Newton's method does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from impsamp.linear.composites import Composite
from impsamp.linear.second_order import Progress, newton, point_at
from impsamp.linear.stochastic import half_and_half, law, saga_law, smoothness, stochastic


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=20),
    st.floats(0, 1e9),
)
def test_half_and_half_is_within_two_of_the_best_law_for_every_mu(L, mu):
    L = np.array(L)
    best = saga_law(L, mu)
    mine = half_and_half(L)
    assert (mine >= best / 2 * (1 - 1e-12)).all()
    assert 1 / mine.min() <= 2 / best.min() * (1 + 1e-12)
    assert (L / mine).max() <= 2 * (L / best).max() * (1 + 1e-12)


def test_smoothness_bounds_curvature_and_zero_rows_are_drawn():
    X = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    weight = np.array([1.0, 1.0, 2.0])
    f = Composite(X, np.array([1.0, -1, 1]), weight, loss="logistic", l2=0.0, fit_intercept=False)
    L = smoothness(f)
    assert np.allclose(L, 3 * np.array([25 / 4, 2 / 4, 2 / 4]) / 4)
    assert (law(L, "svrg", "importance") > 0).all()
    assert np.allclose(law(L, "svrg", "uniform"), 1 / 3)


@pytest.mark.parametrize("method", ["svrg", "saga"])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_epochs_reach_the_certificate(method, kind, dtype):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(300, 6)) * (rng.random((300, 6)) < 0.5)).astype(dtype)
    t = np.digitize(X[:, 0] + rng.normal(size=300), [-0.7, 0.7])
    weight = rng.pareto(1.0, size=300) + 1e-3
    f = Composite(kind(X), t, weight, loss="multinomial", l2=0.02, classes=3)
    best = newton(f, f.start, Progress(tol=1e-10, max_iter=50)).value
    run = Progress(tol=1e-6, max_iter=400)
    end = stochastic(f, point_at(f, f.start), run, rng, method=method)
    assert run.converged
    assert end.value - best <= 1e-6 * best
    assert run.iterations <= 400


def test_patience_ends_what_is_slow_and_max_iter_what_is_long():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5)) @ np.diag([1, 1, 1, 1, 1e-3])
    f = Composite(X, X @ [0, 0, 0, 0, 1e3] + X[:, 0], np.ones(300), loss="squared", l2=0.0)
    run = Progress(tol=1e-9, max_iter=10**4)
    stochastic(f, point_at(f, f.start), run, rng, patience=True)
    assert run.iterations < 100 and not run.converged
    run = Progress(tol=1e-9, max_iter=7)
    stochastic(f, point_at(f, f.start), run, rng)
    assert run.iterations == 7
