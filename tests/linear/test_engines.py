"The compiled engine against the slow one, in float64 and float32, and what it costs."

import tracemalloc

import numpy as np
import pytest
import torch
from scipy import sparse

from impsamp.errors import InvalidArgument
from impsamp.linear import minimize
from impsamp.problems import FiniteSum, LogisticRegression, SigmoidLeastSquares
from impsamp.samplers import IndependentSampling, NiceSampling
from impsamp.theory.minibatch import minibatch_probabilities
from tests.linear.helpers import METHODS, B, N, features, sampling


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(
    "extra", [dict(l2=0.1), dict(), dict(l2=0.1, nonconvex=0.2)], ids=["l2", "plain", "nonconvex"]
)
@pytest.mark.parametrize("method", METHODS)
def test_compiled_engine_equals_the_slow_one_step_for_step(method, extra, intercept):
    X, y = features(3)
    how, one_draw = METHODS[method]
    rng = np.random.default_rng(5)
    draws = [rng.choice(N, size=rng.integers(0, 6), replace=False) for _ in range(60)]
    second = [rng.choice(N, size=3, replace=False) for _ in range(60)]
    ends = []
    for A, engine in ((X, "reference"), (X, "compiled"), (sparse.csr_matrix(X), "compiled")):
        problem = SigmoidLeastSquares(A, y, reading="pm1", fit_intercept=intercept, **extra)
        r = minimize(
            problem,
            how,
            IndependentSampling(minibatch_probabilities(problem.L, B)),
            lr=0.1,
            inner_steps=17,
            one_draw=one_draw,
            engine=engine,
            draws=draws,
            table_draws=second if method == "saga" else None,
            max_passes=10_000,
            output="last",
            record_every=0.3,
            x0=np.full(problem.d, 0.1),
        )
        assert r.records[-1]["step"] >= 60
        ends.append(r.x)
    assert np.abs(ends[0]).max() > 0.05
    assert np.abs(ends[1] - ends[0]).max() < 1e-12
    assert np.abs(ends[2] - ends[0]).max() < 1e-12


@pytest.mark.parametrize(
    "extra, reason",
    [
        (dict(l2=np.full(5, 0.1)), "a vector of penalties"),
        (dict(nonconvex=0.2), "the nonconvex regulariser"),
        (dict(l2=30.0), "lr l2 = 3 is too near 1"),
    ],
)
def test_steps_on_csr_rows_that_must_move_every_coordinate_say_so(extra, reason):
    X, y = features()

    def engine_for(A):
        f = LogisticRegression(A, y, **extra)
        return minimize(f, "svrg", "importance", lr=0.1, max_steps=1).engine

    assert f"every coordinate at every step: {reason}" in engine_for(sparse.csr_matrix(X))
    assert engine_for(X) == "compiled, dense rows"


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix], ids=["dense", "csr"])
@pytest.mark.parametrize("method", ["svrg", "saga", "sarah"])
def test_float32_follows_float64_with_importance_sampling(method, form):
    X, y = features(4)
    ends = {}
    for dtype in (np.float32, np.float64):
        f = LogisticRegression(form(X.astype(np.float32).astype(dtype)), y, l2=0.05)
        r = minimize(
            f,
            method,
            "importance",
            lr="convex",
            one_draw=True,
            max_passes=300,
            output="last",
            generator=np.random.default_rng(0),
        )
        assert f.dtype == dtype
        assert not r.diverged
        ends[dtype] = r
    assert 0 < np.abs(ends[np.float32].x - ends[np.float64].x).max() < 1e-4
    assert ends[np.float32].records[-1]["grad_norm"] < 1e-5


def test_no_compiled_state_leaks_into_the_users_arrays():
    X, y = features()
    f = LogisticRegression(X, y, l2=0.1)
    x0 = np.ones(5)
    minimize(f, "saga", "importance", x0=x0, max_passes=3)
    assert (x0 == 1).all()
    assert np.array_equal(f.X, X)


def small_network():
    "A linear layer with its own fixed weights, in float64."
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Linear(5, 2, dtype=torch.float64)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.1)
    return net


def test_a_network_through_the_reference_engine():
    X, y = features()
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    f = FiniteSum(small_network(), loss, torch.tensor(X), torch.tensor(y))
    r = minimize(
        f,
        "sarah",
        NiceSampling(N, B),
        lr=0.05,
        max_passes=10,
        generator=np.random.default_rng(0),
        output="last",
    )
    assert r.engine == "reference"
    assert r.records[-1]["grad_norm"] < 0.5 * r.records[0]["grad_norm"]
    with pytest.raises(InvalidArgument, match="smoothness"):
        minimize(f, "sarah", NiceSampling(N, B))
    with pytest.raises(InvalidArgument, match="linear sums only"):
        minimize(f, "sarah", NiceSampling(N, B), lr=0.05, engine="compiled")


@pytest.mark.parametrize("method", ["svrg", "saga", "sarah"])
def test_memory_of_a_csr_run_is_that_of_the_data(method):
    """n x d would be 1.6 GB; what is allocated stays near n + d + nonzeros.

    numpy reports what it allocates to tracemalloc."""
    rng = np.random.default_rng(0)
    n = 4000
    d = 50_000
    row = 20
    values = rng.normal(size=n * row)
    columns = rng.integers(d, size=n * row)
    X = sparse.csr_matrix((values, columns, np.arange(n + 1) * row), shape=(n, d))
    y = np.where(rng.random(n) < 0.5, 1.0, -1.0)

    def run():
        f = LogisticRegression(X, y, l2=1 / n)
        options = dict(lr="convex", one_draw=True, max_passes=5, generator=rng)
        return minimize(f, method, "importance", **options)

    run()
    tracemalloc.start()
    r = run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert r.records[-1]["loss"] < r.records[0]["loss"]
    assert peak < 20e6


@pytest.mark.parametrize("csr", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("l2", [0.5, 1e4], ids=["lazy", "every coordinate"])
@pytest.mark.parametrize("method, one_draw", [("svrg", False), ("saga", True), ("sarah", False)])
def test_a_ridge_beside_an_intercept_in_both_engines(method, one_draw, l2, csr):
    "The proximal step of the ridge and the own step size of the intercept."
    X, y = features()
    f = LogisticRegression(sparse.csr_matrix(X) if csr else X, y, l2=l2, fit_intercept=True)
    options = dict(lr="convex", one_draw=one_draw, max_passes=6, output="last")
    ends = [
        minimize(f, method, sampling("independent", f.L), engine=e, generator=3, **options).x
        for e in ("compiled", "reference")
    ]
    assert np.allclose(*ends, rtol=1e-9, atol=1e-12)
    assert ends[0][-1] != 0
