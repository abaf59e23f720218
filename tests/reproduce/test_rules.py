"""What `probe` says after one epoch of a contest's cell."""

import math

import pytest
import torch

from impsamp.assess.remembering import remembered_time
from impsamp.reproduce.rules import batches_of, rule_run

SETTING = dict(task="digits", optimizer="momentum", lr=0.05, batch=10, steps=40, seconds=0.05)


def test_batches_hold_every_item_in_order():
    x, y = torch.arange(14.0).view(7, 2), torch.arange(7)
    parts = batches_of(x, y, 3)
    assert [len(b) for _, b in parts] == [3, 3, 1]
    assert torch.cat([a for a, _ in parts]).equal(x)
    assert torch.cat([b for _, b in parts]).equal(y)


def test_what_is_said_is_the_bound_of_what_was_measured():
    found = rule_run(**SETTING, epochs=5.0, seed=1)
    numbers = (found["gain"], found["cost"], 5.0, found["noise"])
    assert found["time"] == pytest.approx(remembered_time(*numbers))


def test_the_epoch_repeats_and_the_clock_does_not_count():
    first, again = (rule_run(**SETTING, epochs=5.0, seed=2) for _ in range(2))
    assert first["gain"] == again["gain"]
    assert first["noise"] == again["noise"]
    assert rule_run(**SETTING, epochs=5.0, seed=3)["gain"] != first["gain"]


def test_a_target_within_the_first_epoch_gains_nothing():
    found = rule_run(**SETTING, epochs=0.4, seed=1)
    assert math.isclose(found["time"], found["cost"])
