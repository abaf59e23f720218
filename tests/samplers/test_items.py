"""What a data set, a worker and a collate function see of a drawn batch."""

from collections import UserDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from impsamp.errors import InvalidArgument
from impsamp.samplers import ImportanceBatchSampler, IndependentSampling, WithDraw
from impsamp.samplers.draws import Draw, DrawnBatch
from tests.samplers.helpers import rng

N = 50


def slope():
    return np.arange(N) / np.arange(N).sum()


def make(p, **options):
    return ImportanceBatchSampler(p, 6, steps=7, generator=rng(), **options)


class Weighted(Dataset):
    "The three lines that the notebook shows."

    def __init__(self, data):
        self.data = data

    def __getitems__(self, batch):
        return [(self.data[i], w) for i, w in zip(batch, batch.draw.weight)]


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_travel_with_the_batch_in_three_lines(workers):
    p = torch.from_numpy(slope())
    data = Weighted(torch.arange(float(N)))
    for x, w in DataLoader(data, batch_sampler=make(slope()), num_workers=workers):
        assert torch.allclose(w, 1 / (6 * N * p[x.long()]))
        assert w.dtype == torch.float64


def test_a_plain_data_set_sees_a_list_of_integers():
    data = TensorDataset(torch.arange(float(N)))
    for (x,), batch in zip(DataLoader(data, batch_sampler=make(slope())), make(slope())):
        assert x.tolist() == list(batch)


class Dicts(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"x": torch.ones(3), "y": (i, "name")}


def test_empty_subsets_make_empty_batches_with_the_right_shapes():
    sampling = IndependentSampling(np.full(N, 0.01))
    s = ImportanceBatchSampler(sampling, None, steps=40, generator=rng())
    data = WithDraw(Dicts())
    sizes = []
    for batch, draw in DataLoader(data, batch_sampler=s, collate_fn=data.collate, num_workers=2):
        size = len(draw.idx)
        assert batch["x"].shape == (size, 3)
        assert len(batch["y"][1]) == size
        assert torch.allclose(draw.weight, torch.full_like(draw.weight, 1 / (N * 0.01)))
        assert draw.estimate(batch["x"]).shape == (3,)
        sizes.append(size)
    assert 0 in sizes
    assert max(sizes) > 0
    with pytest.raises(InvalidArgument, match="its own size"):
        ImportanceBatchSampler(sampling, 4, steps=1, generator=rng())


class Bulk(Dataset):
    "Fetches all rows of a batch at once."

    def __len__(self):
        return N

    def __getitems__(self, rows):
        return [torch.tensor(r) for r in rows]


def test_data_sets_with_their_own_getitems_are_asked_once_per_batch():
    data = WithDraw(Bulk())
    for x, draw in DataLoader(data, batch_sampler=make(slope()), collate_fn=data.collate):
        assert (x == draw.idx).all()
    with pytest.raises(InvalidArgument, match="batch_sampler=ImportanceBatchSampler"):
        next(iter(DataLoader(data, batch_size=2)))
    assert repr(data) == "WithDraw(Bulk of 50 items)"


# ---- a forgotten collate_fn ------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_whose_collate_fn_was_forgotten_gives_batch_and_draw(workers):
    data = WithDraw(TensorDataset(torch.arange(float(N))))
    known = DataLoader(data, batch_sampler=make(slope()), collate_fn=data.collate)
    loader = DataLoader(data, batch_sampler=make(slope()), num_workers=workers)
    for ((x,), draw), ((y,), wanted) in zip(loader, known, strict=True):
        assert (x == y).all()
        assert (draw.weight == wanted.weight).all()
        assert draw.step == wanted.step


def test_the_own_collate_fn_is_used_also_when_the_loader_has_none():
    data = WithDraw([1.0] * N, collate_fn=lambda items: sum(items))
    total, draw = next(iter(DataLoader(data, batch_sampler=make(slope()))))
    assert total == len(draw.idx) == 6


class Row(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


def _as_user_dict(items):
    return UserDict(x=torch.stack(items), note=None)


def _as_pair(items):
    return None, torch.stack(items)


def _as_row(items):
    return Row(torch.stack(items), torch.stack(items))


@pytest.mark.parametrize("collate", [_as_user_dict, _as_pair, _as_row])
def test_empty_batches_of_named_tuples_mappings_and_missing_parts(collate):
    data = WithDraw([torch.ones(3)] * 4, collate)
    nothing = Draw(torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(0), 0)
    (fetched,) = data.__getitems__(DrawnBatch(nothing))
    batch, _ = data.collate([fetched])
    found = batch["x"] if isinstance(batch, dict) else batch[1]
    assert found.shape == (0, 3)
    assert not isinstance(batch, tuple) or len(batch) == 2
