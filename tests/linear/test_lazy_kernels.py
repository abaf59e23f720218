"Lazy updates: the iterates of the slow engine, and those of the kernels that move everything."

import numpy as np
import pytest
from scipy import sparse

from impsamp.linear import minimize
from impsamp.linear.dense_kernels import KIND, anchored_steps, sarah_steps
from impsamp.linear.lazy_kernels import REBASE, anchored_lazy, sarah_lazy
from impsamp.problems import LogisticRegression
from impsamp.samplers import NiceSampling
from tests.linear.helpers import METHODS, B, N, features


def subsets(rng, steps, size):
    return [rng.choice(N, size=rng.integers(0, size), replace=False) for _ in range(steps)]


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "l2, every",
    [(0.0, 0.5), (0.05, 1000), (4.0, 0.5), (4.0, 1000)],  # the last: q^t falls below _SMALL
)
def test_lazy_updates_through_many_blocks_with_and_without_shrinkage(method, intercept, l2, every):
    "Blocks of a few steps, several epochs: still the slow engine's iterates."
    X, y = features(7)
    how, one_draw = METHODS[method]
    rng = np.random.default_rng(2)
    draws = subsets(rng, 300, 4)
    second = [rng.choice(N, size=2, replace=False) for _ in range(300)]
    ends = []
    for A, engine in ((X, "reference"), (sparse.csr_matrix(X), "compiled")):
        r = minimize(
            LogisticRegression(A, y, l2=l2, fit_intercept=intercept),
            how,
            NiceSampling(N, B),
            draws=draws,
            table_draws=second if how == "saga" and not one_draw else None,
            lr=0.1,
            inner_steps=90,
            one_draw=one_draw,
            engine=engine,
            max_steps=300,
            output="last",
            max_passes=1e6,
            record_every=every,
        )
        lazy = "compiled, CSR rows, lazy updates"
        assert r.engine == ("reference" if engine == "reference" else lazy)
        ends.append(r.x)
    assert np.abs(ends[1] - ends[0]).max() < 1e-12


def block(steps):
    "A block of so many steps with one item each."
    return np.arange(steps + 1), np.random.default_rng(0).integers(N, size=steps)


def items():
    "(dense rows, CSR rows, y, w, kind, intercept) of a logistic problem."
    X, y = features(3)
    A = sparse.csr_matrix(X)
    rows = (A.data, A.indices.view(np.uint32), A.indptr)
    return X, rows, (np.where(y > 0, 1.0, -1.0), np.ones(N), KIND["logistic"], False)


@pytest.mark.parametrize("l2", [0.0, 0.01, 2.0])
@pytest.mark.parametrize("refresh", [0, 1, 2])
def test_anchored_steps_across_a_rebase_are_those_of_the_dense_kernel(l2, refresh):
    X, rows, item = items()
    steps = REBASE + 500
    scale = np.full(N, 1 / N)
    draws = (*block(steps), *block(steps))
    lr = 0.05
    dense = [np.full(5, 0.3), np.full(5, 0.01), np.zeros(N), scale]
    lazy = [a.copy() for a in dense]
    what = (refresh, 20)  # the iterate before step 20 is kept
    kept = np.zeros((2, 5))
    room = np.zeros((2, 2))
    pull = (np.full(5, l2), 0.0, lr, lr)
    anchored_steps(X, *item, *dense, *pull, *draws, *what, kept[0], *room)
    calm = (lr, lr, 1 - lr * l2, np.empty((5, 2)))
    anchored_lazy(rows, *item, *lazy, *calm, *draws, *what, kept[1], *room)
    for a, b in zip(dense, lazy):
        assert np.allclose(a, b, rtol=1e-9, atol=1e-11)
    assert np.allclose(*kept, rtol=1e-9, atol=1e-11)
    assert not np.array_equal(kept[0], dense[0])


def test_sarah_steps_across_a_rebase_are_those_of_the_dense_kernel():
    X, rows, item = items()
    scale = np.full(N, 1 / N)
    draws = block(REBASE + 500)
    lr = 0.05
    before = np.full(5, 0.3)
    u = np.full(5, 0.1)
    x = (1 - lr * 0.01) * before - lr * u
    dense = [x, before, u, scale]
    lazy = [a.copy() for a in dense]
    pull = (np.full(5, 0.01), 0.0, lr, lr)
    sarah_steps(X, *item, *dense, *pull, *draws, -1, np.zeros(5))
    calm = (lr, lr, 1 - lr * 0.01, np.empty((5, 2)))
    sarah_lazy(rows, *item, *lazy, *calm, *draws, -1, np.zeros(5), np.zeros(2))
    for a, b in zip(dense, lazy):
        assert np.allclose(a, b, rtol=1e-9, atol=1e-11)
