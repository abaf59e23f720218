"""ImportanceBatchSampler in torch's DataLoader: workers, lag, checkpoints, epochs, data sets."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidScores, InvalidShape
from impsamp.randomness import counter_generator
from impsamp.samplers import (
    AliasTable,
    Draw,
    ImportanceBatchSampler,
    IndependentSampling,
    InverseCDF,
    SumTree,
    WithDraw,
)
from impsamp.schemes import GradNorm, Mixture, Shuffle, Stale, SwitchOn, Uniform
from tests.samplers.helpers import rng, through_a_file

N = 50
LAG = 8


# ---- laws, and one training for all of them --------------------------------------------------
def tree():
    return SumTree(1.0 + np.arange(N))


def scheme():
    return Mixture(GradNorm(), Uniform()).init(N)


def stale():
    return Stale("norm").init(N)


def switched():
    replay = [(6, True, 1.0, 1.0, 1.0), (15, False, 1.0, 1.0, 1.0)]
    return SwitchOn(Stale("norm"), every=9, trial=3, replay=replay).init(N)


def shuffled():
    return Shuffle().init(N)


def uniform():
    return np.full(N, 1 / N)


def slope():
    return np.arange(N) / np.arange(N).sum()


def make(law=tree, batch=6, steps=7, lag=LAG, seed=0, **options):
    s = ImportanceBatchSampler(law(), batch, steps=steps, generator=rng(seed), lag=lag, **options)
    if law is scheme:
        s.update(np.arange(N), np.ones(N))  # first scores of all items
    return s


def key(draw):
    return draw.step, draw.idx.tolist(), draw.weight.tolist(), draw.prob.tolist()


def loader_of(sampler, workers=0, factor=2):
    "(x, draw) for a data set of the numbers 0 .. N - 1."
    data = WithDraw(TensorDataset(torch.arange(float(N))))
    ahead = dict(num_workers=workers, prefetch_factor=factor) if workers else {}
    return DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, **ahead)


def report(sampler, draw, x):
    "Scores that depend on everything seen so far."
    scores = 1 + (draw.weight * (1 + x)).abs() * (1 + draw.step)
    sampler.update(draw.idx, scores, step=draw.step)


def train(sampler, epochs=1, workers=0, stop=None):
    "What training sees, up to the step `stop`."
    seen = []
    loader = loader_of(sampler, workers)
    for _ in range(epochs):
        for (x,), draw in loader:
            assert (x == draw.idx).all()
            seen.append(key(draw))
            if sampler._source.changes:
                report(sampler, draw, x)
            if draw.step == stop:
                return seen
    return seen


@pytest.fixture(scope="module")
def single():
    return {law: train(make(law), epochs=3) for law in (tree, scheme, stale, switched)}


# ---- the stream does not depend on the workers -----------------------------------------------
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("law, workers", [(tree, 2), (tree, 4), (scheme, 4), (stale, 2)])
def test_workers_see_the_same_batches_and_weights_while_scores_change(single, law, workers):
    assert train(make(law), epochs=3, workers=workers) == single[law]


def test_scores_matter_and_the_lag_is_what_it_says():
    s = make(lag=2)
    totals = []
    for batch in s:
        totals.append(s._source.law.total)
        s.update(batch, np.full(6, 100.0), step=batch.draw.step)
    first = 1275.0
    assert totals[:3] == [first] * 3
    assert totals[3] > first
    assert all(b >= a for a, b in itertools.pairwise(totals))
    early = train(make(lag=0))
    late = train(make(lag=5))
    assert early[:1] == late[:1]
    assert early != late


@pytest.mark.parametrize("workers", [0, 2])
def test_static_probabilities_need_no_lag(workers):
    wanted = train(make(slope, lag=0), epochs=2)
    assert train(make(slope, lag=0), epochs=2, workers=workers) == wanted
    assert [step for step, *_ in wanted] == list(range(14))


def test_each_step_has_its_own_stream():
    s = make(uniform)
    wanted = AliasTable(uniform()).draw(6, counter_generator(s.seed, 3), step=3)
    assert key(list(s)[3].draw) == key(wanted)


def test_a_report_that_its_lag_has_overtaken_is_refused():
    with pytest.raises(InvalidArgument, match=r"num_workers \* prefetch_factor"):
        train(make(lag=1), workers=2)


# ---- checkpoints -----------------------------------------------------------------------------
IN_ONE_PROCESS = itertools.product((tree, scheme, stale, switched), [0], [0], (0, 3, 6, 9))
WITH_WORKERS = [(tree, 2, 0, 9), (scheme, 0, 2, 15), (tree, 4, 2, 3)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("law, before, after, stop", [*IN_ONE_PROCESS, *WITH_WORKERS])
def test_resume_in_mid_epoch_is_bit_identical(single, law, before, after, stop):
    first = make(law)
    second = make(law, seed=99)
    begin = train(first, epochs=2, workers=before, stop=stop)
    second.load_state_dict(through_a_file(first.state_dict()))
    epochs = 3 - (stop + 1) // 7
    assert begin + train(second, epochs=epochs, workers=after) == single[law]


def test_static_resume_names_the_step():
    whole = train(make(uniform), epochs=2)
    first = make(uniform)
    second = make(uniform, seed=5)
    begin = train(first, workers=2, stop=3)
    with pytest.raises(InvalidArgument, match="name the step"):
        first.state_dict()
    second.load_state_dict(through_a_file(first.state_dict(step=3)))
    assert begin + train(second, epochs=2) == whole
    first.consumed(3)
    assert first.state_dict()["step"] == 3


def test_state_before_the_first_step_and_twice():
    a = make()
    b = make(seed=3)
    b.load_state_dict(a.state_dict())
    assert train(b, stop=4) == train(a, stop=4)
    c = make(seed=4)
    c.load_state_dict(b.state_dict())
    d = make(seed=5)
    d.load_state_dict(c.state_dict())  # a checkpoint of a checkpoint, before any new step
    assert train(d) == train(make())[5:]


@pytest.mark.parametrize(
    "options, word",
    [
        (dict(batch=5), "batch_size"),
        (dict(steps=9), "steps"),
        (dict(lag=3), "lag"),
        (dict(law=lambda: SumTree(np.ones(4))), "its n is 4"),
        (dict(law=scheme), "source"),
    ],
)
def test_foreign_states_are_refused_and_change_nothing(options, word):
    s = make()
    before = s.state_dict()
    with pytest.raises(InvalidArgument, match=word):
        s.load_state_dict(make(**options).state_dict())
    assert s.seed == before["seed"]
    assert (s._source.law.weights == before["law"]["weights"].numpy()).all()


def test_a_state_too_far_back_is_refused():
    s = make(lag=2)
    ahead = iter(s)
    for _ in range(6):
        next(ahead)
    with pytest.raises(InvalidArgument, match="lies 5 draws back"):
        s.state_dict(step=0)


# ---- epochs ----------------------------------------------------------------------------------
def test_epochs_go_on_and_a_broken_one_is_left():
    s = make(uniform, steps=4)
    assert len(s) == 4
    assert [b.draw.step for b in s] == [0, 1, 2, 3]
    assert next(iter(s)).draw.step == 4
    assert [b.draw.step for b in s] == [8, 9, 10, 11]


def test_shuffle_is_epochs_of_permutations():
    s = make(shuffled, batch=10, steps=5)
    for _ in range(2):
        assert sorted(i for batch in s for i in batch) == list(range(N))
    first = next(iter(make(shuffled, batch=10, steps=5)))
    assert (first.draw.weight == 0.1).all()
    assert first != sorted(first)
    with pytest.raises(InvalidArgument, match="exceeds the 50 items"):
        make(shuffled, batch=51)


@pytest.mark.parametrize("already_drawn", [0, 1])
def test_shuffle_resumes_in_mid_epoch(already_drawn):
    "Also if the sampler that goes on has a permutation of its own seed at hand."
    whole = [list(b) for b in make(shuffled, batch=10, steps=5)]
    saved = make(shuffled, batch=10, steps=5)
    for _ in zip(range(2), saved):
        pass
    resumed = make(shuffled, batch=10, steps=5, seed=1)
    for _ in zip(range(already_drawn), resumed):
        pass
    resumed.load_state_dict(saved.state_dict(step=1))
    assert [list(b) for b in resumed] == whole[2:]


@pytest.mark.parametrize("law", [tree, scheme, uniform, shuffled])
def test_copies_of_a_sampler_go_their_own_way(law):
    s = make(law)
    next(iter(s))
    wanted = [key(b.draw) for b in copy.deepcopy(s)]
    twin = pickle.loads(pickle.dumps(s))
    assert [key(b.draw) for b in s] == wanted
    assert [key(b.draw) for b in twin] == wanted


# ---- data sets -------------------------------------------------------------------------------
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
    for x, w in DataLoader(data, batch_sampler=make(slope), num_workers=workers):
        assert torch.allclose(w, 1 / (6 * N * p[x.long()]))
        assert w.dtype == torch.float64


def test_a_plain_data_set_sees_a_list_of_integers():
    data = TensorDataset(torch.arange(float(N)))
    for (x,), batch in zip(DataLoader(data, batch_sampler=make()), make()):
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
    for x, draw in DataLoader(data, batch_sampler=make(), collate_fn=data.collate):
        assert (x == draw.idx).all()
    with pytest.raises(InvalidArgument, match="batch_sampler=ImportanceBatchSampler"):
        next(iter(DataLoader(data, batch_size=2)))
    assert repr(data) == "WithDraw(Bulk of 50 items)"


# ---- slices ----------------------------------------------------------------------------------
@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_slices_of_all_ranks_are_the_global_draw(world):
    def draws(**place):
        return [batch.draw for batch in make(**place)]

    whole = draws()
    ranks = [draws(rank=r, world_size=world) for r in range(world)]
    for d, *parts in zip(whole, *ranks):
        assert torch.cat([part.idx for part in parts]).equal(d.idx)
        weight = torch.cat([part.weight for part in parts]) / world
        assert torch.allclose(weight, d.weight, rtol=1e-15)
        g = torch.randn(N, generator=torch.Generator().manual_seed(d.step))
        estimate = sum(part.estimate(g[part.idx]) for part in parts) / world
        assert torch.isclose(estimate, d.estimate(g[d.idx]), atol=1e-6)


# ---- refusals --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options, word",
    [
        (dict(batch=0), "batch_size"),
        (dict(steps=0), "steps"),
        (dict(lag=-1), "lag"),
        (dict(rank=2, world_size=2), "rank must be at least 0 and at most 1"),
        (dict(world_size=0), "world_size"),
        (dict(law=Uniform), "call init"),
    ],
)
def test_bad_arguments_are_refused(options, word):
    with pytest.raises(InvalidArgument, match=word):
        make(**options)


def test_refusals():
    with pytest.raises(InvalidArgument, match="p is static"):
        make(uniform).update([0], [1.0])
    with pytest.raises(InvalidProbabilities, match="normalise"):
        make(lambda: np.ones(N))
    with pytest.raises(InvalidArgument, match="generator"):
        ImportanceBatchSampler(tree(), 2, steps=1, generator=0)


@pytest.mark.parametrize(
    "idx, scores, step, error",
    [
        ([N], [1.0], 0, InvalidShape),
        ([0], [np.nan], 0, InvalidScores),
        ([0], [-1.0], 0, InvalidScores),
        ([0, 1], [1.0], 0, InvalidShape),
        ([0], [1.0], 5, InvalidArgument),
    ],
)
def test_refused_reports_change_nothing(idx, scores, step, error):
    s = make()
    next(iter(s))
    before = s.state_dict(step=0)
    with pytest.raises(error):
        s.update(idx, scores, step=step)
    after = s.state_dict(step=0)
    assert s._seen == -1
    assert not s._reports
    assert (before["law"]["weights"] == after["law"]["weights"]).all()


def test_a_report_of_nothing_consumes_its_step():
    s = make()
    next(iter(s))
    s.update([], [])
    assert s.state_dict()["step"] == 0
    with pytest.raises(InvalidArgument, match="step 3 is not between"):
        s.consumed(3)


# ---- seeds, exponents, words -----------------------------------------------------------------
def test_torch_generator_gives_the_seed():
    def seeded():
        generator = torch.Generator().manual_seed(1)
        return ImportanceBatchSampler(tree(), 4, steps=2, generator=generator)

    assert list(seeded()) == list(seeded())
    assert seeded().seed != make().seed


def test_annealed_exponent_of_a_scheme_reaches_the_weights():
    class Half(type(Uniform())):
        beta = 0.5

        def shape(self, scores):
            return scores

        def _known(self, scores):
            return 1.0 + np.arange(N)

    d = next(iter(make(lambda: Half().init(N)))).draw
    assert torch.allclose(d.weight, (1 / (N * d.prob)) ** 0.5 / 6)
    assert isinstance(InverseCDF(uniform()).draw(2, rng()), Draw)


def test_a_sampler_says_what_it_does():
    s = make(rank=1, world_size=2)
    next(iter(s))
    law = "SumTree(n=50, total=1275)"
    sizes = "batch_size=6, steps=7, lag=8, rank=1, world_size=2"
    assert repr(s) == f"ImportanceBatchSampler({law}, {sizes}): 1 steps drawn"
