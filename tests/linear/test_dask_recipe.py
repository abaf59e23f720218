"""The recipe for data that outgrow one machine: its answer is that of one process.

`examples/dask_linear.py`, in this process with a client that does everything at once, and on a
local cluster one of whose workers is killed.
"""

import os
import signal
import sys
from importlib import import_module

import numpy as np
import pytest

from impsamp.linear import minimize
from impsamp.problems import LogisticRegression
from tests.house.repository import ROOT

ROWS = 400
PARTITIONS = 4


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(ROOT / "examples"))
    yield import_module("dask_linear")
    sys.path.remove(str(ROOT / "examples"))


class Here:
    "A client that does everything at once."

    def submit(self, work, *arguments):
        return work(*arguments)

    def gather(self, tasks):
        return tasks


def one_process(load, l2):
    X, y = map(np.concatenate, zip(*map(load, range(PARTITIONS))))
    f = LogisticRegression(X, y, l2=l2, fit_intercept=True)
    r = minimize(f, "svrg", "importance", lr="convex", tol=1e-12, max_passes=10**5, generator=0)
    assert r.converged
    return r.x


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_answer_is_that_of_one_process(recipe, l2):
    def load(k):
        return recipe.made(k, ROWS)

    out = recipe.fit(Here(), load, PARTITIONS, l2=l2, tol=1e-11, rounds=1000)
    assert out.converged
    assert np.abs(out.x - one_process(load, l2)).max() < 1e-8


def test_partitions_of_one_class_and_of_unequal_size(recipe):
    "The hardest split: sorted by label, so that no partition alone knows anything."

    def load(k):
        X, y = map(np.concatenate, zip(*[recipe.made(j, ROWS) for j in range(PARTITIONS)]))
        order = np.argsort(y, kind="stable")
        cuts = [0, 100, 500, 900, len(y)]
        rows = order[cuts[k] : cuts[k + 1]]
        return X[rows], y[rows]

    assert set(load(0)[1]) == {-1.0}
    out = recipe.fit(Here(), load, PARTITIONS, l2=1e-1, tol=1e-11, rounds=2000)
    assert out.converged
    assert np.abs(out.x - one_process(load, 1e-1)).max() < 1e-8


def test_an_item_is_drawn_in_proportion_to_its_constant(recipe):
    "Steps of a partition: passes n (its sum of L_i) / (sum of all L_i)."
    parts = [recipe.part_of(recipe.made, k, 0.1) for k in range(3)]
    cluster = recipe.Cluster(Here(), recipe.made, 3, 0.1)
    L = np.array([p.L.sum() for p in parts])
    assert np.allclose(cluster.share, L / L.sum())
    asked = []

    def spy(part, x, g, steps, seed):
        asked.append(steps)
        return x

    recipe.local_steps, kept = spy, recipe.local_steps
    try:
        cluster.mean_of_local_steps(np.zeros(21), np.zeros(21), 2.0, [[0, 0, k] for k in range(3)])
    finally:
        recipe.local_steps = kept
    assert np.allclose(asked, 2 * 15_000 * L / L.sum(), atol=1)


def test_rounds_that_end_too_early_say_so(recipe):
    out = recipe.fit(Here(), lambda k: recipe.made(k, 100), 2, l2=1e-3, rounds=2)
    assert not out.converged
    assert len(out.norms) == 2


@pytest.fixture
def cluster(monkeypatch):
    "Two workers, each a process with a nanny that starts another one when it dies."
    distributed = pytest.importorskip("distributed")
    paths = [str(ROOT), str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    options = dict(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with distributed.LocalCluster(**options) as local, distributed.Client(local) as client:
        yield client


@pytest.mark.full
def test_a_killed_worker_changes_nothing(recipe, cluster):
    quiet = recipe.fit(cluster, recipe.made, PARTITIONS, l2=1e-2, tol=1e-12)
    assert quiet.converged
    victims = []

    def kill(r, norm):
        if r in (2, 5):
            cluster.wait_for_workers(2, timeout=120)  # the first victim's successor among them
            pids = cluster.run(os.getpid, on_error="ignore").values()
            victims.append(next(p for p in pids if p not in victims))
            os.kill(victims[-1], signal.SIGKILL)

    disturbed = recipe.fit(cluster, recipe.made, PARTITIONS, l2=1e-2, tol=1e-12, watch=kill)
    assert len(set(victims)) == 2
    assert np.array_equal(disturbed.x, quiet.x)
    assert disturbed.norms == quiet.norms
    assert np.abs(quiet.x - one_process(recipe.made, 1e-2)).max() < 1e-8
