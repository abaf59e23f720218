"`minimize`: its answers against scipy's, its records, what stops it, what it refuses."

import itertools

import numpy as np
import pytest
from scipy import optimize, sparse

from impsamp.errors import (
    DataError,
    InvalidArgument,
    InvalidProbabilities,
    InvalidShape,
    UnknownName,
)
from impsamp.linear import minimize
from impsamp.problems import LogisticRegression, SigmoidLeastSquares
from impsamp.randomness import as_numpy_generator
from impsamp.samplers import IndependentSampling, NiceSampling
from impsamp.theory.minibatch import minibatch_probabilities
from tests.linear import six_items
from tests.linear.helpers import METHODS, SAMPLINGS, B, N, features, sampling


@pytest.fixture(scope="module")
def logistic():
    "(dense problem, the same on CSR rows, its minimum by scipy)."
    X, y = features()
    dense = LogisticRegression(X, y, l2=0.3)
    csr = LogisticRegression(sparse.csr_matrix(X), y, l2=0.3)
    options = dict(jac=dense.grad, method="BFGS", options=dict(gtol=1e-13))
    return dense, csr, optimize.minimize(dense.loss, np.zeros(dense.d), **options).x


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("method", [m for m in METHODS if m != "sgd"])
def test_same_stationary_point_as_scipy(logistic, method, name):
    dense, csr, solution = logistic
    how, one_draw = METHODS[method]
    for problem in (dense, csr):
        r = minimize(
            problem,
            how,
            sampling(name, problem.L),
            lr="convex",
            one_draw=one_draw,
            max_passes=4000,
            tol=1e-11,
            record_every=5,
            generator=np.random.default_rng(1),
        )
        assert r.converged, (r.plan.rule, r.records[-1])
        assert np.abs(r.x - solution).max() < 1e-8


@pytest.mark.parametrize("method", ["svrg", "saga", "sarah", "sgd", "gd"])
def test_records_count_what_the_method_asks_for(method):
    X, y = features()
    rows = minimize(
        SigmoidLeastSquares(X, y),
        method,
        NiceSampling(N, B),
        max_passes=8,
        inner_steps=10,
        one_draw=True,
        generator=np.random.default_rng(0),
        lr=0.05,
    ).records
    assert rows[0]["step"] == rows[0]["grad_evals"] == 0
    assert rows[-1]["passes"] >= 8
    for a, b in itertools.pairwise(rows):
        assert a["grad_evals"] < b["grad_evals"]
        assert a["seconds"] <= b["seconds"]
    steps = rows[-1]["step"]
    evals = rows[-1]["grad_evals"]
    if method == "sgd":
        assert evals == steps * B
        assert rows[-1]["set_size"] == B
    if method == "saga":
        assert evals == N + steps * B
    if method == "gd":
        assert evals == steps * N
    if method in ("svrg", "sarah"):
        starts = rows[-1]["epoch"] if method == "sarah" else 0  # steps that draw nothing
        assert (evals - 2 * B * (steps - starts)) % N in range(0, N, 2 * B)


def test_same_generator_same_run_and_float32():
    X, y = features()

    def end(A):
        options = dict(lr=0.05, max_passes=20, output="last", generator=np.random.default_rng(3))
        return minimize(SigmoidLeastSquares(A, y), "svrg", NiceSampling(N, B), **options).x

    assert np.array_equal(end(X), end(X))
    assert 0 < np.abs(end(X.astype(np.float32)) - end(X)).max() < 1e-4


def test_the_random_iterate_is_uniform():
    """Over many runs of 12 SGD steps the kept iterate is each of x_0 .. x_11 equally often.

    A chi-square test at the 1e-4 level."""
    serial = six_items.SAMPLINGS["serial"]
    draws = [[i % six_items.N] for i in range(12)]
    path = [six_items.START]
    path += [six_items.run("sgd", draws[:k], sampling=serial) for k in range(1, 12)]
    kept = []
    for seed in range(1200):
        x = minimize(
            six_items.PROBLEM,
            "sgd",
            serial,
            lr=six_items.LR,
            draws=draws,
            x0=path[0],
            record_every=0.5,
            generator=np.random.default_rng(seed),
            max_passes=1e6,
        ).x
        kept.append(int(np.argmin([np.abs(x - y).max() for y in path])))
    counts = np.bincount(kept, minlength=12)
    assert ((counts - 100) ** 2 / 100).sum() < 38.0


@pytest.mark.parametrize("method", ["svrg", "sgd", "sarah"])
def test_divergence_is_noticed_and_the_last_finite_iterate_returned(method):
    X, y = features()
    f = LogisticRegression(X, y, l2=0.1)
    options = dict(lr=1e4, max_passes=50, generator=np.random.default_rng(0))
    with pytest.warns(RuntimeWarning, match="diverged after .* Give a smaller lr"):
        r = minimize(f, method, NiceSampling(N, B), **options)
    assert r.diverged
    assert not r.converged
    assert np.isfinite(r.x).all()
    assert "last finite iterate" in r.message
    assert "diverged" in repr(r)


def test_callback_and_max_steps_stop():
    X, y = features()
    f = LogisticRegression(X, y, l2=0.1)
    seen = []

    def third(row):
        seen.append(row)
        return len(seen) == 3

    r = minimize(f, "saga", "importance", callback=third)
    assert len(r.records) == 3
    assert r.message == "stopped by the callback"
    assert minimize(f, "svrg", "uniform", max_steps=7).records[-1]["step"] == 7


def test_a_result_says_what_ran():
    X, y = features()
    f = LogisticRegression(X, y, l2=0.3)
    r = minimize(f, "gd", "uniform", tol=1e-9, max_passes=4000)
    assert r.converged
    assert repr(r).startswith(f"Result(gd, uniform, {r.records[-1]['passes']:.4g} passes, ")
    assert repr(r).endswith("converged; reference)")
    r = minimize(f, "svrg", NiceSampling(N, B), max_passes=1)
    assert "svrg, NiceSampling" in repr(r)
    assert repr(r).endswith("; compiled, dense rows)")


NEVER_ONE = IndependentSampling(np.r_[0, np.full(N - 1, 0.5)])


@pytest.mark.parametrize(
    "options, error, what",
    [
        (dict(method="svgr"), UnknownName, "did you mean 'svrg'"),
        (dict(sampling="nice"), UnknownName, "importance, uniform"),
        (dict(sampling=3), InvalidArgument, "sampler"),
        (dict(sampling=NiceSampling(7, 2)), InvalidShape, "covers 7 items"),
        (dict(lr=0), InvalidArgument, "lr"),
        (dict(lr=np.nan), InvalidArgument, "lr"),
        (dict(lr="best"), UnknownName, "convex"),
        (dict(inner_steps=0), InvalidArgument, "inner_steps"),
        (dict(max_passes=-1), InvalidArgument, "max_passes"),
        (dict(tol=-1), InvalidArgument, "tol"),
        (dict(output="best"), UnknownName, "random"),
        (dict(x0=np.zeros(3)), InvalidShape, "x0"),
        (dict(engine="fast"), UnknownName, "compiled"),
        (dict(method="saga", draws=[[0]]), InvalidArgument, "table_draws"),
        (dict(method="saga", draws=[[0]], table_draws=[[0], [1]]), InvalidShape, "1 draws but 2"),
        (dict(draws=[[99]]), InvalidShape, "item 99"),
        (dict(generator="7"), InvalidArgument, "generator"),
        (dict(x0=np.full(5, np.nan)), DataError, "not finite"),
        (dict(sampling=NEVER_ONE), InvalidProbabilities, "lifted_smoothness"),
    ],
)
def test_bad_arguments(options, error, what):
    X, y = features()
    problem = LogisticRegression(X, y, l2=0.1)
    parts = dict(problem=problem, method="svrg", sampling="importance") | options
    with pytest.raises(error, match=what):
        minimize(**parts)


def test_strange_generators_are_refused():
    with pytest.raises(InvalidArgument, match="generator"):
        as_numpy_generator("3")


def test_more_items_asked_for_than_there_are():
    with pytest.raises(InvalidArgument, match="at most 40"):
        NiceSampling(N, N + 1)
    X, y = features()
    with pytest.raises(InvalidArgument, match="exceeds"):
        minibatch_probabilities(LogisticRegression(X, y).lifted_smoothness, N + 1)


def test_rows_of_zeros_run_on_lifted_constants():
    X, y = features()
    X[:4] = 0
    f = LogisticRegression(X, y)
    for name in SAMPLINGS:
        law = sampling(name, f.lifted_smoothness)
        r = minimize(f, "saga", law, max_passes=5, generator=np.random.default_rng(0))
        assert r.records[-1]["loss"] < r.records[0]["loss"]
