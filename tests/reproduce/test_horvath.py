"""The second paper's runs: predictions by hand, outcomes that a gradient norm alone would hide."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from impsamp.data.fetch import data_dir
from impsamp.errors import InvalidArgument, RecordError, UnknownName
from impsamp.linear import make_plan
from impsamp.problems import SigmoidLeastSquares
from impsamp.reproduce import horvath
from impsamp.reproduce.horvath import (
    computed_step,
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


# --- problems and samplings by name


def test_unknown_names(problem):
    with pytest.raises(UnknownName, match="importance"):
        make_sampling("importence", problem.L, 10)
    with pytest.raises(UnknownName, match="column"):
        sigmoid_problem("breast_cancer", scale="rows")


def test_columns_scaled(problem):
    scaled = sigmoid_problem("breast_cancer", scale="column")
    np.testing.assert_allclose(np.abs(scaled.X).max(0), 1)


def few_words(rows=60, columns=40):
    "Rows of a few words, the first five empty, and their labels."
    rng = np.random.default_rng(0)
    X = (rng.random((rows, columns)) < 0.05) * rng.integers(1, 4, (rows, columns)).astype(float)
    X[:5] = 0
    X[:, 3] = 0
    return sparse.csr_matrix(X), np.arange(rows) % 2


@pytest.fixture
def sparse_set(monkeypatch):
    monkeypatch.setattr(horvath, "load_libsvm", lambda name: few_words())


def test_a_sparse_set_stays_sparse_and_an_empty_row_is_lifted(sparse_set):
    problem = sigmoid_problem("few words")
    assert problem.is_sparse
    assert (problem.L[:5] == 0).all()
    assert (problem.lifted_smoothness[:5] == problem.L[problem.L > 0].min()).all()


@pytest.mark.parametrize("scale", ["raw", "column"])
@pytest.mark.parametrize("method", ["svrg", "saga", "sarah"])
def test_runs_on_sparse_rows_are_those_on_dense_rows(sparse_set, monkeypatch, scale, method):
    few = sigmoid_problem("few words", scale=scale)
    monkeypatch.setattr(horvath, "_DENSE", 0.0)
    dense = sigmoid_problem("few words", scale=scale)
    assert not dense.is_sparse
    np.testing.assert_array_equal(few.X.toarray(), dense.X)
    how = dict(seed=0, passes=5, points=5)
    for arm in ("nice", "importance"):
        law = make_sampling(arm, few.lifted_smoothness, 4)
        runs = [horvath_run(problem, method, law, **how) for problem in (few, dense)]
        np.testing.assert_allclose(runs[0]["grad_norm"], runs[1]["grad_norm"], rtol=1e-9)


@pytest.mark.parametrize("name", ["nice", "importance", "approximate"])
def test_every_sampling_has_the_expected_size(name):
    law = make_sampling(name, np.array([1.0, 2.0, 3.0, 4.0]), 2)
    assert law.inclusion_probabilities.sum() == pytest.approx(2)


def test_samplings_of_two_of_four_by_hand():
    L = np.array([1.0, 2.0, 3.0, 4.0])
    assert make_sampling("nice", L, 2).inclusion_probabilities.tolist() == [0.5] * 4
    importance = make_sampling("importance", L, 2)
    np.testing.assert_allclose(importance.inclusion_probabilities, [0.2, 0.4, 0.6, 0.8])


# --- predictions


def test_predictions_follow_the_bounds(problem):
    L = problem.lifted_smoothness
    n = problem.n
    known = dict(n=n, L_mean=L.mean(), gap=0.25, accuracy=1e-3)
    for b in (1, 10):
        plan = make_plan(problem, "sarah", make_sampling("nice", L, b))
        T = 2 * 0.25 / (plan.lr * 1e-3)
        want = 2 * b * T + n * T / (plan.inner_steps + 1)
        assert predicted_evaluations(plan, **known) == pytest.approx(want)

        plan = make_plan(problem, "svrg", make_sampling("importance", L, b))
        settings = dict(n=n, b=plan.b, alpha=plan.alpha, L_mean=L.mean())
        G = plan.lr * gammas(plan.lr, **settings, steps=plan.inner_steps).min()
        assert plan.lr / 2 * (1 - 1e-9) <= G
        want = 0.25 / (G * 1e-3) * (2 * plan.b + n / plan.inner_steps)
        assert predicted_evaluations(plan, **known) == pytest.approx(want)

        plan = make_plan(problem, "saga", make_sampling("nice", L, b))
        assert predicted_evaluations(plan, **known) > n


def test_predictions_that_cannot_be_made(problem):
    L = problem.lifted_smoothness
    known = dict(n=problem.n, L_mean=L.mean(), gap=0.25, accuracy=1e-3)
    plan = make_plan(problem, "saga", make_sampling("nice", L, 10))
    uncovered = plan._replace(lr=10 / L.mean())  # a step that no theorem covers
    assert predicted_evaluations(uncovered, **known) == np.inf
    with pytest.raises(UnknownName):
        predicted_evaluations(plan._replace(method="sgd"), **known)
    with pytest.raises(InvalidArgument):
        predicted_evaluations(plan, **{**known, "accuracy": 0})
    with pytest.raises(InvalidArgument, match="svrg needs inner_steps"):
        predicted_evaluations(plan._replace(method="svrg", inner_steps=None), **known)


def test_bound_holds_for_the_mean_over_iterates(problem):
    """What is predicted is an upper bound (SARAH, restarted).

    The mean squared norm over the run up to the predicted count lies below the accuracy."""
    L = problem.lifted_smoothness
    start = np.zeros(problem.d)
    law = make_sampling("importance", L, 10)
    accuracy = (0.3 * np.linalg.norm(problem.grad(start))) ** 2
    plan = make_plan(problem, "sarah", law)
    known = dict(n=problem.n, L_mean=L.mean(), gap=problem.loss(start))
    passes = predicted_evaluations(plan, **known, accuracy=accuracy) / problem.n
    run = horvath_run(
        problem, "sarah", law, seed=0, passes=passes, points=50, record_every=passes / 50
    )
    assert np.mean(run["grad_norm"] ** 2) <= 0.3**2


@pytest.mark.skipif(data_dir() is None, reason="needs the LIBSVM files: set IMPSAMP_DATA")
def test_headline_constants_by_hand():
    """australian, raw, b = 10: 685 probabilities below 1, alpha 207 against 0.0284.

    splice and ijcnn1 differ by two percent."""

    def plans(name):
        problem = sigmoid_problem(name)
        L = problem.lifted_smoothness
        laws = [make_sampling(sampling, L, 10) for sampling in ("nice", "importance")]
        return [make_plan(problem, "svrg", law) for law in laws]

    nice, best = plans("australian")
    assert (best.p < 1).sum() == 685
    assert nice.alpha == pytest.approx(206.5, abs=0.1)
    assert best.alpha == pytest.approx(0.02844, abs=1e-5)
    assert nice.alpha / best.alpha == pytest.approx(7261, abs=2)
    for name in ("splice", "ijcnn1.val"):
        nice, best = plans(name)
        assert 1.01 < nice.alpha / best.alpha < 1.03


# --- runs


def test_first_passage_is_interpolated_in_the_logarithm():
    passes = np.array([0.0, 10.0, 20.0])
    falling = np.array([0.25, 0.2, 0.1])
    assert passes_to(passes, np.array([1.0, 0.1, 0.01]), falling, 0.1) == 10
    assert passes_to(passes, np.array([1.0, 0.1, 0.001]), falling, 0.01) == pytest.approx(15)
    assert passes_to(passes, np.array([1.0, 0.5, 0.4]), falling, 0.1) == np.inf
    # a flat place above the start does not count
    above = np.array([0.25, 0.5, 0.5])
    assert passes_to(passes, np.array([1.0, 1e-9, 1e-9]), above, 0.1) == np.inf


def test_a_saturated_run_is_stuck_and_scores_nothing(problem):
    law = make_sampling("nice", problem.lifted_smoothness, 10)
    lr = 1e4 / problem.L.mean()
    run = horvath_run(problem, "svrg", law, seed=0, passes=5, lr=lr, points=5)
    assert run["outcome"] == "stuck"
    assert run["grad_log"] == 0
    assert run["final_log"] == 0
    assert not run["stable"]
    assert run["passes_0.1"] == 5
    assert run["loss"][-1] > run["loss"][0]


def test_same_seed_same_run_and_the_grid_is_kept(problem):
    law = make_sampling("approximate", problem.lifted_smoothness, 10)
    a, b = (horvath_run(problem, "saga", law, seed=4, passes=6, points=3) for _ in range(2))
    assert a["grid"].tolist() == [0, 2, 4, 6]
    assert a["grad_norm"][0] == 1
    assert np.array_equal(a["grad_norm"], b["grad_norm"])
    assert a["outcome"] == "ok"


def test_numbers_come_in_the_order_of_the_records_columns(problem):
    law = make_sampling("nice", problem.lifted_smoothness, 10)
    run = horvath_run(problem, "svrg", law, seed=0, passes=2, points=2, targets=(0.1, 0.03))
    assert " ".join(name for name, value in run.items() if np.ndim(value) == 0) == (
        "outcome lr alpha rule grad_log loss_log final_log stable saturation set_size "
        "passes_0.1 passes_0.03"
    )


# --- records


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("lib_name = impsamp\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMPSAMP_OUTPUT", raising=False)
    return tmp_path


def test_rows_of_missing_sets_are_kept(checkout):
    first = pd.DataFrame(dict(setting=["b", "a"], value=[2.5, 1.5]))
    merge_records("demo", "setting", first, [])
    second = pd.DataFrame(dict(setting=["a"], value=[3.5]))
    merged = merge_records("demo", "setting", second, ["b"])
    assert merged.value.tolist() == [2.5, 3.5]
    assert pd.read_csv(checkout / "data" / "records" / "demo.csv").equals(merged)


def test_rows_that_were_begun_before_the_data_failed_are_not_mixed_in(checkout):
    merge_records("demo", "setting", pd.DataFrame(dict(setting=["b"], value=[2.5])), [])
    begun = pd.DataFrame(dict(setting=["a", "b"], value=[1.5, 9.0]))
    merged = merge_records("demo", "setting", begun, ["b"])
    assert merged.value.tolist() == [2.5, 1.5]


def test_a_setting_without_committed_rows_cannot_be_kept(checkout):
    with pytest.raises(RecordError, match=r"demo.csv has no rows to keep of b, c"):
        merge_records("demo", "setting", pd.DataFrame(), ["b", "c"])


def test_a_smoke_run_reads_the_committed_rows_and_leaves_them(checkout, monkeypatch):
    merge_records("demo", "setting", pd.DataFrame(dict(setting=["b"], value=[2.5])), [])
    committed = (checkout / "data" / "records" / "demo.csv").read_bytes()
    monkeypatch.setenv("IMPSAMP_OUTPUT", str(checkout / "smoke"))
    made = pd.DataFrame(dict(setting=["a"], value=[1 / 3]))
    merge_records("demo", "setting", made, ["b"])
    written = checkout / "smoke" / "data" / "records" / "demo.csv"
    assert written.read_text() == "setting,value\nb,2.5\na,0.333333\n"
    assert (checkout / "data" / "records" / "demo.csv").read_bytes() == committed


# --- one rule for both samplings, and runs that go on to their target


@pytest.mark.parametrize("method", ["svrg", "saga"])
@pytest.mark.parametrize("arm", ["nice", "importance"])
def test_the_computed_step_is_the_largest_that_the_recursion_allows(problem, method, arm):
    "At it every Gamma is half of the step for some beta; a percent above, for none."
    L = problem.lifted_smoothness
    law = make_sampling(arm, L, 10)
    plan = make_plan(problem, method, law)
    lr, m = computed_step(problem, method, law)
    assert lr >= plan.lr
    known = dict(n=problem.n, b=plan.b, alpha=plan.alpha, L_mean=L.mean(), steps=m)
    known["refresh"] = plan.table / problem.n if method == "saga" else 0.0
    betas = L.mean() / problem.n ** (1 / 3) * np.geomspace(1e-2, 1e3, 101)

    def allowed(step):
        every = [gammas(step, beta=beta, **known).min() for beta in betas]
        return max(every) >= 0.5

    assert allowed(lr * (1 - 1e-9))
    assert not allowed(lr * 1.01) or lr * L.mean() == pytest.approx(1)


def test_where_the_theorem_computes_gamma_the_two_rules_agree():
    "Importance sampling on rows as uneven as this has alpha n^(2/3) < b."
    g = np.random.default_rng(0)
    rows = g.normal(size=(200, 3)) * np.geomspace(1, 1e-3, 200)[:, None]
    uneven = SigmoidLeastSquares(rows, (g.random(200) < 0.5).astype(float))
    law = make_sampling("importance", uneven.lifted_smoothness, 20)
    for method in ("svrg", "saga"):
        plan = make_plan(uneven, method, law)
        assert plan.rule == "computed Gamma"
        lr, m = computed_step(uneven, method, law)
        assert lr == pytest.approx(plan.lr, rel=1e-12)
        assert m == plan.inner_steps


def test_sarah_has_one_rule(problem):
    law = make_sampling("nice", problem.lifted_smoothness, 10)
    with pytest.raises(UnknownName, match="svrg"):
        computed_step(problem, "sarah", law)


def test_a_run_to_its_target_stops_there_and_the_same_run_would_have_passed_it(problem):
    law = make_sampling("importance", problem.lifted_smoothness, 10)
    common = dict(seed=3, passes=60, record_every=0.5, targets=(0.5,))
    whole = horvath_run(problem, "sarah", law, **common)
    short = horvath_run(problem, "sarah", law, until=0.5, **common)
    assert short["passes_0.5"] == whole["passes_0.5"] < 60
    assert short["grad_norm"][-1] <= 0.5
    assert short["grad_norm"][-1] > whole["grad_norm"][-1]


def test_a_grid_may_be_spaced_in_the_logarithm(problem):
    law = make_sampling("importance", problem.lifted_smoothness, 10)
    common = dict(seed=3, passes=10, record_every=0.1)
    run = horvath_run(problem, "sarah", law, first=0.1, points=5, **common)
    np.testing.assert_allclose(run["grid"], [0, 0.1, 10**-0.5, 1, 10**0.5, 10])
    want = np.log(np.minimum(run["grad_norm"][1:], 1)).mean()
    assert run["grad_log"] == pytest.approx(want)
    with pytest.raises(InvalidArgument, match="first"):
        horvath_run(problem, "sarah", law, first=11.0, **common)
