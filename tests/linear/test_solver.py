"""Every method with every sampling: against scipy, against the slow engine on the same draws, dense against CSR."""

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
from impsamp.problems import FiniteSum, LogisticRegression, SigmoidLeastSquares
from impsamp.samplers import (
    ApproximateIndependentSampling,
    IndependentSampling,
    NiceSampling,
    SerialSampling,
)
from impsamp.theory.minibatch import minibatch_probabilities

N, B = 40, 4
METHODS = {
    "svrg": ("svrg", False),
    "saga": ("saga", False),
    "saga, one draw": ("saga", True),
    "sarah": ("sarah", False),
    "sgd": ("sgd", False),
}
SAMPLINGS = ("nice", "independent", "approximate", "serial")


def features(seed=0, n=N, k=5):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) * np.exp(0.7 * rng.normal(size=(n, 1))) * (rng.random((n, k)) < 0.7)
    return X, (rng.random(n) < 0.5) * 1


def sampling(name, L, b=B):
    if name == "nice":
        return NiceSampling(L.size, b)
    if name == "serial":
        return SerialSampling(L / L.sum())
    return {"independent": IndependentSampling, "approximate": ApproximateIndependentSampling}[
        name
    ](minibatch_probabilities(L, b))


@pytest.fixture(scope="module")
def logistic():
    X, y = features()
    problem = LogisticRegression(X, y, l2=0.3)
    solution = optimize.minimize(
        problem.loss, np.zeros(problem.d), jac=problem.grad, method="BFGS", options=dict(gtol=1e-13)
    ).x
    return problem, LogisticRegression(sparse.csr_matrix(X), y, l2=0.3), solution


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
    tables = [rng.choice(N, size=3, replace=False) for _ in range(60)] if method == "saga" else None
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
            table_draws=tables,
            max_passes=10_000,
            output="last",
            record_every=0.3,
            x0=rng.normal(size=problem.d) * 0 + 0.1,
        )
        assert r.records[-1]["step"] >= 60
        ends.append(r.x)
    assert np.abs(ends[0]).max() > 0.05
    assert np.abs(ends[1] - ends[0]).max() < 1e-12 and np.abs(ends[2] - ends[0]).max() < 1e-12


@pytest.mark.parametrize("method", ["svrg", "saga", "sarah", "sgd", "gd"])
def test_records_count_what_the_method_asks_for(method):
    X, y = features()
    r = minimize(
        SigmoidLeastSquares(X, y),
        method,
        NiceSampling(N, B),
        max_passes=8,
        inner_steps=10,
        one_draw=True,
        generator=np.random.default_rng(0),
        lr=0.05,
    )
    rows = r.records
    assert rows[0]["step"] == rows[0]["grad_evals"] == 0 and rows[-1]["passes"] >= 8
    assert all(
        a["grad_evals"] < b["grad_evals"] and a["seconds"] <= b["seconds"]
        for a, b in itertools.pairwise(rows)
    )
    steps, anchors = rows[-1]["step"], rows[-1]["grad_evals"]
    if method == "sgd":
        assert anchors == steps * B and rows[-1]["set_size"] == B
    if method == "saga":
        assert anchors == N + steps * B
    if method == "gd":
        assert anchors == steps * N
    if method in ("svrg", "sarah"):
        assert (
            anchors - 2 * B * (steps - (rows[-1]["epoch"] if method == "sarah" else 0))
        ) % N in range(0, N, 2 * B)


def test_same_generator_same_run_and_float32():
    X, y = features()
    ends = [
        minimize(
            SigmoidLeastSquares(A, y),
            "svrg",
            NiceSampling(N, B),
            lr=0.05,
            max_passes=20,
            output="last",
            generator=np.random.default_rng(3),
        ).x
        for A in (X, X, X.astype(np.float32))
    ]
    assert np.array_equal(ends[0], ends[1]) and 0 < np.abs(ends[2] - ends[0]).max() < 1e-4


@pytest.mark.parametrize("method", ["svrg", "sgd", "sarah"])
def test_divergence_is_noticed_and_the_last_finite_iterate_returned(method):
    X, y = features()
    with pytest.warns(RuntimeWarning, match="diverged after .* Give a smaller lr"):
        r = minimize(
            LogisticRegression(X, y, l2=0.1),
            method,
            NiceSampling(N, B),
            lr=1e4,
            max_passes=50,
            generator=np.random.default_rng(0),
        )
    assert (
        r.diverged
        and not r.converged
        and np.isfinite(r.x).all()
        and "last finite iterate" in r.message
    )


def test_callback_and_max_steps_stop():
    X, y = features()
    f, seen = LogisticRegression(X, y, l2=0.1), []
    r = minimize(f, "saga", "importance", callback=lambda row: seen.append(row) or len(seen) == 3)
    assert len(r.records) == 3 and r.message == "stopped by the callback"
    assert minimize(f, "svrg", "uniform", max_steps=7).records[-1]["step"] == 7


def test_no_compiled_state_leaks_into_the_users_arrays():
    X, y = features()
    f, x0 = LogisticRegression(X, y, l2=0.1), np.ones(5)
    minimize(f, "saga", "importance", x0=x0, max_passes=3)
    assert (x0 == 1).all() and np.array_equal(f.X, X)


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
        (dict(draws=[[99]]), InvalidShape, "item 99"),
        (dict(generator="7"), InvalidArgument, "generator"),
        (dict(x0=np.full(5, np.nan)), DataError, "not finite"),
        (
            dict(sampling=IndependentSampling(np.r_[0, np.full(N - 1, 0.5)])),
            InvalidProbabilities,
            "lifted_smoothness",
        ),
    ],
)
def test_bad_arguments(options, error, what):
    X, y = features()
    parts = (
        dict(problem=LogisticRegression(X, y, l2=0.1), method="svrg", sampling="importance")
        | options
    )
    with pytest.raises(error, match=what):
        minimize(**parts)


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
        r = minimize(
            f,
            "saga",
            sampling(name, f.lifted_smoothness),
            max_passes=5,
            generator=np.random.default_rng(0),
        )
        assert r.records[-1]["loss"] < r.records[0]["loss"]


def test_the_convex_rule_refuses_nonconvex_sums():
    X, y = features()
    with pytest.raises(InvalidArgument, match="convex problem"):
        minimize(SigmoidLeastSquares(X, y), "saga", "importance", lr="convex")


def test_a_network_through_the_reference_engine():
    import torch

    X, y = features()
    gen = torch.Generator().manual_seed(0)
    net = torch.nn.Linear(5, 2, dtype=torch.float64)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=gen, dtype=torch.float64) * 0.1)
    f = FiniteSum(
        net, torch.nn.CrossEntropyLoss(reduction="none"), torch.tensor(X), torch.tensor(y)
    )
    r = minimize(
        f,
        "sarah",
        NiceSampling(N, B),
        lr=0.05,
        max_passes=10,
        generator=np.random.default_rng(0),
        output="last",
    )
    assert r.records[-1]["grad_norm"] < 0.5 * r.records[0]["grad_norm"]
    with pytest.raises(InvalidArgument, match="smoothness"):
        minimize(f, "sarah", NiceSampling(N, B))


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_lazy_updates_through_many_blocks_with_and_without_shrinkage(method, intercept):
    "Blocks of a few steps, several epochs: still the slow engine's iterates."
    X, y = features(7)
    how, one_draw = METHODS[method]
    for l2, every in (
        (0.0, 0.5),
        (0.05, 1000),
        (4.0, 0.5),
        (4.0, 1000),
    ):  # the last: q^t falls below what is rebased
        ends = []
        for A, engine in ((X, "reference"), (sparse.csr_matrix(X), "compiled")):
            problem = LogisticRegression(A, y, l2=l2, fit_intercept=intercept)
            options = dict(
                lr=0.1,
                inner_steps=90,
                one_draw=one_draw,
                engine=engine,
                max_steps=300,
                output="last",
                max_passes=1e6,
                record_every=every,
            )
            rng = np.random.default_rng(2)
            draws = [rng.choice(N, size=rng.integers(0, 4), replace=False) for _ in range(300)]
            tables = (
                [rng.choice(N, size=2, replace=False) for _ in range(300)]
                if how == "saga" and not one_draw
                else None
            )
            r = minimize(
                problem, how, NiceSampling(N, B), draws=draws, table_draws=tables, **options
            )
            assert r.engine == (
                "reference" if engine == "reference" else "compiled, CSR rows, lazy updates"
            )
            ends.append(r.x)
        assert np.abs(ends[1] - ends[0]).max() < 1e-12


@pytest.mark.parametrize(
    "extra, reason",
    [
        (dict(l2=np.full(5, 0.1)), "vector of penalties"),
        (dict(nonconvex=0.2), "nonconvex regulariser"),
        (dict(l2=30.0), "lr l2 = 3 is too near 1"),
    ],
)
def test_steps_on_csr_rows_that_must_move_every_coordinate_say_so(extra, reason):
    X, y = features()

    def run(A):
        return minimize(
            LogisticRegression(A, y, **extra), "svrg", "importance", lr=0.1, max_steps=1
        )

    assert f"every coordinate at every step: {reason}" in run(sparse.csr_matrix(X)).engine.replace(
        "a vector", "vector"
    ).replace("the nonconvex", "nonconvex")
    assert run(X).engine == "compiled, dense rows"


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
        assert f.dtype == dtype and not r.diverged
        ends[dtype] = r
    assert 0 < np.abs(ends[np.float32].x - ends[np.float64].x).max() < 1e-4
    assert ends[np.float32].records[-1]["grad_norm"] < 1e-5


@pytest.mark.parametrize("method", ["svrg", "saga", "sarah"])
def test_memory_of_a_csr_run_is_that_of_the_data(method):
    "n x d would be 1.6 GB; what is allocated (numpy reports it to tracemalloc) stays near n + d + nonzeros."
    import tracemalloc

    rng, n, d, row = np.random.default_rng(0), 4000, 50_000, 20
    X = sparse.csr_matrix(
        (rng.normal(size=n * row), rng.integers(d, size=n * row), np.arange(n + 1) * row),
        shape=(n, d),
    )
    y = np.where(rng.random(n) < 0.5, 1.0, -1.0)

    def run():
        return minimize(
            LogisticRegression(X, y, l2=1 / n),
            method,
            "importance",
            lr="convex",
            one_draw=True,
            max_passes=5,
            generator=rng,
        )

    run()
    tracemalloc.start()
    r = run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert r.records[-1]["loss"] < r.records[0]["loss"] and peak < 20e6
