"""The second paper's runs: predictions by hand, outcomes that a gradient norm alone would hide, records that survive missing data."""

import json

import numpy as np
import pandas as pd
import pytest

from impsamp.data.fetch import data_dir, project_root
from impsamp.errors import InvalidArgument, UnknownName
from impsamp.linear import make_plan
from impsamp.reproduce.horvath import (
    horvath_run,
    make_sampling,
    merge_records,
    passes_to,
    predicted_evaluations,
    sigmoid_problem,
)
from impsamp.theory.minibatch import gammas


@pytest.fixture(scope="module")
def problem():
    return sigmoid_problem("breast_cancer")


def test_first_passage_is_interpolated_in_the_logarithm():
    passes, losses = np.array([0.0, 10.0, 20.0]), np.array([0.25, 0.2, 0.1])
    assert passes_to(passes, np.array([1.0, 0.1, 0.01]), losses, 0.1) == 10
    assert passes_to(passes, np.array([1.0, 0.1, 0.001]), losses, 0.01) == pytest.approx(15)
    assert passes_to(passes, np.array([1.0, 0.5, 0.4]), losses, 0.1) == np.inf
    assert (
        passes_to(passes, np.array([1.0, 1e-9, 1e-9]), np.array([0.25, 0.5, 0.5]), 0.1) == np.inf
    )  # a flat place above the start does not count


def test_predictions_follow_the_bounds(problem):
    L, n = problem.lifted_smoothness, problem.n
    known = dict(n=n, L_mean=L.mean(), gap=0.25, accuracy=1e-3)
    for b in (1, 10):
        plan = make_plan(problem, "sarah", make_sampling("nice", L, b))
        T = 2 * 0.25 / (plan.lr * 1e-3)
        assert predicted_evaluations(plan, **known) == pytest.approx(
            2 * b * T + n * T / (plan.inner_steps + 1)
        )
        plan = make_plan(problem, "svrg", make_sampling("importance", L, b))
        G = (
            plan.lr
            * gammas(
                plan.lr, n=n, b=plan.b, alpha=plan.alpha, L_mean=L.mean(), steps=plan.inner_steps
            ).min()
        )
        assert plan.lr / 2 * (1 - 1e-9) <= G
        assert predicted_evaluations(plan, **known) == pytest.approx(
            0.25 / (G * 1e-3) * (2 * plan.b + n / plan.inner_steps)
        )
        plan = make_plan(problem, "saga", make_sampling("nice", L, b))
        assert predicted_evaluations(plan, **known) > n
    assert (
        predicted_evaluations(plan._replace(lr=10 / L.mean()), **known) == np.inf
    )  # a step that no theorem covers
    with pytest.raises(UnknownName):
        predicted_evaluations(plan._replace(method="sgd"), **known)
    with pytest.raises(InvalidArgument):
        predicted_evaluations(plan, **{**known, "accuracy": 0})


def test_bound_holds_for_the_mean_over_iterates(problem):
    "What is predicted is an upper bound: the mean squared norm over the run up to the predicted count lies below the accuracy (SARAH, restarted)."
    L, start = problem.lifted_smoothness, np.zeros(problem.d)
    law = make_sampling("importance", L, 10)
    accuracy = (0.3 * np.linalg.norm(problem.grad(start))) ** 2
    plan = make_plan(problem, "sarah", law)
    passes = (
        predicted_evaluations(
            plan, n=problem.n, L_mean=L.mean(), gap=problem.loss(start), accuracy=accuracy
        )
        / problem.n
    )
    run = horvath_run(
        problem, "sarah", law, seed=0, passes=passes, points=50, record_every=passes / 50
    )
    assert np.mean(run["grad_norm"] ** 2) <= 0.3**2


def test_a_saturated_run_is_stuck_and_scores_nothing(problem):
    run = horvath_run(
        problem,
        "svrg",
        make_sampling("nice", problem.lifted_smoothness, 10),
        seed=0,
        passes=5,
        lr=1e4 / problem.L.mean(),
        points=5,
    )
    assert (
        run["outcome"] == "stuck"
        and run["grad_log"] == 0
        and run["final_log"] == 0
        and not run["stable"]
        and run["passes_0.1"] == 5
    )
    assert run["loss"][-1] > run["loss"][0]


def test_same_seed_same_run_and_the_grid_is_kept(problem):
    law = make_sampling("approximate", problem.lifted_smoothness, 10)
    a, b = (horvath_run(problem, "saga", law, seed=4, passes=6, points=3) for _ in range(2))
    assert a["grid"].tolist() == [0, 2, 4, 6] and a["grad_norm"][0] == 1
    assert np.array_equal(a["grad_norm"], b["grad_norm"]) and a["outcome"] == "ok"


def test_unknown_names(problem):
    with pytest.raises(UnknownName, match="importance"):
        make_sampling("importence", problem.L, 10)
    with pytest.raises(UnknownName, match="column"):
        sigmoid_problem("breast_cancer", scale="rows")


def test_columns_scaled(problem):
    scaled = sigmoid_problem("breast_cancer", scale="column")
    np.testing.assert_allclose(np.abs(scaled.X).max(0), 1)


def test_rows_of_missing_sets_are_kept(tmp_path, monkeypatch, capsys):
    (tmp_path / "settings.ini").write_text("lib_name = impsamp\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMPSAMP_OUTPUT", raising=False)
    merge_records("demo", "setting", pd.DataFrame(dict(setting=["b", "a"], value=[2.5, 1.5])), [])
    merged = merge_records(
        "demo", "setting", pd.DataFrame(dict(setting=["a"], value=[3.5])), ["b", "c"]
    )
    assert (
        merged.value.tolist() == [2.5, 3.5]
        and "b: data not to be had; 1 committed rows kept" in capsys.readouterr().out
    )
    assert pd.read_csv(tmp_path / "data" / "records" / "demo.csv").equals(merged)


@pytest.mark.skipif(data_dir() is None, reason="needs the LIBSVM files: set IMPSAMP_DATA")
def test_headline_constants_by_hand():
    "australian, raw, b = 10: 685 probabilities below 1, alpha 207 against 0.0284; splice and ijcnn1 differ by two percent."

    def alphas(name):
        problem = sigmoid_problem(name)
        return [
            make_plan(problem, "svrg", make_sampling(s, problem.lifted_smoothness, 10))
            for s in ("nice", "importance")
        ]

    nice, best = alphas("australian")
    assert (
        (best.p < 1).sum() == 685
        and nice.alpha == pytest.approx(206.5, abs=0.1)
        and best.alpha == pytest.approx(0.02844, abs=1e-5)
    )
    assert nice.alpha / best.alpha == pytest.approx(7261, abs=2)
    for name in ("splice", "ijcnn1.val"):
        nice, best = alphas(name)
        assert 1.01 < nice.alpha / best.alpha < 1.03


def test_committed_provenance_matches_the_committed_records():
    import hashlib

    folder = project_root() / "data" / "records"
    found = list(folder.glob("horvath_*.json"))
    for path in found:
        for name, digest in json.loads(path.read_text())["outputs"].items():
            assert hashlib.sha256((project_root() / name).read_bytes()).hexdigest() == digest, (
                f"{name} is not what {path.name} describes"
            )
