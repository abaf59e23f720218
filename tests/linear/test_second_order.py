"""Newton's method, the local bound, the sample of rows, and L-BFGS in its coordinates."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from impsamp.linear.composites import Composite, hessian
from impsamp.linear.second_order import (
    Progress,
    by_factor,
    by_scale,
    factorise,
    lbfgs,
    local_gap,
    newton,
    point_at,
    row_sizes,
    sampled_factor,
    sampled_rows,
)


def problem(l2=1e-3, n=200, k=4, seed=0, loss="logistic"):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) @ rng.normal(size=(k, k))
    raw = X[:, 0] + 2 * rng.normal(size=n)
    t = {"logistic": np.sign(raw), "squared": raw, "multinomial": np.digitize(raw, [-1, 1])}
    classes = 3 if loss == "multinomial" else 1
    return Composite(X, t[loss], rng.random(n), loss=loss, l2=l2, classes=classes)


def best_value(f):
    def objective(x):
        theta = x.reshape(f.K, f.d)
        Z = f.scores(theta)
        return f.value(Z, theta), f.gradient(Z, theta).ravel()

    options = dict(gtol=1e-12, maxiter=2000)
    return scipy_minimize(objective, f.start.ravel(), jac=True, options=options).fun


@pytest.mark.parametrize("loss", ["logistic", "squared", "multinomial"])
@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_newton_finds_scipys_minimum(loss, l2):
    f = problem(l2, loss=loss)
    run = Progress(tol=1e-9, max_iter=50)
    at = newton(f, f.start, run)
    assert run.converged
    assert abs(at.value - best_value(f)) < 1e-8


@pytest.mark.parametrize("l2", [0.0, 1e-2])
def test_the_local_bound_holds_wherever_it_is_finite(l2):
    f = problem(l2, seed=3)
    best = best_value(f)
    rng = np.random.default_rng(0)
    end = newton(f, f.start, Progress(tol=1e-12, max_iter=50)).theta
    finite = 0
    for size in (1e-3, 1e-2, 0.03, 0.1, 0.3):
        at = point_at(f, end + size * rng.normal(size=end.shape))
        bound = local_gap(f, at, factorise(hessian(f, at.Z)))
        assert at.value - best <= bound + 1e-12
        finite += np.isfinite(bound)
    assert finite >= 3
    assert bound < np.inf or size > 0.1


def test_a_sample_of_rows_is_unbiased_over_all_draws():
    "Two draws from four rows, all sixteen: the mean of the weighted sum is the sum."
    score = np.array([1.0, 2.0, 3.0, 14.0])
    q = score / score.sum()
    v = np.array([0.3, 1.0, -2.0, 5.0])

    class Fixed:
        def __init__(self, draws):
            self.draws = draws

        def multinomial(self, m, p):
            assert np.allclose(p, q) and m == 1
            return np.bincount(self.draws, minlength=4)

    mean = 0.0
    for draw in itertools.product(range(4), repeat=1):
        rows, weight = sampled_rows(score, 1, Fixed(draw))
        mean += np.prod(q[list(draw)]) * (weight * v[rows]).sum()
    assert np.isclose(mean, v.sum())


def test_rows_are_all_taken_where_few_are_left_out():
    rows, weight = sampled_rows(np.ones(10), 6, np.random.default_rng(0))
    assert rows.tolist() == list(range(10))
    assert (weight == 1).all()


@pytest.mark.parametrize("loss", ["logistic", "multinomial"])
def test_lbfgs_needs_fewer_iterations_in_the_sampled_coordinates(loss):
    f = problem(1e-4, n=3000, k=20, loss=loss)
    start = newton(f, f.start, Progress(tol=0.3, max_iter=2))
    sizes = row_sizes(f, np.ones(f.k))
    to = by_factor(sampled_factor(f, start.Z, sizes, np.random.default_rng(0)))
    counts = []
    for coordinates in (to, by_scale(np.ones(f.d))):
        run = Progress(tol=1e-6, max_iter=500)
        lbfgs(f, point_at(f, start.theta), coordinates, run)
        assert run.converged
        counts.append(run.iterations)
    assert counts[0] < 0.5 * counts[1]


def test_a_singular_matrix_is_lifted_by_little():
    factor = factorise(np.ones((3, 3)))
    lifted = factor.L @ factor.L.T
    assert np.abs(lifted - 1).max() < 1e-12


def test_iterations_end_with_max_iter():
    f = problem(1e-6)
    run = Progress(tol=1e-14, max_iter=2)
    newton(f, f.start, run)
    assert run.iterations == 2 and not run.converged
