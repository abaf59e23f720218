"""Published schemes draw by their papers' laws and weigh as they should; biased ones say so."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.reproduce.entries import (
    ENTRIES,
    Entry,
    InfoBatch,
    LayerwiseThinning,
    LossPool,
    OnlineBatchSelection,
    OrderedSGD,
    PrioritizedReplay,
    RandomSubsets,
    RememberedLosses,
    SelectiveBackprop,
    Setup,
    UpperBoundPool,
    VarianceBandit,
    rank_of,
    rows_holding,
    thinned,
)
from impsamp.schemes import LossRank, Prioritized

LOSSES = np.array([0.1, 0.2, 0.3, 0.4, 1.0, 2.0])


class Given:
    "A learner whose scores are given."

    def scores(self, idx):
        return LOSSES[idx]


def setup(n=6, batch=3, steps=40, seed=0):
    return Setup(n, batch, steps, np.random.default_rng(seed))


class Fixed:
    "A generator that returns what the test says: enumeration of a draw."

    def __init__(self, candidates, chosen):
        self.candidates = np.array(candidates)
        self.chosen = np.array(chosen)

    def integers(self, low, high, size):
        return self.candidates

    def choice(self, size, batch, p):
        self.p = p
        return self.chosen


# ---- pools ---------------------------------------------------------------------------------------
def expected_coefficients(entry, n, pool, batch):
    "What each item's gradient is multiplied with on average, over all pools and all draws."
    total = np.zeros(n)
    for candidates in itertools.product(range(n), repeat=pool):
        for chosen in itertools.product(range(pool), repeat=batch):
            entry.rng = Fixed(candidates, chosen)
            entry.tau = 1e9  # stays on
            idx, weight = entry.draw(Given())
            chance = np.prod(entry.rng.p[entry.rng.chosen]) / n**pool
            np.add.at(total, idx, weight * chance)
    return total


@pytest.mark.parametrize(
    "entry",
    [
        UpperBoundPool(setup(n=3, batch=2), pool=3),
        LossPool(setup(n=3, batch=2), pool=3, power=1.0),
    ],
    ids=["upper", "loss"],
)
def test_pools_are_unbiased_by_enumeration(entry):
    assert entry.unbiased
    assert expected_coefficients(entry, 3, 3, 2) == pytest.approx(np.full(3, 1 / 3))


def test_a_loss_pool_as_published_leans_to_hard_items():
    entry = LossPool(setup(n=3, batch=2), pool=3)
    found = expected_coefficients(entry, 3, 3, 2)
    assert not entry.unbiased
    assert found[0] < found[1] < found[2]
    assert found @ LOSSES[:3] == pytest.approx(LOSSES[:3].mean())  # what their scaling keeps


def test_a_pool_is_switched_on_by_the_variance_it_saves():
    entry = UpperBoundPool(setup(), pool=6, threshold=1.2, memory=0.0)
    assert entry.draw(Given())[1] is None
    entry.tell(None, np.ones(3))
    assert entry.tau == pytest.approx(1)
    assert entry.listens
    entry.tell(None, np.array([0.0, 0.0, 1.0]))
    assert entry.tau == pytest.approx(math.sqrt(3))
    assert not entry.listens
    assert entry.draw(Given())[1] is not None


# ---- remembered ----------------------------------------------------------------------------------
@pytest.mark.parametrize("pressure", [1.0, 2.0, 100.0])
def test_ranks_follow_the_law_of_the_library(pressure):
    u = (np.arange(60_000) + 0.5) / 60_000
    counts = np.bincount(rank_of(u, 6, pressure), minlength=6) / 60_000
    law = LossRank(pressure=pressure).init(6).probabilities(-np.arange(6.0) + 6)
    assert counts == pytest.approx(law, abs=1e-4)


def test_online_batch_selection_ranks_after_an_epoch_and_ends_uniform():
    entry = OnlineBatchSelection(setup(batch=6, steps=2), pressure=100.0)
    assert sorted(entry.draw(None)[0]) == list(range(6))
    entry.tell(np.arange(6), LOSSES)
    entry.step = 1
    counts = np.zeros(6)
    for _ in range(3000):
        idx, weight = entry.draw(None)
        assert weight is None
        counts += np.bincount(idx, minlength=6)
    law = LossRank(pressure=10.0).init(6).probabilities(LOSSES)  # half way from 100 to 1
    assert counts / counts.sum() == pytest.approx(law, abs=0.02)


def test_prioritized_replay_has_the_law_and_the_weights_of_the_library():
    entry = PrioritizedReplay(setup(batch=4, steps=10))
    entry.tell(np.arange(6), LOSSES)
    library = Prioritized(steps=10).init(6)
    library.update(np.arange(6), LOSSES)
    p = library.probabilities()
    assert entry.tree.p == pytest.approx(p)
    entry.step = 5
    idx, weight = entry.draw(None)
    expected = (6 * p[idx]) ** -0.7  # beta is .4 + .6 / 2
    assert weight == pytest.approx(expected / expected.max() / 4)


def coefficients(entry, n, draws):
    "Mean weight of each item, and its standard error."
    found = np.zeros((draws, n))
    for row in found:
        idx, weight = entry.draw(Given())
        np.add.at(row, idx, np.full(len(idx), 1 / len(idx)) if weight is None else weight)
    return found.mean(0), found.std(0) / math.sqrt(draws)


def remembered(kind):
    entry = kind(setup())
    entry.step = 2
    for _ in range(3):
        entry.tell(np.arange(6), LOSSES)
    return entry


@pytest.mark.parametrize("kind", [RememberedLosses, VarianceBandit])
def test_remembered_laws_are_unbiased_in_exact_sums(kind):
    entry = remembered(kind)
    p = entry.law(np.arange(6))
    assert p.sum() == pytest.approx(1)
    for _ in range(5):
        idx, weight = entry.draw(None)
        assert weight == pytest.approx(1 / (3 * 6 * p[idx]))


@pytest.mark.parametrize("kind", [RememberedLosses, VarianceBandit])
def test_remembered_draws_follow_the_law(kind):
    mean, error = coefficients(remembered(kind), 6, 4000)
    assert (np.abs(mean - 1 / 6) < 4.5 * error).all()


def test_raw_losses_are_mixed_with_a_uniform_share():
    p = remembered(RememberedLosses).law(np.arange(6))
    assert p == pytest.approx(0.8 * LOSSES / 4 + 0.2 / 6)


def test_the_bandit_adds_up_what_items_cost():
    entry = VarianceBandit(setup(n=6, batch=3, steps=128), bound=2.0)
    theta = (6 / 384) ** (1 / 3)
    assert theta == pytest.approx(0.25)
    assert entry.share == pytest.approx(0.75)
    assert entry.gamma == pytest.approx(48)
    entry.tell(np.array([5, 5]), np.array([2.0, 2.0]))  # at p = 1/6: 2 x 4 x 6 = 48
    root = math.sqrt(2)
    assert entry.law(np.array([5])) == pytest.approx(0.75 * root / (5 + root) + 0.25 / 6)


# ---- selection -----------------------------------------------------------------------------------
def test_selective_backprop_keeps_by_the_rank_of_the_loss():
    entry = SelectiveBackprop(setup(), beta=2.0, history=4)
    assert entry.chance(np.array([1.0, 2.0])) == pytest.approx([0.25, 1])
    assert entry.chance(np.array([0.0, 3.0, 4.0])) == pytest.approx([1 / 16, 9 / 16, 1])
    assert entry.recent.tolist() == [2, 0, 3, 4]


def test_selective_backprop_fills_its_batches():
    entry = SelectiveBackprop(setup(n=6, batch=4))
    counts = np.zeros(6)
    for _ in range(1500):
        idx, weight = entry.draw(Given())
        assert weight is None
        assert idx.size == 4
        counts += np.bincount(idx, minlength=6)
    # kept with probability rank/6: in the long run shares are rank/21
    assert counts / counts.sum() == pytest.approx(np.arange(1, 7) / 21, abs=0.02)


def test_ordered_sgd_takes_the_largest_losses_by_its_rule():
    entry = OrderedSGD(setup(n=1000))
    losses = torch.arange(16.0)
    seen = []
    for wrong in (300, 150, 80, 40, 2, 500):
        entry.tell(None, np.repeat([1.0, 0.0], [wrong, 1000 - wrong]))
        seen.append(entry.divisor)
    assert seen == [1, 2, 4, 8, 16, 16]
    assert entry.objective(losses, None).item() == 15
    entry.divisor = 4
    assert entry.objective(losses, None).item() == pytest.approx(13.5)


# ---- epochs --------------------------------------------------------------------------------------
def test_infobatch_sums_to_the_whole_epoch():
    entry = InfoBatch(setup(batch=6))
    entry.tell(np.arange(6), LOSSES)  # four below the mean of 2/3: two stay
    found = []
    for _ in range(3000):
        idx, weight = entry.draw(None)
        total = np.zeros(6)
        total[idx] = weight * len(idx)
        found.append(total)
        assert len(idx) == 4
    assert np.mean(found, 0) == pytest.approx(np.ones(6), abs=0.08)
    assert set(np.unique(found)) == {0, 1, 2}


def test_infobatch_ends_with_whole_epochs():
    entry = InfoBatch(setup(batch=6, steps=40))
    entry.tell(np.arange(6), LOSSES)
    entry.step = 35
    idx, weight = entry.draw(None)
    assert sorted(idx) == list(range(6))
    assert weight == pytest.approx(np.full(6, 1 / 6))


def test_random_subsets_are_fresh():
    entry = RandomSubsets(setup(n=20, batch=2), share=0.1)
    assert len({tuple(sorted(entry.draw(None)[0])) for _ in range(40)}) > 20


# ---- thinning ------------------------------------------------------------------------------------
def test_rows_that_hold_a_share_of_the_norms():
    norms = np.array([4.0, 1.0, 3.0, 2.0])
    shares = [rows_holding(norms, s) for s in (0.0, 0.4, 0.41, 0.7, 1.0)]
    assert shares == [0.25, 0.25, 0.5, 0.5, 1.0]


class Coins:
    "A generator whose one vector of uniforms makes the wanted choice."

    def __init__(self, stay):
        self.stay = np.array(stay)

    def random(self, size):
        return np.where(self.stay, 0.0, 1.0)


def test_thinning_is_unbiased_by_enumeration():
    d = torch.tensor([[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    pi = np.array([1.0, 1 / 3, 2 / 3])  # min(1, c norm) of sum 2
    mean = torch.zeros_like(d)
    for stay in itertools.product([False, True], repeat=3):
        chance = np.prod(np.where(stay, pi, 1 - pi))
        mean += chance * thinned(d, 2.0, Coins(stay))
    assert torch.allclose(mean, d)


class Network:
    "A learner with a gradient."

    def __init__(self, entry):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        self.x = torch.randn(40, 4).exp()
        self.entry = entry
        entry.begin(self)

    def gradient(self, idx):
        with self.entry.forward():
            loss = self.model(self.x[idx]).square().sum(1).mean()
        parts = torch.autograd.grad(loss, list(self.model.parameters()))
        return torch.cat([part.flatten() for part in parts])


def test_layerwise_thinning_keeps_less_while_its_variance_is_small():
    entry = LayerwiseThinning(setup(n=40, batch=8), tau=1e9, every=1, move=0.2)
    learner = Network(entry)
    for _ in range(3):
        entry.draw(learner)
    assert entry.held == pytest.approx(0.4)
    assert (np.diff(entry.ratios) >= 0).all()
    assert entry.ratios.max() < 0.9
    entry.tau = 0.0
    entry.draw(learner)
    assert entry.held == pytest.approx(0.6)


def test_layerwise_thinning_is_unbiased_through_the_layers():
    entry = LayerwiseThinning(setup(n=40, batch=8))
    learner = Network(entry)
    idx = np.arange(40)
    exact = learner.gradient(idx)
    entry.ratios = np.array([0.3, 0.5])
    thin = torch.stack([learner.gradient(idx) for _ in range(1500)])
    error = thin.std(0) / math.sqrt(1500)
    assert ((thin.mean(0) - exact).abs() < 5 * error + 1e-6).all()
    assert error.max() > 0


# ---- all of them ---------------------------------------------------------------------------------
def test_what_is_biased_says_so():
    biased = {name for name, kind in ENTRIES.items() if not kind(setup()).unbiased}
    assert biased == {
        "LossPool",
        "OnlineBatchSelection",
        "PrioritizedReplay",
        "SelectiveBackprop",
        "OrderedSGD",
    }


def test_the_plain_entry_is_shuffled_epochs():
    mean, _ = coefficients(Entry(setup()), 6, 40)
    assert mean == pytest.approx(np.full(6, 1 / 6))
