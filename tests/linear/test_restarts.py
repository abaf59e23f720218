"Algorithm 4: each round does what its theorem promises, and a round is as short as it may be."

import numpy as np
import pytest

from impsamp.errors import InvalidArgument, UnknownName
from impsamp.linear import make_plan, restart
from impsamp.linear.restarts import round_steps
from impsamp.problems import LogisticRegression
from impsamp.theory.minibatch import step_size
from tests.linear.six_items import PROBLEM, X


@pytest.mark.parametrize(
    "method, rule", [("svrg", None), ("saga", None), ("sarah", None), ("sarah", "convex")]
)
def test_each_round_of_a_restart_halves_the_squared_norm(method, rule):
    "Mean over 20 seeds of ||grad f(x^k)||^2 against 2^-k ||grad f(x^0)||^2, k = 1..4."

    def squared_norms(seed):
        options = dict(rounds=4, lr=rule, generator=np.random.default_rng(seed))
        rows = restart(PROBLEM, method, "importance", **options).rounds
        return [row["grad_norm"] ** 2 for row in rows]

    start = np.linalg.norm(PROBLEM.grad(np.zeros(3))) ** 2
    norms = [squared_norms(s) for s in range(20)]
    assert (np.mean(norms, axis=0) <= start * 0.5 ** np.arange(1, 5)).all()


def test_a_sarah_round_is_the_shortest_whose_bound_is_a_half():
    plan = make_plan(PROBLEM, "sarah", "importance")
    L_mean = float(np.mean(PROBLEM.L))
    lr, m, steps, _ = round_steps(plan, n=PROBLEM.n, L_mean=L_mean, tau=5.0)

    def bound(m):
        sizes = dict(n=PROBLEM.n, b=plan.b, alpha=plan.alpha, L_mean=L_mean)
        return 2 * 5.0 / (step_size("sarah", inner_steps=m, **sizes).lr * (m + 1))

    assert bound(m) <= 0.5 < bound(m - 1)
    assert steps == m + 1
    assert np.isclose(2 * 5.0 / (lr * (m + 1)), bound(m))


def test_costs_add_up_over_rounds_and_tol_stops():
    options = dict(generator=np.random.default_rng(0))
    r = restart(PROBLEM, "svrg", "uniform", rounds=3, **options)
    assert [row["round"] for row in r.rounds] == [1, 2, 3]
    spent = [row["grad_evals"] for row in r.rounds]
    assert spent == [spent[0], 2 * spent[0], 3 * spent[0]]
    assert all(row["steps"] == r.steps for row in r.rounds)
    assert np.isclose(r.rounds[-1]["loss"], PROBLEM.loss(r.x))
    assert not r.converged
    assert repr(r).startswith(f"RestartResult(svrg, uniform, 3 rounds of {r.steps} steps, ")
    early = restart(PROBLEM, "svrg", "uniform", rounds=3, tol=1e3, **options)
    assert early.converged
    assert len(early.rounds) == 1


@pytest.mark.parametrize(
    "options, error, what",
    [
        (dict(method="sgd"), UnknownName, "saga, sarah, svrg"),
        (dict(lr=0.1), InvalidArgument, "lr must be None"),
        (dict(lr="convex"), InvalidArgument, "'convex' with sarah"),
        (dict(problem=LogisticRegression(X, [0, 1, 1, 0, 1, 0])), InvalidArgument, "give tau"),
        (dict(tau=0), InvalidArgument, "tau"),
        (dict(rounds=0), InvalidArgument, "rounds"),
        (dict(sampling=3), InvalidArgument, "sampler"),
    ],
)
def test_bad_arguments(options, error, what):
    parts = dict(problem=PROBLEM, method="svrg", sampling="importance") | options
    with pytest.raises(error, match=what):
        restart(**parts)
