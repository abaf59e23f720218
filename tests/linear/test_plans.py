"Which rule a plan takes, and what it refuses."

import numpy as np
import pytest

from impsamp.errors import InvalidArgument
from impsamp.linear import (
    convex_sarah_factor,
    convex_sarah_step,
    expected_smoothness,
    make_plan,
    minimize,
)
from impsamp.linear.plans import METHODS, resolve_sampling
from impsamp.problems import LogisticRegression, SigmoidLeastSquares
from impsamp.samplers import IndependentSampling, NiceSampling
from impsamp.theory.minibatch import minibatch_probabilities
from tests.linear.helpers import features


def test_convex_sarah_factor_is_a_half_and_its_epoch_the_shortest():
    s = convex_sarah_step(L=3.0, mu=0.01)
    assert convex_sarah_factor(s.lr, s.inner_steps, L=3.0, mu=0.01) <= 0.5 + 1e-12
    a = np.linspace(1e-3, 0.66, 400)
    epochs = np.ceil(1 / (0.01 * a / 3 * (0.5 - a / (2 - a))))
    assert epochs.min() >= s.inner_steps - 1


def unequal():
    "200 items whose constants differ by orders of magnitude."
    rng = np.random.default_rng(0)
    A = rng.normal(size=(200, 2)) * np.exp(2.5 * rng.normal(size=(200, 1)))
    return SigmoidLeastSquares(A, np.arange(200) % 2)


def test_the_rule_that_applied_is_part_of_the_plan():
    """b above alpha n^(2/3): the closed form must give way to the computed Gamma_t.

    The paper's headline case has alpha = 0.028."""
    problem = unequal()
    sampling = IndependentSampling(minibatch_probabilities(problem.L, 40))
    strong = make_plan(problem, "svrg", sampling)
    assert strong.b > strong.alpha * 200 ** (2 / 3)
    assert "closed form" not in strong.rule
    assert "Gamma" in strong.rule
    assert strong.inner_steps == 5
    assert "closed form" in make_plan(problem, "svrg", NiceSampling(200, 2)).rule
    assert make_plan(problem, "saga", sampling).table > 40
    assert make_plan(problem, "saga", sampling, one_draw=True).table == 0


def test_the_convex_rule_refuses_nonconvex_sums():
    X, y = features()
    with pytest.raises(InvalidArgument, match="convex problem"):
        minimize(SigmoidLeastSquares(X, y), "saga", "importance", lr="convex")


def test_expected_smoothness_of_nice_and_independent_minibatches():
    "Nice: c = n(b-1)/(b(n-1)), v = (n-b)/(n-1). Independent: c = 1, v_i = 1 - p_i."
    L = np.array([1.0, 2.0, 6.0])
    nice = NiceSampling(3, 2)
    p = np.asarray(nice.inclusion_probabilities)
    assert np.isclose(expected_smoothness(L, p, nice.v), 0.75 * 3 + 0.5 * 6 / (3 * 2 / 3))
    p = np.full(3, 0.5)
    assert np.isclose(expected_smoothness(L, p, 1 - p), 3 + 0.5 * 6 / 1.5)
    assert expected_smoothness(L, np.ones(3), np.zeros(3)) == 3


@pytest.mark.parametrize("method", METHODS)
def test_what_a_step_costs(method):
    X, y = features()
    plan = make_plan(LogisticRegression(X, y, l2=0.1), method, NiceSampling(40, 4), lr=0.1)
    table = plan.table
    assert (table > 0) == (method == "saga")
    assert plan.cost == dict(svrg=8, sarah=8, saga=4 + table, sgd=4, gd=40)[method]
    assert np.allclose(plan.scale, 1 / (40 * plan.p))
    assert plan.inner_steps == (10 if method in ("svrg", "sarah") else None)


def test_a_plan_says_what_it_is():
    X, y = features()
    plan = make_plan(LogisticRegression(X, y), "svrg", NiceSampling(40, 4), lr=0.125)
    assert repr(plan) == "Plan(svrg, n = 40, b = 4, lr = 0.125, m = 10; given by hand)"


def test_a_duck_without_pairwise_probabilities_will_do():
    class Duck:
        inclusion_probabilities = np.full(4, 0.5)
        v = np.full(4, 0.5)

        def draw(self, generator, *, step=0):
            raise NotImplementedError

    duck = Duck()
    assert resolve_sampling(duck, np.ones(4)) is duck
    with pytest.raises(InvalidArgument, match="draw, inclusion_probabilities and v"):
        resolve_sampling(object(), np.ones(4))


def test_the_intercept_keeps_the_step_size_of_the_losses():
    "A ridge is taken by a proximal step: lr = lr0 / (1 + lr0 l2), lr0 that of the losses alone."
    X, y = features()
    steps = []
    for l2 in (0.0, 1.0, 1e12):
        f = LogisticRegression(X, y, l2=l2, fit_intercept=True)
        plan = make_plan(f, "saga", NiceSampling(40, 4), lr="convex")
        steps.append(plan.intercept_lr)
        assert np.isclose(plan.lr, 1 / (1 / plan.intercept_lr + l2), rtol=1e-12)
        assert ("proximal" in plan.rule) == (l2 > 0)
    assert np.allclose(steps, steps[0], rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        dict(lr=None, fit_intercept=True, l2=2.0),
        dict(lr=0.1, fit_intercept=True, l2=2.0),
        dict(lr="convex", fit_intercept=False, l2=2.0),
        dict(lr="convex", fit_intercept=True, l2=np.full(5, 2.0)),
    ],
)
def test_elsewhere_there_is_one_step_size(options):
    X, y = features()
    lr = options.pop("lr")
    plan = make_plan(LogisticRegression(X, y, **options), "svrg", "importance", lr=lr)
    assert plan.intercept_lr == plan.lr
    assert "proximal" not in plan.rule
