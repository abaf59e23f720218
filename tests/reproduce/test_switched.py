"""The switched arm: the first epoch, off by a made-up clock, on again, replayed to the bit."""

import numpy as np
import pytest

from impsamp.errors import Diverged, InvalidArgument
from impsamp.reproduce.contest import AHEAD, Contestant
from impsamp.reproduce.contest_tasks import contest_task
from impsamp.reproduce.switched import RULE, Switched, SwitchedContestant, switched_run


def contestant(costs, rule=RULE):
    "On a clock whose step on takes `costs[0]`, off `costs[1]`; returns it and how to step."
    now = [0.0]
    one = SwitchedContestant(
        contest_task("digits"),
        "momentum",
        batch=10,
        lr=0.05,
        seed=2,
        rule=rule,
        clock=lambda: now[0],
    )

    def step():
        one.step(0.02)
        now[0] += costs[0] if one.source.on else costs[1]

    return one, step


def test_the_first_epoch_is_that_of_the_remembered_arm():
    one, step = contestant((9.0, 1.0))
    other = Contestant(contest_task("digits"), "remembered", "momentum", batch=10, lr=0.05, seed=2)
    for _ in range(11):
        step()
        other.step(0.02)
        assert one.source.on
    assert all((a == b).all() for a, b in zip(one.model.parameters(), other.model.parameters()))
    assert one.source.steps == 0 and not one.source.equal


def test_a_dear_one_goes_off_and_shuffles_without_scores():
    one, step = contestant((9.0, 1.0))
    calls = []
    passing = one.passing
    one.passing = lambda weight: calls.append(1) or passing(weight)
    met = []
    for _ in range(11 + 4 * AHEAD + 20):
        step()
    assert len(calls) == 11 + 2 * AHEAD and [d.on for d in one.source.log] == [False]
    for _ in range(10):
        idx, weight = one.source.draw(10)
        assert weight is None
        met += idx.tolist()
    assert np.bincount(met, minlength=100).max() <= 2  # pieces of shuffled epochs
    assert one.source.scored == 2 * AHEAD


def test_it_comes_on_again_when_it_is_cheap_enough():
    costs = [9.0, 1.0]
    one, step = contestant(costs)
    for k in range(7000):
        if k == 300:
            costs[0] = 0.5
        step()
        if one.source.log and one.source.log[-1].on:
            break
    assert not one.source.log[0].on and one.source.log[-1].on
    below = [d for d in one.source.log if d.seconds_on < 1]
    assert len(below) >= 1


def test_decisions_are_logged_and_replayed():
    first = switched_run("digits", "adam", 0.003, 10, 60, 4)
    other = np.array(first["log"])
    other[0, 1] = 1 - other[0, 1]
    turned = switched_run("digits", "adam", 0.003, 10, 60, 4, replay=other.tolist())
    again = switched_run("digits", "adam", 0.003, 10, 60, 4, replay=first["log"].tolist())
    assert again["train_loss"] == first["train_loss"] != turned["train_loss"]
    assert turned["on"] != first["on"] == again["on"]
    with pytest.raises(InvalidArgument, match="no decision"):
        switched_run("digits", "adam", 0.003, 10, 60, 4, replay=[(5, 1, 0, 0, 0)])


def test_scores_that_overflow_end_the_run():
    source = Switched(4, np.random.default_rng(0), RULE, lambda: 0.0)
    source.draw(4)
    with pytest.raises(Diverged):
        source.tell(np.array([np.inf] * 4))
    assert not switched_run("digits", "momentum", 1e30, 10, 30, 0)["finite"]
