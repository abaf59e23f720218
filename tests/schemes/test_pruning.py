"""Random pruning: every epoch of a few items, the published bias, annealing, states."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidArgument, UnknownName
from impsamp.samplers import ImportanceBatchSampler
from impsamp.schemes import DynamicPruning, Mixture, Uniform
from impsamp.training import picked_batch, train

LOSSES = np.array([1.0, 1.5, 9.0, 8.0])
VALUES = np.array([2.0, -1.0, 5.0, 7.0])


def learnt(n=4, losses=LOSSES, **options):
    scheme = DynamicPruning(**options).init(n)
    scheme.update(np.arange(n), losses)
    return scheme


def means_of_batches(batch, **options):
    "E of the estimate of each batch of an epoch, over all choices and orders."
    orders = [np.array(q) / 4 for q in permutations(range(4))]
    steps = {}
    for choice, place in product(orders, repeat=2):
        scheme = learnt(**options)
        left = True
        k = 0
        while left:
            p = scheme.probabilities()
            u = np.r_[choice, place]
            idx, weight, _ = picked_batch(scheme, p, lambda size, u=u: u, batch)
            steps.setdefault(k, []).append(weight @ VALUES[idx])
            left = scheme._place < scheme._order.size
            k += 1
    return [np.mean(found) for found in steps.values()]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_every_batch_of_an_epoch_has_the_plain_mean(batch):
    means = means_of_batches(batch)
    assert len(means) == {1: 3, 2: 2, 3: 1}[batch]
    assert np.allclose(means, VALUES.mean(), rtol=1e-12)


def test_the_published_factor_is_biased_where_the_count_is_rounded():
    # two items below the mean: floor(0.6 * 2) = 1 stays and weighs 1/0.6 instead of 2
    assert np.allclose(means_of_batches(2, ratio=0.4), VALUES.mean())
    t = np.array([0.5 / 0.6, 0.5 / 0.6, 1, 1])
    published = means_of_batches(2, ratio=0.4, corrected=False)
    assert np.allclose(published, t @ VALUES / t.sum())
    assert not learnt(ratio=0.4, corrected=False).unbiased
    # half of two is whole: the factor is the exact one
    assert np.allclose(means_of_batches(2, corrected=False), VALUES.mean())


def test_an_epoch_holds_no_item_twice_and_all_that_are_not_learnt():
    losses = np.r_[np.full(40, 0.1), np.full(20, 5.0)]
    scheme = learnt(60, losses, ratio=0.75)
    rng = np.random.default_rng(0)
    for _ in range(3):
        got = []
        sizes = []
        for _ in range(4):
            scheme.probabilities()
            batch = scheme.pick(8, rng.random)
            sizes.append(len(batch))
            got += batch.tolist()
        assert len(set(got)) == 30 and set(range(40, 60)) <= set(got)
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("value", [0.1, 0.0, 1e-300, 3.7])
def test_equal_losses_prune_nothing(value):
    "The mean of equal numbers may exceed each of them by a rounding error."
    p = learnt(7, np.full(7, value)).probabilities()
    assert np.ptp(p) == 0


def test_items_never_seen_stay():
    scheme = DynamicPruning().init(6)
    assert np.allclose(scheme.probabilities(), 1 / 6)
    scheme = DynamicPruning().init(6)
    scheme.update([0, 1, 2], [0.1, 0.1, 9.0])
    p = scheme.probabilities()
    assert np.allclose(p / p[2], [0.5, 0.5, 1, 1, 1, 1])


def test_whole_epochs_from_a_step_on():
    scheme = learnt(until=2)
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(4):
        scheme.probabilities()
        sizes.append(len(scheme.pick(9, rng.random)))
    assert sizes == [3, 3, 4, 4]


def test_in_a_composite_its_law_is_drawn_from():
    half = Mixture(learnt(), Uniform())
    half.init(4)
    half.update(np.arange(4), LOSSES)
    assert np.allclose(half.probabilities(), 0.5 * np.array([0.5, 0.5, 1, 1]) / 3 + 0.125)


@pytest.mark.parametrize(
    "build, error",
    [
        (lambda: DynamicPruning(1.0), InvalidArgument),
        (lambda: DynamicPruning(-0.1), InvalidArgument),
        (lambda: DynamicPruning(np.nan), InvalidArgument),
        (lambda: DynamicPruning(until=-1), InvalidArgument),
        (lambda: DynamicPruning(needs="none"), UnknownName),
    ],
)
def test_bad_settings(build, error):
    with pytest.raises(error):
        build()


def test_loader_and_training_loop_follow_its_epochs():
    scheme = learnt(60, np.r_[np.full(40, 0.1), np.full(20, 5.0)])
    batches = ImportanceBatchSampler(scheme, 10, steps=4, generator=0)
    drawn = list(batches)
    assert len({i for b in drawn for i in b}) == 40
    for b in drawn:
        share = np.where(b.draw.idx < 40, 0.5, 1)
        assert np.allclose(b.draw.weight, 40 / (10 * 60 * share))
    net = torch.nn.Linear(3, 2)
    x = torch.randn(12, 3)
    y = torch.randint(0, 2, (12,))
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    history = train(net, loss, x, y, sgd, DynamicPruning(), batch=5, steps=9, seed=0)
    assert history.diverged_at is None and 30 <= history.grad_evals < 45
