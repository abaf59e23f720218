"""ImportanceBatchSampler in torch's DataLoader: workers, lag, checkpoints, epochs, weights that travel with the batch."""

import io
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
from impsamp.samplers.loader import DrawnBatch
from impsamp.schemes import GradNorm, Mixture, Shuffle, Stale, SwitchOn, Uniform

N, LAG = 50, 8


def rng(seed=0):
    return np.random.default_rng(seed)


def tree():
    return SumTree(1.0 + np.arange(N))


def scheme():
    return Mixture(GradNorm(), Uniform()).init(N)


def stale():
    return Stale("norm").init(N)


def switched():
    return SwitchOn(
        Stale("norm"),
        every=9,
        trial=3,
        replay=[(6, True, 1.0, 1.0, 1.0), (15, False, 1.0, 1.0, 1.0)],
    ).init(N)


def make(law=tree, batch=6, steps=7, lag=LAG, seed=0, **options):
    s = ImportanceBatchSampler(law(), batch, steps=steps, generator=rng(seed), lag=lag, **options)
    if law is scheme:
        s.update(np.arange(N), np.ones(N))  # first scores of all items
    return s


def key(draw):
    return draw.step, draw.idx.tolist(), draw.weight.tolist(), draw.prob.tolist()


def train(sampler, epochs=1, workers=0, stop=None, factor=2):
    "What training sees, with scores that depend on everything seen so far."
    data = WithDraw(TensorDataset(torch.arange(float(N))))
    extra = dict(num_workers=workers, prefetch_factor=factor) if workers else {}
    loader, seen = DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, **extra), []
    for _ in range(epochs):
        for (x,), draw in loader:
            assert (x == draw.idx).all()
            seen.append(key(draw))
            if sampler._source.changes:
                sampler.update(
                    draw.idx, 1 + (draw.weight * (1 + x)).abs() * (1 + draw.step), step=draw.step
                )
            if draw.step == stop:
                return seen
    return seen


@pytest.fixture(scope="module")
def single():
    return {law: train(make(law), epochs=3) for law in (tree, scheme, stale, switched)}


# ---- the stream does not depend on the workers ---------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("law, workers", [(tree, 2), (tree, 4), (scheme, 4), (stale, 2)])
def test_workers_see_the_same_batches_and_weights_while_scores_change(single, law, workers):
    assert train(make(law), epochs=3, workers=workers) == single[law]


def test_scores_matter_and_the_lag_is_what_it_says():
    s, seen = make(lag=2), []
    for batch in s:
        seen.append(s._source.law.total)
        s.update(batch, np.full(6, 100.0), step=batch.draw.step)
    first = 1275.0
    assert (
        seen[:3] == [first] * 3
        and seen[3] > first
        and all(b >= a for a, b in itertools.pairwise(seen))
    )
    assert list(train(make(lag=0)))[:1] == list(train(make(lag=5)))[:1] and train(
        make(lag=0)
    ) != train(make(lag=5))


@pytest.mark.parametrize("workers", [0, 2])
def test_static_probabilities_need_no_lag(workers):
    def p():
        return np.arange(N) / np.arange(N).sum()

    assert train(make(p, lag=0), epochs=2, workers=workers) == train(make(p, lag=0), epochs=2)
    assert [k[0] for k in train(make(p, lag=0), epochs=2)] == list(range(14))


def test_each_step_has_its_own_stream():
    s = make(lambda: np.full(N, 1 / N))
    wanted = AliasTable(np.full(N, 1 / N)).draw(6, counter_generator(s.seed, 3), step=3)
    assert key(list(s)[3].draw) == key(wanted)


def test_a_report_that_its_lag_has_overtaken_is_refused():
    with pytest.raises(InvalidArgument, match="num_workers \\* prefetch_factor"):
        train(make(lag=1), workers=2)


# ---- checkpoints ---------------------------------------------------------------------------------------------------
def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    "law, before, after, stop",
    [
        *[(law, 0, 0, stop) for law in (tree, scheme, stale, switched) for stop in (0, 3, 6, 9)],
        (tree, 2, 0, 9),
        (scheme, 0, 2, 15),
        (tree, 4, 2, 3),
    ],
)
def test_resume_in_mid_epoch_is_bit_identical(single, law, before, after, stop):
    first, second = make(law), make(law, seed=99)
    begin = train(first, epochs=2, workers=before, stop=stop)
    second.load_state_dict(through_a_file(first.state_dict()))
    epochs = 3 - (stop + 1) // 7
    assert begin + train(second, epochs=epochs, workers=after) == single[law]


def test_static_resume_names_the_step():
    def p():
        return np.full(N, 1 / N)

    whole, first, second = train(make(p), epochs=2), make(p), make(p, seed=5)
    begin = train(first, workers=2, stop=3)
    with pytest.raises(InvalidArgument, match="name the step"):
        first.state_dict()
    second.load_state_dict(through_a_file(first.state_dict(step=3)))
    assert begin + train(second, epochs=2) == whole
    first.consumed(3)
    assert first.state_dict()["step"] == 3


def test_state_before_the_first_step_and_twice():
    a, b = make(), make(seed=3)
    b.load_state_dict(a.state_dict())
    assert train(b, stop=4) == train(a, stop=4)
    c = make(seed=4)
    c.load_state_dict(b.state_dict())
    d = make(seed=5)
    d.load_state_dict(c.state_dict())  # a checkpoint of a checkpoint, before any new step
    assert train(d) == train(make())[5:]


def test_foreign_states_are_refused_and_change_nothing():
    s = make()
    before = s.state_dict()
    for other, word in (
        (make(batch=5), "batch_size"),
        (make(steps=9), "steps"),
        (make(lag=3), "lag"),
        (make(lambda: SumTree(np.ones(4))), "its n is 4"),
        (make(scheme), "source"),
    ):
        with pytest.raises(InvalidArgument, match=word):
            s.load_state_dict(other.state_dict())
    assert (
        s.seed == before["seed"]
        and (s._source.law.weights == before["law"]["weights"].numpy()).all()
    )
    with pytest.raises(InvalidArgument, match="lies 5 draws back"):
        far = make(lag=2)
        ahead = iter(far)
        for _ in range(6):
            next(ahead)
        far.state_dict(step=0)


# ---- epochs --------------------------------------------------------------------------------------------------------
def test_epochs_go_on_and_a_broken_one_is_left():
    s = make(lambda: np.full(N, 1 / N), steps=4)
    assert len(s) == 4 and [b.draw.step for b in s] == [0, 1, 2, 3]
    for b in s:
        break
    assert b.draw.step == 4 and [b.draw.step for b in s] == [8, 9, 10, 11]


def test_shuffle_is_epochs_of_permutations():
    s = make(lambda: Shuffle().init(N), batch=10, steps=5)
    a, b = (sorted(i for batch in s for i in batch) for _ in range(2))
    assert a == b == list(range(N))
    first = list(make(lambda: Shuffle().init(N), batch=10, steps=5))
    assert (first[0].draw.weight == 0.1).all() and first[0] != sorted(first[0])
    resumed = make(lambda: Shuffle().init(N), batch=10, steps=5, seed=1)
    state = make(lambda: Shuffle().init(N), batch=10, steps=5)
    next(it := iter(state)), next(it)
    resumed.load_state_dict(state.state_dict(step=1))
    assert [list(b) for b in resumed] == [list(b) for b in first[2:]]
    with pytest.raises(InvalidArgument, match="exceeds the 50 items"):
        make(lambda: Shuffle().init(N), batch=51)


# ---- data sets -----------------------------------------------------------------------------------------------------
class Weighted(Dataset):
    "The three lines that the notebook shows."

    def __init__(self, data):
        self.data = data

    def __getitems__(self, batch):
        return [(self.data[i], w) for i, w in zip(batch, batch.draw.weight)]


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_travel_with_the_batch_in_three_lines(workers):
    p = np.arange(N) / np.arange(N).sum()
    for x, w in DataLoader(
        Weighted(torch.arange(float(N))), batch_sampler=make(lambda: p), num_workers=workers
    ):
        assert (
            torch.allclose(w, 1 / (6 * N * torch.from_numpy(p)[x.long()]))
            and w.dtype == torch.float64
        )


def test_a_plain_data_set_sees_a_list_of_integers():
    for (x,), b in zip(
        DataLoader(TensorDataset(torch.arange(float(N))), batch_sampler=make()), make()
    ):
        assert x.tolist() == list(b)


def test_empty_subsets_make_empty_batches_with_the_right_shapes():
    class Dicts(Dataset):
        def __len__(self):
            return N

        def __getitem__(self, i):
            return {"x": torch.ones(3), "y": (i, "name")}

    sampling = IndependentSampling(np.full(N, 0.01))
    s = ImportanceBatchSampler(sampling, None, steps=40, generator=rng())
    data, sizes = WithDraw(Dicts()), []
    for batch, draw in DataLoader(data, batch_sampler=s, collate_fn=data.collate, num_workers=2):
        assert batch["x"].shape == (len(draw.idx), 3) and len(batch["y"][1]) == len(draw.idx)
        assert torch.allclose(draw.weight, torch.full_like(draw.weight, 1 / (N * 0.01)))
        assert draw.estimate(batch["x"]).shape == (3,)
        sizes.append(len(draw.idx))
    assert 0 in sizes and max(sizes) > 0
    with pytest.raises(InvalidArgument, match="its own size"):
        ImportanceBatchSampler(sampling, 4, steps=1, generator=rng())


def test_data_sets_with_their_own_getitems_are_asked_once_per_batch():
    class Bulk(Dataset):
        def __len__(self):
            return N

        def __getitems__(self, rows):
            return [torch.tensor(r) for r in rows]

    data = WithDraw(Bulk())
    for x, draw in DataLoader(data, batch_sampler=make(), collate_fn=data.collate):
        assert (x == draw.idx).all()
    with pytest.raises(InvalidArgument, match="batch_sampler=ImportanceBatchSampler"):
        next(iter(DataLoader(data, batch_size=2)))


def test_a_drawn_batch_survives_pickling_without_tensors():
    b = next(iter(make()))
    copy = pickle.loads(pickle.dumps(b))
    assert (
        copy == b
        and key(copy.draw) == key(b.draw)
        and isinstance(copy, DrawnBatch)
        and isinstance(copy.draw, Draw)
    )


# ---- slices --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_slices_of_all_ranks_are_the_global_draw(world):
    whole = [b.draw for b in make()]
    ranks = [[b.draw for b in make(rank=r, world_size=world)] for r in range(world)]
    for t, d in enumerate(whole):
        assert torch.cat([r[t].idx for r in ranks]).equal(d.idx)
        assert torch.allclose(torch.cat([r[t].weight for r in ranks]) / world, d.weight, rtol=1e-15)
        g = torch.randn(N)
        assert torch.isclose(
            sum(r[t].estimate(g[r[t].idx]) for r in ranks) / world, d.estimate(g[d.idx]), atol=1e-6
        )


# ---- refusals ------------------------------------------------------------------------------------------------------
def test_refusals():
    static = make(lambda: np.full(N, 1 / N))
    with pytest.raises(InvalidArgument, match="p is static"):
        static.update([0], [1.0])
    with pytest.raises(InvalidProbabilities, match="normalise"):
        make(lambda: np.ones(N))
    with pytest.raises(InvalidArgument, match="call init"):
        make(lambda: Uniform())
    for options, word in (
        (dict(batch=0), "batch_size"),
        (dict(steps=0), "steps"),
        (dict(lag=-1), "lag"),
        (dict(rank=2, world_size=2), "rank must be at least 0 and at most 1"),
        (dict(world_size=0), "world_size"),
    ):
        with pytest.raises(InvalidArgument, match=word):
            make(**options)
    with pytest.raises(InvalidArgument, match="generator"):
        ImportanceBatchSampler(tree(), 2, steps=1, generator=0)


def test_refused_reports_change_nothing():
    s = make()
    next(iter(s))
    before = s.state_dict(step=0)
    for idx, w, step, error in (
        ([N], [1.0], 0, InvalidShape),
        ([0], [np.nan], 0, InvalidScores),
        ([0], [-1.0], 0, InvalidScores),
        ([0, 1], [1.0], 0, InvalidShape),
        ([0], [1.0], 5, InvalidArgument),
    ):
        with pytest.raises(error):
            s.update(idx, w, step=step)
    after = s.state_dict(step=0)
    assert (
        s._seen == -1
        and not s._reports
        and (before["law"]["weights"] == after["law"]["weights"]).all()
    )
    s.update([], [])  # nothing to say about step 0, but it is consumed
    assert s.state_dict()["step"] == 0
    with pytest.raises(InvalidArgument, match="step 3 is not between"):
        s.consumed(3)


def test_torch_generator_gives_the_seed():
    a, b = (
        ImportanceBatchSampler(tree(), 4, steps=2, generator=torch.Generator().manual_seed(k))
        for k in (1, 1)
    )
    assert list(a) == list(b) and a.seed != make().seed


def test_annealed_exponent_of_a_scheme_reaches_the_weights():
    class Half(type(Uniform())):
        beta = 0.5

        def shape(self, scores):
            return scores

        def _known(self, scores):
            return 1.0 + np.arange(N)

    d = next(iter(make(lambda: Half().init(N)))).draw
    assert torch.allclose(d.weight, (1 / (N * d.prob)) ** 0.5 / 6)
    assert isinstance(InverseCDF(np.full(N, 1 / N)).draw(2, rng()), Draw)
