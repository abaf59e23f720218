"""ImportanceBatchSampler in torch's DataLoader: workers, lag, checkpoints, epochs, data sets."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import impsamp.samplers.reports
from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidScores, InvalidShape
from impsamp.randomness import counter_generator
from impsamp.samplers import (
    AliasTable,
    Draw,
    ImportanceBatchSampler,
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
            if sampler._stream.source.changes:
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
        totals.append(s._stream.source.law.total)
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


def test_a_report_that_its_lag_has_overtaken_is_used_late_and_said_once():
    s = make(lag=1)
    with pytest.warns(RuntimeWarning, match=r"num_workers \* prefetch_factor") as said:
        seen = train(s, workers=2)
    assert [step for step, *_ in seen] == list(range(7))
    assert s.late > 0
    assert len([w for w in said if w.category is RuntimeWarning]) == 1


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
    assert first.state_dict()["step"] == 6  # nobody said what was trained on: the last draw
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
    assert (s._stream.source.law.weights == before["law"]["weights"].numpy()).all()


def test_a_state_too_far_back_is_refused(monkeypatch):
    monkeypatch.setattr(impsamp.samplers.reports, "KEPT", 1)
    s = make(lag=2)
    ahead = iter(s)
    for _ in range(6):
        next(ahead)
    with pytest.raises(InvalidArgument, match="lies 5 draws back"):
        s.state_dict(step=0)


# ---- epochs ----------------------------------------------------------------------------------
def test_epochs_go_on_and_a_broken_one_goes_on_with_the_next_draw():
    s = make(uniform, steps=4)
    assert len(s) == 4
    assert [b.draw.step for b in s] == [0, 1, 2, 3]
    assert next(iter(s)).draw.step == 4
    assert [b.draw.step for b in s] == [5, 6, 7, 8]


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
        ImportanceBatchSampler(tree(), 2, steps=1, generator="seed")


@pytest.mark.parametrize(
    "idx, scores, step, error",
    [
        ([N], [1.0], 0, InvalidShape),
        ([0], [-1.0], 0, InvalidScores),
        ([0], 1.0, 0, InvalidShape),
        ([True], [1.0], 0, InvalidShape),
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
    assert s._stream.account.seen == -1
    assert not s._stream.account.reports
    assert (before["law"]["weights"] == after["law"]["weights"]).all()


def test_a_report_of_nothing_consumes_its_step():
    s = make()
    next(iter(s))
    s.update([], [])
    assert s.state_dict()["step"] == 0
    with pytest.raises(InvalidArgument, match="step 3 was not drawn"):
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


# ---- named epochs -------------------------------------------------------------------------------
def test_an_epoch_that_lies_ahead_begins_at_its_own_first_step():
    sampler = ImportanceBatchSampler(SumTree(np.ones(9)), 2, steps=4, generator=0)
    assert sampler.over == -1
    sampler.set_epoch(0)
    sampler.set_epoch(2)
    assert [batch.draw.step for batch in sampler] == [8, 9, 10, 11]
    with pytest.raises(InvalidArgument, match="epoch"):
        sampler.set_epoch(-1)


def test_an_epoch_that_has_begun_is_not_made_again():
    sampler = ImportanceBatchSampler(SumTree(np.ones(9)), 2, steps=4, generator=0)
    for batch in sampler:
        sampler.update(batch.draw, [1.0, 2.0])
        if batch.draw.step == 1:
            break
    assert sampler.over == 1
    sampler.set_epoch(0)
    assert next(iter(sampler)).draw.step == 2
    sampler.set_epoch(1)
    assert [batch.draw.step for batch in sampler] == [4, 5, 6, 7]
    sampler.set_epoch(1)
    assert next(iter(sampler)).draw.step == 8


def test_a_named_epoch_of_a_static_law_has_the_same_draws_in_any_process():
    def epoch(k):
        sampler = ImportanceBatchSampler(np.full(9, 1 / 9), 2, steps=4, generator=0)
        sampler.set_epoch(k)
        return [list(batch) for batch in sampler]

    sampler = ImportanceBatchSampler(np.full(9, 1 / 9), 2, steps=4, generator=0)
    for k in range(3):
        sampler.set_epoch(k)
        assert [list(batch) for batch in sampler] == epoch(k)
    assert not sampler.learns
    assert ImportanceBatchSampler(SumTree(np.ones(9)), 2, steps=4, generator=0).learns
