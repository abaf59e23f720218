"`minimize`: its answers against scipy's, its records, what stops it, what it refuses."

import itertools
import os
import signal
import subprocess
import sys
import threading

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
from impsamp.linear import Interrupted, minimize
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


def test_a_callback_sees_the_iterate():
    X, y = features()
    f = LogisticRegression(X, y, l2=0.1)
    seen = []

    def look(row):
        x = row["x"]
        assert np.isclose(np.linalg.norm(f.grad(x)), row["grad_norm"])
        seen.append(x.copy())
        x[:] = np.nan  # a copy: the run does not mind

    r = minimize(f, "saga", "importance", max_passes=5, callback=look, output="last", generator=0)
    assert np.array_equal(seen[-1], r.x)
    assert len(seen) == len(r.records)
    assert all("x" not in row for row in r.records)


@pytest.fixture
def ctrl_c():
    "Ctrl-C as in a terminal: a job in the background begins with it ignored."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# A run of about ten seconds whose steps are compiled already, interrupted from outside.
@pytest.mark.parametrize("delay", [0.02, 0.05, 0.11, 0.17, 0.23, 0.31])
@pytest.mark.parametrize("sampling", ["importance", NiceSampling(N, B)], ids=["serial", "nice"])
def test_ctrl_c_gives_back_the_last_iterate(delay, sampling, ctrl_c):
    X, y = features()
    f = LogisticRegression(X, y, l2=0.01)
    options = dict(lr="convex", one_draw=True, generator=0, record_every=50)
    minimize(f, "saga", sampling, max_passes=1, **options)
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(Interrupted, match=r"interrupted after \d+ steps") as caught:
        minimize(f, "saga", sampling, max_passes=10**7, **options)
    timer.join()
    result = caught.value.result
    assert np.isfinite(result.last).all()
    assert result.records[-1]["grad_norm"] < 0.1 * result.records[0]["grad_norm"]
    assert not result.converged
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_during_compilation_is_not_lost():
    "A fresh process without kept kernels, interrupted a moment after it has begun to compile."
    script = """
import os, signal, sys
import numpy as np
from numba.core import event
from impsamp.linear import minimize
from impsamp.problems import LogisticRegression

class Begin(event.Listener):
    def on_start(self, e):
        os.kill(os.getpid(), signal.SIGINT)
    def on_end(self, e):
        pass

signal.signal(signal.SIGINT, signal.default_int_handler)
event.register("numba:compile", Begin())
f = LogisticRegression(np.eye(3), [0, 1, 1], l2=.1)
try:
    minimize(f, "svrg", "uniform", max_passes=3, x0=np.full(3, 7.))
except KeyboardInterrupt as e:
    assert e.result.last.tolist() == [7, 7, 7], e.result
    print(e)
"""
    env = os.environ | dict(IMPSAMP_KERNEL_CACHE="off")
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stdout.startswith("interrupted after 0 steps"), done.stderr[-2000:]


def test_a_problem_in_python_is_interrupted_at_once(ctrl_c):
    "Steps of the slow engine run somebody's code, which Ctrl-C must be able to stop."
    X, y = features()

    class Endless(LogisticRegression):
        def grad_items(self, x, idx):
            while self.asked:
                signal.raise_signal(signal.SIGINT)
            return super().grad_items(x, idx)

    f = Endless(X, y, l2=0.1)
    f.asked = True
    with pytest.raises(Interrupted) as caught:
        minimize(f, "sgd", NiceSampling(N, B), engine="reference", lr=0.1, generator=0)
    assert caught.value.result.records[-1]["step"] == 0


@pytest.mark.parametrize("csr", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("method", ["saga", "sarah"])
def test_float32_says_that_a_tolerance_is_beyond_its_precision(method, csr):
    X, y = features(n=400)
    X = X.astype(np.float32)
    f = LogisticRegression(sparse.csr_matrix(X) if csr else X, y, l2=0.1)
    options = dict(lr="convex", one_draw=True, max_passes=2000, generator=0)
    r = minimize(f, method, "importance", tol=1e-12, **options)
    assert r.stagnated
    assert not r.converged
    assert r.records[-1]["passes"] < 300
    assert r.records[-1]["grad_norm"] < 1e-5
    assert "stagnated at the precision of float32" in r.message
    assert "tol = 1e-12 is below that: give features in float64" in r.message
    assert np.array_equal(r.x, r.last)
    # what float32 can reach is reached as before
    r = minimize(f, method, "importance", tol=1e-5, **options)
    assert r.converged
    assert r.message == ""


def test_no_tolerance_means_no_end_but_the_last_pass():
    X, y = features()
    f = LogisticRegression(X.astype(np.float32), y, l2=0.3)
    r = minimize(f, "saga", "importance", lr="convex", one_draw=True, max_passes=400, generator=0)
    assert r.records[-1]["passes"] >= 400
    assert not r.stagnated


def test_noise_is_not_taken_for_stagnation():
    "SGD with a constant step stays above its tolerance, but far above what float64 can reach."
    X, y = features()
    f = LogisticRegression(X, y, l2=0.3)
    r = minimize(f, "sgd", "uniform", lr=0.01, max_passes=60, tol=1e-9, generator=0)
    assert not r.stagnated
    assert r.records[-1]["passes"] >= 60


@pytest.mark.parametrize("csr", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("l2", [1e2, 1e8, 1e12])
@pytest.mark.parametrize("method", ["saga", "svrg", "sarah", "gd"])
def test_a_huge_ridge_leaves_the_intercept_right(method, l2, csr):
    "w tends to 0 and the intercept to the log of the odds."
    X, y = features(n=60)
    y = np.arange(60) % 4 == 0
    f = LogisticRegression(sparse.csr_matrix(X) if csr else X, y, l2=l2, fit_intercept=True)
    options = dict(
        lr="convex", one_draw=True, max_passes=150 if method == "saga" else 10_000, generator=0
    )
    r = minimize(f, method, "importance", tol=1e-8, **options)
    assert r.converged
    assert abs(r.x[-1] - np.log(1 / 3)) < 5 / l2 + 1e-7
    assert np.abs(r.x[:-1]).max() < 10 / l2


@pytest.mark.parametrize("csr", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("dtype, scale", [(np.float32, 1e30), (np.float64, 1e160)])
def test_features_whose_squares_overflow_are_refused_in_a_sentence(csr, dtype, scale):
    X, y = features()
    X = (X * scale).astype(dtype)
    with pytest.raises(DataError, match="scale"):
        f = LogisticRegression(sparse.csr_matrix(X) if csr else X, y)
        minimize(f, "svrg", "importance", lr="convex")


def test_a_step_size_that_vanishes_in_float32_is_refused():
    "Its steps would do nothing, without a word."
    X, y = features()
    f = LogisticRegression(X.astype(np.float32), y, l2=0.1)
    with pytest.raises(DataError, match=r"step size 1e-50 .* outside the range of float32"):
        minimize(f, "svrg", "importance", lr=1e-50)
    with pytest.raises(DataError, match=r"step size 1e\+50 .* outside the range of float32"):
        minimize(f, "svrg", "importance", lr=1e50)


@pytest.mark.parametrize("csr", [False, True], ids=["dense", "csr"])
def test_large_float32_features_run_as_in_float64(csr):
    X, y = features()
    X = (X * 2.0**60).astype(np.float32)  # squares overflow in float32, not in float64
    A = sparse.csr_matrix(X) if csr else X
    options = dict(lr="convex", max_passes=30, output="last")
    ends = []
    for rows in (A, A.astype(np.float64)):
        f = LogisticRegression(rows, y)
        ends.append(minimize(f, "svrg", "importance", generator=0, **options).x)
    assert np.allclose(*ends, rtol=1e-3)


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
        (dict(draws=[[1.7]]), InvalidShape, "holds 1.7, which is no item"),
        (dict(draws=[[1.0]]), InvalidShape, "no item"),
        (dict(draws=[[0], [True, False]]), InvalidShape, "holds True, which is no item"),
        (dict(draws=[["1"]]), InvalidShape, "no item"),
        (dict(draws=[[None]]), InvalidShape, "no item"),
        (dict(draws=[[np.nan]]), InvalidShape, "no item"),
        (dict(draws=[[2**63]]), InvalidShape, "outside"),
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


def test_progress_changes_nothing_and_is_lines_where_asked(capsys):
    problem = LogisticRegression(*features(), l2=0.1)
    told = []
    for verbose in (False, None, True):
        found = minimize(problem, "saga", "importance", max_passes=20, generator=0, verbose=verbose)
        told.append((found.x.tolist(), capsys.readouterr().err.splitlines()))
    (x, silent), (same, silent_too), (same_too, lines) = told
    assert x == same == same_too
    assert silent == silent_too == []
    assert lines[0].startswith("minimize by saga: ")
    assert ", loss 0." in lines[0] and ", gradient " in lines[0]
    assert len(lines) == 10 and lines[-1].startswith("minimize by saga: 100%")
    with pytest.raises(InvalidArgument, match="verbose must be"):
        minimize(problem, "saga", "importance", verbose=3)
