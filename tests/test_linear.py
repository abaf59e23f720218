"""Every method with every sampling: against scipy, against the slow engine on the same draws, dense against CSR."""
import numpy as np
import pytest
from scipy import optimize, sparse

from impsamp.linear import minimize
from impsamp.minibatch_theory import minibatch_probabilities
from impsamp.problems import LogisticRegression, SigmoidLeastSquares
from impsamp.samplers import ApproximateIndependentSampling, IndependentSampling, NiceSampling, SerialSampling

N, B = 40, 4
METHODS = {"svrg": ("svrg", False), "saga": ("saga", False), "saga, one draw": ("saga", True), "sarah": ("sarah", False), "sgd": ("sgd", False)}
SAMPLINGS = ("nice", "independent", "approximate", "serial")


def features(seed=0, n=N, k=5):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) * np.exp(.7 * rng.normal(size=(n, 1))) * (rng.random((n, k)) < .7)
    return X, (rng.random(n) < .5) * 1


def sampling(name, L, b=B):
    if name == "nice": return NiceSampling(L.size, b)
    if name == "serial": return SerialSampling(L / L.sum())
    return {"independent": IndependentSampling, "approximate": ApproximateIndependentSampling}[name](minibatch_probabilities(L, b))


@pytest.fixture(scope="module")
def logistic():
    X, y = features()
    problem = LogisticRegression(X, y, l2=.3)
    solution = optimize.minimize(problem.loss, np.zeros(problem.d), jac=problem.grad, method="BFGS", options=dict(gtol=1e-13)).x
    return problem, LogisticRegression(sparse.csr_matrix(X), y, l2=.3), solution


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("method", [m for m in METHODS if m != "sgd"])
def test_same_stationary_point_as_scipy(logistic, method, name):
    dense, csr, solution = logistic
    how, one_draw = METHODS[method]
    for problem in (dense, csr):
        r = minimize(problem, how, sampling(name, problem.L), lr="convex", one_draw=one_draw, max_passes=4000, tol=1e-11, record_every=5,
                     generator=np.random.default_rng(1))
        assert r.converged, (r.plan.rule, r.records[-1])
        assert np.abs(r.x - solution).max() < 1e-8


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("extra", [dict(l2=.1), dict(), dict(l2=.1, nonconvex=.2)], ids=["l2", "plain", "nonconvex"])
@pytest.mark.parametrize("method", METHODS)
def test_compiled_engine_equals_the_slow_one_step_for_step(method, extra, intercept):
    X, y = features(3)
    how, one_draw = METHODS[method]
    rng = np.random.default_rng(5)
    draws = [rng.choice(N, size=rng.integers(0, 6), replace=False) for _ in range(60)]
    tables = [rng.choice(N, size=3, replace=False) for _ in range(60)] if method == "saga" else None
    ends = []
    for A, engine in ((X, "reference"), (X, "compiled"), (sparse.csr_matrix(X), "compiled")):
        problem = SigmoidLeastSquares(A, y, reading="pm1", fit_intercept=intercept, **extra)
        r = minimize(problem, how, IndependentSampling(minibatch_probabilities(problem.L, B)), lr=.1, inner_steps=17, one_draw=one_draw, engine=engine,
                     draws=draws, table_draws=tables, max_passes=10_000, output="last", record_every=.3, x0=rng.normal(size=problem.d) * 0 + .1)
        assert r.records[-1]["step"] >= 60
        ends.append(r.x)
    assert np.abs(ends[0]).max() > .05
    assert np.abs(ends[1] - ends[0]).max() < 1e-12 and np.abs(ends[2] - ends[0]).max() < 1e-12
