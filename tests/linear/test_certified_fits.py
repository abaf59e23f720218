"""One problem from rows to an answer, and the one complaint."""

import numpy as np
import pytest

from impsamp.linear.certified_fits import Job, Settings, complaint_about, solved, watcher


def fit(**changes):
    options = dict(
        method="auto",
        sampling="importance",
        l2=0.1,
        l1=0.0,
        tol=1e-6,
        max_iter=100,
        fit_intercept=True,
    )
    how = Settings(**{**options, **changes})
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2))
    t = np.sign(X[:, 0] + rng.normal(size=50))
    job = Job("logistic", t, 1, np.zeros((1, 3)), 0, "class a against the rest")
    return solved(job, X, np.ones(50), how, None), how


@pytest.mark.parametrize("method", ["auto", "saga", "svrg", "sarah"])
def test_every_method_gives_the_same_certified_answer(method):
    answer, how = fit(method=method, tol=1e-12, max_iter=2000)
    exact, _ = fit(tol=1e-12)
    assert answer.run.converged
    assert np.allclose(answer.theta, exact.theta, atol=1e-4)
    assert complaint_about("VRClassifier", [answer], how) == ""


def test_the_complaint_names_class_cause_and_cure():
    answer, how = fit(method="saga", max_iter=1)
    text = complaint_about("VRClassifier", [answer, answer], how)
    for part in ("VRClassifier", "class a against the rest", "SAGA", "raise max_iter"):
        assert part in text


def test_a_watcher_prints_and_asks(capsys):
    assert watcher("A", "", 0, None) is None
    watch = watcher("A", "class b", 1, lambda row: row["iteration"] == 2)
    assert not watch(dict(phase="svrg", iteration=1, loss=0.5, gap=0.1))
    assert watch(dict(phase="svrg", iteration=2, loss=0.5, gap=0.1))
    assert capsys.readouterr().out.startswith("[A, class b] svrg, iteration 1: F = 0.5")
