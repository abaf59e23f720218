"""The items that a loader's sampler would give, read without moving anything; or a refusal."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from impsamp.assess.reading import Items
from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.samplers import ImportanceBatchSampler, WithDraw

N = 12
DATA = TensorDataset(torch.arange(2.0 * N).reshape(N, 2), torch.arange(N))


class Stratified(Sampler):
    "A sampler of the user's: even items, in an order of the global generators."

    def __init__(self, items=range(0, N, 2)):
        self.items = list(items)
        self.generator = torch.Generator().manual_seed(1)

    def __iter__(self):
        random.shuffle(self.items)
        np.random.shuffle(self.items)
        order = torch.randperm(len(self.items), generator=self.generator)
        yield from [self.items[k] for k in order[torch.randperm(len(order))]]

    def __len__(self):
        return len(self.items)


class Buckets(Sampler):
    "Batches of unequal sizes, over the first ten items."

    def __iter__(self):
        yield from ([0, 1, 2, 3, 4], [5, 6], [7, 8, 9])

    def __len__(self):
        return 3


def replicas(rank, shuffle):
    return DistributedSampler(DATA, num_replicas=2, rank=rank, shuffle=shuffle)


EVERY = list(range(N))
SAMPLERS = {
    "none": (dict(batch_size=4), EVERY),
    "shuffle": (dict(batch_size=4, shuffle=True), EVERY),
    "drop last": (dict(batch_size=5, shuffle=True, drop_last=True), EVERY),
    "sequential over less": (dict(batch_size=4, sampler=SequentialSampler(range(5))), EVERY[:5]),
    "random with replacement": (
        dict(batch_size=4, sampler=RandomSampler(DATA, replacement=True, num_samples=5)),
        EVERY,
    ),
    "subset": (dict(batch_size=4, sampler=SubsetRandomSampler([7, 3, 5])), [3, 5, 7]),
    "subset of tensors": (
        dict(batch_size=4, sampler=SubsetRandomSampler(torch.tensor([7, 3, 5]))),
        [3, 5, 7],
    ),
    "equal weights": (
        dict(batch_size=4, sampler=WeightedRandomSampler([0.0, 2] * 6, 30)),
        EVERY[1::2],
    ),
    "one of two ranks": (dict(batch_size=4, sampler=replicas(1, shuffle=False)), EVERY[1::2]),
    "ranks over epochs": (dict(batch_size=4, sampler=replicas(1, shuffle=True)), EVERY),
    "the user's own": (dict(batch_size=4, sampler=Stratified()), EVERY[::2]),
    "a list": (dict(batch_size=4, sampler=[5, 1, 9]), [1, 5, 9]),
    "batches of a subset": (
        dict(batch_sampler=BatchSampler(SubsetRandomSampler([2, 8, 4]), 2, False)),
        [2, 4, 8],
    ),
    "batches of the user's": (dict(batch_sampler=Buckets()), EVERY[:10]),
    "a list of batches": (dict(batch_sampler=[[5, 1], [9, 2]]), [1, 2, 5, 9]),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_population_is_what_the_sampler_gives(name):
    options, want = SAMPLERS[name]
    items = Items(DataLoader(DATA, **options))
    assert items.n == len(want)
    x, y = items.fetch(np.arange(items.n))
    assert y.tolist() == want and torch.equal(x, DATA.tensors[0][want])


def test_nothing_is_moved_by_looking():
    sampler = Stratified()
    items, state = list(sampler.items), sampler.generator.get_state()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    Items(DataLoader(DATA, batch_size=4, sampler=sampler))
    assert sampler.items == items and torch.equal(sampler.generator.get_state(), state)
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_an_importance_sampler_of_this_package_covers_all_and_its_draws_are_not_needed():
    p = np.arange(1.0, N + 1)
    sampler = ImportanceBatchSampler(p / p.sum(), 3, steps=5, generator=np.random.default_rng(0))
    data = WithDraw(DATA)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=data.collate)
    items = Items(loader)
    assert repr(items) == f"Items(n={N}, batch=3, device='cpu')"
    assert items.fetch([4, 1])[1].tolist() == [4, 1]
    assert next(iter(loader))[1].step == 0  # the first draw was not taken


class Endless(Sampler):
    def __init__(self):
        pass

    def __iter__(self):
        while True:
            yield 3


class Uncopied(Stratified):
    def __deepcopy__(self, memo):
        raise RuntimeError("mine")


class Stream(IterableDataset):
    def __iter__(self):
        yield from DATA


REFUSED = {
    "unequal weights": (dict(sampler=WeightedRandomSampler([1.0, 2] * 6, 30)), "prefers some"),
    "an item twice": (dict(sampler=[1, 2, 3, 1]), "more often"),
    "a subset with an item twice": (dict(sampler=SubsetRandomSampler([1, 2, 2])), "more often"),
    "no end": (dict(sampler=Endless()), "does not end"),
    "no copy": (dict(sampler=Uncopied()), "mine"),
    "beyond the data": (dict(sampler=[1, 2, 99]), "gives item .* has 12"),
    "below the data": (dict(sampler=SubsetRandomSampler([-1, 2])), "gives item"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_sampler_that_uniform_draws_cannot_stand_for_is_refused(name):
    options, words = REFUSED[name]
    with pytest.raises(InvalidArgument, match=words):
        Items(DataLoader(DATA, batch_size=4, **options))


def test_streams_and_too_few_items_are_refused():
    with pytest.raises(InvalidArgument, match="islice"):
        Items(DataLoader(Stream(), batch_size=4))
    with pytest.raises(InvalidShape, match="1 item"):
        Items(DataLoader(DATA, batch_size=4, sampler=SubsetRandomSampler([3])))
    with pytest.raises(InvalidShape, match="0 item"):
        Items(DataLoader(DATA, batch_sampler=[]))


def test_items_read_what_the_loader_would():
    data = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6))

    def doubled(rows):
        x, y = map(torch.stack, zip(*rows))
        return x * 2, y

    items = Items(DataLoader(data, batch_size=2, collate_fn=doubled))
    assert repr(items) == "Items(n=6, batch=2, device='cpu')"
    x, y = items.fetch(np.array([4, 1]))
    assert y.tolist() == [4, 1] and torch.equal(x, data.tensors[0][[4, 1]] * 2)


class Fetched(Dataset):
    "A data set that fetches a whole batch at once."

    def __len__(self):
        return N

    def __getitem__(self, i):
        raise AssertionError

    def __getitems__(self, idx):
        return [DATA[i] for i in idx]


def test_whole_batches_are_fetched_at_once_and_subsets_are_data_sets():
    assert Items(DataLoader(Fetched(), batch_size=4)).fetch([2, 3])[1].tolist() == [2, 3]
    part = Subset(DATA, [7, 9, 11])
    assert Items(DataLoader(part, batch_size=2)).fetch([2, 0])[1].tolist() == [11, 7]


def test_batches_that_do_not_fit_together():
    ragged = [(torch.ones(2, k), torch.zeros(2)) for k in (3, 4)]
    with pytest.raises(InvalidShape, match="pad them"):
        Items(ragged)
    with pytest.raises(InvalidArgument, match="tuple of 3"):
        Items([(torch.ones(2), torch.ones(2), torch.ones(2))])
    with pytest.raises(InvalidArgument, match="'labels'"):
        Items([{"x": torch.ones(2)}])
