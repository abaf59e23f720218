"On six items: conditional means of the compiled steps, and Lemma 1's bound on their variance."

import numpy as np
import pytest

from tests.linear.six_items import LR, PROBLEM, SAMPLINGS, START, SUBSETS, N, law, run

FIRST = (0, 2)
SECOND = (1, 2, 5)
TABLES = [np.array([4]), np.array([0, 5]), np.array([3])]


def data_grads(x):
    "Gradients of the items without the regulariser, (6, 3)."
    return PROBLEM.grad_items(x, np.arange(N)) - PROBLEM.regulariser_grad(x)


def sarah_terms(x, before):
    "(change of the items' gradients, mean of the next v): only the increment is unbiased."
    estimate = (before - x) / LR - PROBLEM.regulariser_grad(before)
    z = data_grads(x) - data_grads(before)
    return z, estimate + z.mean(axis=0) + PROBLEM.regulariser_grad(x)


def anchored_terms(method, x, before, refreshed):
    "(distance of the items' gradients from their anchors, mean of the next v)."
    anchors = np.zeros((N, 3)) if method == "sgd" else data_grads(START)
    if method == "saga":
        anchors[refreshed] = data_grads(before)[refreshed]
    return data_grads(x) - anchors, PROBLEM.grad(x)


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize(
    "method, one_draw",
    [("sgd", False), ("svrg", False), ("saga", False), ("saga", True), ("sarah", False)],
)
def test_conditional_mean_and_the_variance_bound_of_lemma_1(name, method, one_draw):
    s = SAMPLINGS[name]
    tables = TABLES if method == "saga" and not one_draw else None

    def after(*draws):
        second = tables[: len(draws)] if tables else None
        return run(method, draws, second, sampling=s, one_draw=one_draw)

    before = after(FIRST)
    x = after(FIRST, SECOND)
    ends = {S: after(FIRST, SECOND, S) for S in SUBSETS}
    probability = law(name)
    assert abs(sum(probability.values()) - 1) < 1e-12
    mean = sum(probability[S] * ends[S] for S in SUBSETS)
    if method == "sarah":
        z, expected = sarah_terms(x, before)
    else:
        z, expected = anchored_terms(method, x, before, [0, 5] if tables else list(SECOND))
    assert np.abs((x - mean) / LR - expected).max() < 1e-12
    spread = sum(probability[S] * np.sum((ends[S] - mean) ** 2) for S in SUBSETS) / LR**2
    p = np.asarray(s.inclusion_probabilities)
    v = np.asarray(s.v)
    bound = np.sum(v / p * np.sum(z**2, axis=1)) / N**2
    assert spread <= bound * (1 + 1e-9)
    if name == "independent":
        assert np.isclose(spread, bound)
