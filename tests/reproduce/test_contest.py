"""The contest's loop: fair arms, honest weights, scores that cost no second pass."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.errors import Diverged, UnknownName
from impsamp.gradnorms import LastLayerScores
from impsamp.reproduce.contest import (
    AHEAD,
    ARMS,
    Contestant,
    Epochs,
    Independent,
    PassingScores,
    Remembered,
    contest_run,
    cosine,
    promised_gain,
    step_costs,
)
from impsamp.reproduce.contest_tasks import contest_task

LOSS = nn.CrossEntropyLoss(reduction="none")


def rng():
    return np.random.default_rng(3)


# ---- where items come from -----------------------------------------------------------------------
def test_an_epoch_visits_every_item_once():
    source = Epochs(10, rng())
    batches = [source.draw(4)[0] for _ in range(6)]
    assert [len(b) for b in batches] == [4, 4, 2] * 2
    for epoch in (batches[:3], batches[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(10))
    assert batches[0].tolist() != batches[3].tolist()


def test_a_round_of_a_subset_is_drawn_from_all_items_again():
    source = Epochs(20, rng(), share=0.25)
    rounds = [source.draw(8)[0] for _ in range(60)]
    assert {len(r) for r in rounds} == {5}
    assert all(len(set(r)) == 5 for r in rounds)
    assert set(np.concatenate(rounds)) == set(range(20))


def test_independent_draws_repeat_items():
    idx, weight = Independent(10, rng()).draw(100)
    assert weight is None
    assert np.bincount(idx, minlength=10).min() > 0


def learned(n=200, batch=20, heavy=10, passes=12):
    source = Remembered(n, rng())
    for _ in range(passes * n // batch):
        idx, _ = source.draw(batch)
        source.tell(np.where(idx < heavy, 8.0, 1.0))
    return source


def test_the_first_epoch_of_the_memory_is_shuffled():
    source = Remembered(30, rng())
    seen = []
    while len(seen) < 30:
        idx, weight = source.draw(4)
        assert weight is None
        source.tell(np.ones(len(idx)))
        seen += idx.tolist()
    assert sorted(seen) == list(range(30))
    assert source.draw(4)[1] is not None
    assert source.promise == 1  # all scores alike


def test_weights_of_remembered_draws_are_unbiased():
    "The mean over many batches of sum_b w_b f(i_b) is the mean of f over all items."
    source = learned()
    f = np.arange(200.0) ** 2
    found = []
    for _ in range(4000):
        idx, weight = source.draw(20)
        source.tell(np.where(idx < 10, 8.0, 1.0))
        found.append(weight @ f[idx])
    error = np.std(found) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(f.mean(), abs=4 * error)


def test_heavy_items_come_more_often():
    source = learned()
    shares = []
    for _ in range(20 * AHEAD):
        idx, _ = source.draw(20)
        source.tell(np.where(idx < 10, 8.0, 1.0))
        shares.append((idx < 10).mean())
    # p is 0.8 of 80 / 270 and 0.2 of 10 / 200
    assert np.mean(shares) == pytest.approx(0.8 * 80 / 270 + 0.2 * 0.05, abs=0.03)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_ends_a_run(bad):
    source = Remembered(4, rng())
    source.draw(2)
    with pytest.raises(Diverged, match="lower the learning rate"):
        source.tell(np.array([1.0, bad]))


def test_a_data_set_below_the_batch():
    source = Remembered(3, rng())
    idx, _ = source.draw(8)
    assert sorted(idx) == [0, 1, 2]
    source.tell(np.zeros(3))  # all scores zero: uniform from here on
    with pytest.warns(RuntimeWarning, match="all scores are zero"):
        idx, weight = source.draw(8)
    assert weight == pytest.approx(np.full(8, 1 / 8))


def test_promised_gain_by_hand():
    assert promised_gain([2, 2, 2]) == promised_gain([0, 0, 0]) == 1
    # p = .8 (1/4, 3/4) + .2 (1/2, 1/2) = (.3, .7); H(u) = 5; H(p) = 1/(4 x .3) + 9/(4 x .7)
    assert promised_gain([1, 3]) == pytest.approx(5 / (1 / 1.2 + 9 / 2.8))


# ---- scores --------------------------------------------------------------------------------------
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", [False, True])
def test_passing_scores_are_last_layer_scores(weighted, metric):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    x = torch.rand(7, 5)
    y = torch.arange(7) % 3
    for _ in range(3):
        adam.zero_grad()
        LOSS(net(x), y).mean().backward()
        adam.step()
    passing = PassingScores(net[-1], adam if metric else None)
    slow = LastLayerScores(net[-1], adam if metric else None)
    losses = LOSS(net(x), y)
    expected = slow(losses)
    weight = rng().uniform(0.01, 1, 7) if weighted else None
    factor = torch.full((7,), 1 / 7) if weight is None else torch.from_numpy(weight).float()
    (factor * losses).sum().backward()
    assert passing(weight) == pytest.approx(expected.numpy(), rel=1e-5)


# ---- the loop ------------------------------------------------------------------------------------
def test_the_learning_rate_ends_at_zero():
    rates = [cosine(0.4, k, 4) for k in range(5)]
    assert rates == pytest.approx([0.4, 0.2 + 0.2 / math.sqrt(2), 0.2, 0.2 - 0.2 / math.sqrt(2), 0])


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns(arm, optimizer):
    lr = 0.05 if optimizer == "momentum" else 0.003
    done = contest_run("digits", arm, optimizer, lr, 10, 60, seed=1)
    assert done["finite"]
    assert done["train_loss"] < 0.1
    assert 0 <= done["val_error"] < 0.05
    assert math.isnan(done["gain"]) == (arm not in ("remembered", "both"))


def test_a_run_is_its_seed():
    runs = [contest_run("digits", "remembered", "adam", 0.003, 10, 30, seed=s) for s in (5, 5, 6)]
    losses = [run["train_loss"] for run in runs]
    assert losses[0] == losses[1] != losses[2]


def test_arms_begin_at_the_same_weights():
    task = contest_task("digits")
    arms = [Contestant(task, arm, "adam", batch=5, lr=0.1, seed=4) for arm in ARMS]
    first = arms[0].model[0].weight
    assert all(torch.equal(first, one.model[0].weight) for one in arms)


def test_a_diverged_run_is_infinite():
    done = contest_run("digits", "remembered", "momentum", 1e30, 10, 30, seed=0)
    assert not done["finite"]
    assert done["train_loss"] == done["val_error"] == math.inf


def test_arms_and_optimizers_that_are_none():
    with pytest.raises(UnknownName, match="shuffled"):
        contest_run("digits", "shuffle", "adam", 0.1, 5, 1, seed=0)
    with pytest.raises(UnknownName, match="momentum"):
        contest_run("digits", "shuffled", "sgd", 0.1, 5, 1, seed=0)


def test_prices_are_per_arm_and_round():
    seconds = step_costs("digits", "adam", 10, ["shuffled", "remembered"], 2, 3)["seconds"]
    assert seconds.shape == (2, 2)
    assert (seconds > 0).all()
