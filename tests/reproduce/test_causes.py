"""Arms that take the contest apart: matched variance, an oracle, conditions of the task."""

import math

import numpy as np
import pytest
import torch

from impsamp.errors import Diverged, UnknownName
from impsamp.gradnorms import grad_norms, preconditioner_of
from impsamp.reproduce.causes import (
    CONDITIONS,
    MATCHED,
    ORACLE,
    Examined,
    Matched,
    Oracle,
    causes_run,
    noisy,
    shifted,
)
from impsamp.reproduce.contest import contest_run, promised_gain
from impsamp.reproduce.contest_tasks import contest_task

SETTING = dict(optimizer="momentum", lr=0.05, batch=10, steps=30, seed=4)


def rng():
    return np.random.default_rng(5)


# ---- conditions ----------------------------------------------------------------------------------
def test_wrong_labels_are_a_share_of_the_training_items_alone():
    task = contest_task("digits")
    found = noisy(task, share=0.5)
    changed = (found.train[1] != task.train[1]).double().mean().item()
    assert 0.1 < changed < 0.4  # a quarter: of two classes every other new label is the old one
    assert found.train[0] is task.train[0]
    assert found.validation is task.validation
    assert found.train[1].dtype == task.train[1].dtype


def test_a_shift_moves_an_image_as_a_whole():
    image = torch.zeros(28, 28)
    image[10:13, 20] = torch.tensor([1.0, 2.0, 3.0])
    moved = shifted(contest_task("digits")).augment(image.flatten()[None].repeat(50, 1), rng())
    for one in moved.view(50, 28, 28):
        rows, columns = one.nonzero().T
        assert one[one > 0].tolist() == [1, 2, 3]
        assert (rows - rows[0]).tolist() == [0, 1, 2]
        assert len(set(columns.tolist())) == 1
        assert abs(int(rows[0]) - 10) <= 2 and abs(int(columns[0]) - 20) <= 2
    assert len({tuple(one.nonzero()[0].tolist()) for one in moved.view(50, 28, 28)}) > 10


def test_conditions_leave_the_task_as_it_was():
    task = contest_task("digits")
    labels = task.train[1].clone()
    for change in CONDITIONS.values():
        change(task)
    assert task.train[1].equal(labels) and task.augment is None


# ---- arms ----------------------------------------------------------------------------------------
def test_matched_batches_have_the_variance_of_the_draws_that_they_stand_for():
    n, batch = 60, 6
    scores = rng().lognormal(0, 1, n)
    source = Matched(n, rng(), every=1)
    for _ in range(2 * n // batch):
        idx, weight = source.draw(batch)
        assert weight is None
        source.tell(scores[idx])
    assert source.gain == pytest.approx(promised_gain(scores))
    law = 0.8 * scores / scores.sum() + 0.2 / n
    of_draws = (scores**2 / (n**2 * law)).sum() / batch
    of_matched = (scores**2).mean() / (source.gain * batch)
    assert of_matched == pytest.approx(of_draws)


def test_matched_visits_every_item_before_it_repeats_one():
    source = Matched(50, rng(), every=1)
    seen = []
    while len(seen) < 50:
        idx, _ = source.draw(7)
        source.tell(np.exp(idx % 5.0))
        seen += idx.tolist()
    assert sorted(seen) == list(range(50))
    assert source.drawn == 50


def test_the_oracle_is_unbiased_by_enumeration_and_looks_again():
    norms = np.array([0.0, 1.0, 3.0, 4.0])
    looks = []
    source = Oracle(lambda: looks.append(1) or norms, rng(), every=2)
    values = np.array([1.0, -2.0, 5.0, 7.0])
    source.draw(1)
    law = 0.8 * norms / 8 + 0.05
    seen = {}
    for _ in range(200):
        idx, weight = source.draw(1)
        seen[int(idx[0])] = weight[0]
    assert seen == pytest.approx({i: 1 / (4 * p) for i, p in enumerate(law)})
    assert sum(p * seen[i] * values[i] for i, p in enumerate(law)) == pytest.approx(values.mean())
    assert len(looks) == 101  # 201 draws, a look at every other
    assert source.gain == pytest.approx(promised_gain(norms))


def test_an_oracle_of_items_without_gradient_is_uniform():
    source = Oracle(lambda: np.zeros(4), rng())
    _, weight = source.draw(8)
    assert weight.tolist() == [0.125] * 8


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_ends_a_run(bad):
    with pytest.raises(Diverged):
        Oracle(lambda: np.array([1.0, bad]), rng()).draw(1)
    source = Matched(4, rng())
    source.draw(2)
    with pytest.raises(Diverged):
        source.tell(np.array([1.0, bad]))


def test_norms_of_the_oracle_are_those_of_the_step():
    one = Examined(contest_task("digits"), ORACLE, "adam", batch=10, lr=1e-3, seed=0)
    x, y = one.task.train
    plain = grad_norms(one.model, one.task.loss, x, y, method="loop").numpy()
    assert np.allclose(one.norms(), plain, rtol=1e-5)
    one.step(1e-3)
    metric = preconditioner_of(one.learner, one.model, power=0.5, clip=10.0)
    own = grad_norms(one.model, one.task.loss, x, y, method="loop", precondition=metric)
    assert np.allclose(one.norms(), own.numpy(), rtol=1e-5)


# ---- runs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("arm", ["shuffled", "remembered"])
def test_an_arm_of_the_contest_is_the_contest_s(arm):
    own = causes_run("digits", "plain", arm, **SETTING)
    theirs = contest_run("digits", arm, **SETTING)
    for name in ("train_loss", "val_error", "test_error"):
        assert own[name] == theirs[name]
    assert math.isnan(own["gain"]) == math.isnan(theirs["gain"])


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("arm", [MATCHED, ORACLE])
def test_runs_repeat_and_end_finite(arm, condition):
    found = causes_run("digits", condition, arm, **SETTING)
    assert found["finite"] and found["gain"] > 1
    assert found == causes_run("digits", condition, arm, **SETTING)


def test_a_run_that_explodes_is_a_miss():
    found = causes_run("digits", "plain", MATCHED, **{**SETTING, "lr": 1e30})
    assert not found["finite"] and found["train_loss"] == math.inf


def test_an_unknown_condition_is_named():
    with pytest.raises(UnknownName, match="choose from noisy, plain, shifted"):
        causes_run("digits", "wet", "shuffled", **SETTING)
