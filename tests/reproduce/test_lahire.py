"""The first paper's runs: what is refused, what is recorded, and the loss from margins."""

import contextlib
import math

import numpy as np
import pytest
import torch

import impsamp.reproduce.lahire as lahire
from impsamp.errors import InvalidArgument, UnknownName
from impsamp.reproduce.lahire import (
    PAPER_ARMS,
    binary_metrics,
    checkpoint_table,
    make_optimizer,
    paper_run,
    predicted_curve,
    summed_curve,
    timed_paper_run,
)


def test_a_diverging_paper_run_under_norms_is_recorded():
    result = paper_run(optimizer="sgd", scheme="gn", seed=0, lr=1e30, steps=20, test=False)
    assert 0 < result["diverged_at"] < 20 and np.isinf(result["train_loss"][-1])


def test_numbers_below_the_range_change_no_bit_of_a_run(monkeypatch):
    "Adam learns most images to the last bit; with and without their gradients of 1e-40."
    arm = dict(optimizer="adam", scheme="gn", seed=1000, steps=45, eval_every=15, test=False)
    without = paper_run(**arm)
    monkeypatch.setattr(lahire, "_subnormals_as_zero", contextlib.nullcontext)
    within = paper_run(**arm)
    assert within.keys() == without.keys()
    assert all(np.array_equal(within[key], without[key]) for key in within)
    assert within["train_loss"][-1] < 1e-12


def test_small_numbers_are_back_after_a_run():
    paper_run(optimizer="sgd", scheme="u", seed=0, steps=1, test=False)
    assert torch.tensor(1e-38) * 1e-3 > 0


def test_unknown_names():
    for kind, bad in (
        ("optimizer", dict(optimizer="sdg", scheme="u")),
        ("scheme", dict(optimizer="sgd", scheme="uu")),
    ):
        with pytest.raises(UnknownName, match=kind):
            paper_run(seed=0, **bad)
    with pytest.raises(InvalidArgument, match="lr"):
        paper_run(optimizer="sgd", scheme="u", seed=0, lr=0)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    paper_run(optimizer="sgd", scheme="gn", seed=0, steps=2, test=False)
    assert torch.equal(before, torch.random.get_rng_state())


def test_loss_from_margins_does_not_round_to_zero():
    loss, accuracy = binary_metrics(
        torch.tensor([[0.0, -60.0], [-60.0, 0.0]]), torch.tensor([0, 1])
    )
    assert 0 < loss < 1e-25 and accuracy == 1


def test_the_ten_arms_of_table_1():
    assert len(PAPER_ARMS) == len(set(PAPER_ARMS)) == 10
    assert {o for o, s in PAPER_ARMS if s == "half"} == {"sgd", "momentum"}
    momentum = make_optimizer("momentum", [torch.zeros(1, requires_grad=True)], 0.1)
    assert momentum.param_groups[0]["momentum"] == 0.5 and momentum.param_groups[0]["lr"] == 0.1


def test_rows_share_the_evaluations_of_a_run_by_steps():
    run = paper_run(optimizer="sgd", scheme="gn", seed=0, steps=20, test=False)
    config = dict(optimizer="sgd", scheme="gn", seed=0)
    table = checkpoint_table([config], [run])
    assert list(table.step) == [0, 10, 20] and set(table.setting) == {"anchor"}
    assert list(table.grad_evals) == [0, 50, 100] and list(table.score_evals) == [0, 1000, 2000]
    assert "test_loss" not in table and (table.diverged_at == -1).all()


def test_phases_add_up_to_the_total():
    seconds = timed_paper_run(optimizer="sgd", scheme="u", seed=0, steps=10)
    phases = [seconds[k] for k in ("scoring", "draw", "step", "evaluation")]
    assert math.isclose(sum(phases), seconds["total"]) and min(phases) >= 0


def test_curves_by_hand():
    slower = predicted_curve(np.array([0.0, -1.0]), np.array([-0.5, -0.25]), steps=2)
    assert np.allclose(slower, [0, -0.5, -0.5 - 0.375])
    summed = summed_curve(np.array([0, 1]), np.array([2.0, 0.0]), np.array([-1.0, 0.0]))
    assert np.allclose(summed, [2, 1])
