"""The measured learning rate factor: moments by enumeration, hooks, states, refusals."""

from itertools import product

import numpy as np
import pytest
import torch

from impsamp.errors import ImpsampError, InvalidArgument, InvalidScores, InvalidShape, UnknownName
from impsamp.optimizers import LearningRateFactor, learning_rate_factor
from impsamp.optimizers.learning_rate import moments_of_draw
from impsamp.theory import second_moment

P = np.array([0.5, 0.2, 0.3])
G = np.array([[3.0, 0.0], [-1.0, 1.0], [0.0, 2.0]])
NORMS = np.linalg.norm(G, axis=1)
U = np.full(3, 1 / 3)


def enumerated(batch):
    "E of (H(p), H(u), ||ghat||^2) as one draw of `batch` shows them."
    mean = np.zeros(3)
    for items in product(range(3), repeat=batch):
        idx = list(items)
        w = 1 / (batch * 3 * P[idx])
        seen = [*moments_of_draw(w, NORMS[idx]), np.square(w @ G[idx]).sum()]
        mean += P[idx].prod() * np.array(seen)
    return mean


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_moments_are_unbiased(batch):
    h_p, h_u, squares = enumerated(batch)
    assert np.isclose(h_p, second_moment(P, NORMS))
    assert np.isclose(h_u, second_moment(U, NORMS))
    drift = np.square(G.mean(0)).sum()
    assert np.isclose(squares, drift * (1 - 1 / batch) + h_p / batch)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_the_factor_is_that_of_the_largest_decrease(batch):
    h_p, h_u = second_moment(P, NORMS), second_moment(U, NORMS)
    drift = np.square(G.mean(0)).sum()

    def best(h):
        "The rate of the largest expected decrease for L = 1, by search."
        second = drift * (1 - 1 / batch) + h / batch
        rates = np.linspace(0, 2, 200_001)
        return rates[np.argmax(rates * drift - rates**2 * second / 2)]

    squares = drift * (1 - 1 / batch) + h_p / batch
    found = learning_rate_factor(h_p, h_u, batch, squares)
    assert np.isclose(found, best(h_p) / best(h_u), rtol=1e-3)
    if batch > 1:
        linear = learning_rate_factor(h_p, h_u, batch, squares, "linear")
        assert np.isclose(linear, (h_u - drift) / (h_p - drift))


def parts(**options):
    w = torch.zeros(1, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=0.5)
    return w, sgd, LearningRateFactor(sgd, **options)


def test_a_step_is_scaled_and_the_rate_put_back():
    "H(p) = 2 (0.5^2 1 + 0.5^2 1) = 1, H(u) = 0.5 + 0.5 = 1: nothing to gain; then a gain of 2."
    w, sgd, auto = parts(memory=0.0)
    w.grad = torch.ones(1)
    auto.observe([0.5, 0.5], [1.0, 1.0])
    sgd.step()
    assert auto.factor == 1 and w.item() == -0.5
    # H(p) = 2 * 2 (0.25 * 1)^2 = 0.25, H(u) = 2 * 0.25 = 0.5: 1 + 0.25/(2 * 1)
    auto.observe([0.25, 0.25], [1.0, 1.0])
    sgd.step()
    assert auto.factor == 1.125 and np.isclose(w.item(), -0.5 - 0.5 * 1.125)
    assert sgd.param_groups[0]["lr"] == 0.5
    auto.remove()
    sgd.step()
    assert np.isclose(w.item(), -1 - 0.5 * 1.125)


def test_the_factor_stays_within_its_bounds():
    w, sgd, auto = parts(memory=0.0, low=0.9, high=1.1)
    for weight, wanted in (([0.01], 1.1), ([5.0], 0.9)):
        w.grad = torch.full((1,), 0.1)
        auto.observe(weight, [1.0])
        sgd.step()
        assert auto.factor == wanted


def test_schedules_see_the_rates_that_they_set():
    w, sgd, auto = parts(memory=0.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(sgd, 0.5)
    for k in range(3):
        w.grad = torch.ones(1)
        auto.observe([0.25, 0.25], [1.0, 1.0])
        sgd.step()
        assert sgd.param_groups[0]["lr"] == 0.5 * 0.5**k
        schedule.step()


def test_a_step_that_fails_does_not_leave_the_rate_scaled():
    w, sgd, auto = parts(memory=0.0)
    w.grad = torch.ones(1)
    auto.observe([0.25, 0.25], [1.0, 1.0])
    with pytest.raises(ZeroDivisionError):
        sgd.step(lambda: 1 / 0)
    sgd.step()
    assert sgd.param_groups[0]["lr"] == 0.5


def test_norms_that_are_not_finite_and_steps_without_a_draw_teach_nothing():
    w, sgd, auto = parts()
    w.grad = torch.ones(1)
    auto.observe([0.5, 0.5], [1.0, np.inf])
    auto.observe([], [])
    sgd.step()
    assert auto.state_dict() == {"averages": [0.0] * 4, "total": 0.0}


def test_states():
    w, sgd, auto = parts()
    w.grad = torch.ones(1)
    auto.observe([0.25, 0.25], [1.0, 1.0])
    sgd.step()
    state = auto.state_dict()
    _, _, twin = parts()
    twin.load_state_dict(state)
    assert twin.factor == auto.factor != 1
    for bad in ({}, {**state, "averages": [1.0]}, {**state, "averages": [1.0, 1, 1, np.nan]}):
        with pytest.raises(ImpsampError):
            twin.load_state_dict(bad)
    for total in (-1.0, np.nan, "x"):
        with pytest.raises(ImpsampError):
            twin.load_state_dict({**state, "total": total})
    assert twin.state_dict() == state


@pytest.mark.parametrize(
    "options, error",
    [
        ({"rule": "cubic"}, UnknownName),
        ({"memory": 1.0}, InvalidArgument),
        ({"low": 0.0}, InvalidArgument),
        ({"low": 2.0, "high": 1.0}, InvalidArgument),
    ],
)
def test_bad_settings(options, error):
    with pytest.raises(error):
        parts(**options)


def test_bad_observations():
    _, _, auto = parts()
    with pytest.raises(InvalidShape):
        auto.observe([0.5], [1.0, 2.0])
    with pytest.raises(InvalidScores):
        auto.observe([0.5], [-1.0])
    with pytest.raises(InvalidArgument, match="torch optimizer"):
        LearningRateFactor(object())
