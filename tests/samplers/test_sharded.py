"""Sharded scores: the union over ranks is the single tree's draw, updates stay with their owner.

By many seeds in one process, and under torchrun."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidScores, InvalidShape
from impsamp.samplers import (
    DistributedImportanceBatchSampler,
    ImportanceBatchSampler,
    ShardedImportanceBatchSampler,
    ShardedSumTree,
    SumTree,
)
from tests.samplers import torchrun_worker as worker
from tests.samplers.helpers import POINTS, rng, through_a_file
from tests.samplers.torchrun import reports_of, torchrun


def shards(weights, cuts, **options):
    "The trees of all ranks in one process: what stands for a gather is replaced."
    parts = np.split(weights, cuts)
    trees = [ShardedSumTree(part, **options) for part in parts]

    def totals():
        return np.array([tree.total for tree in trees])

    for r, tree in enumerate(trees):
        tree._place(r, [len(p) for p in parts])
        tree._totals = totals
    return trees


# ---- trees -----------------------------------------------------------------------------------
def assert_parts_of(draws, whole, trees, weights):
    "`draws` of all ranks are the items of `whole`, each from its owner, rightly weighed."
    size = len(whole.idx)
    idx = torch.cat([d.idx for d in draws]).sort().values
    assert idx.equal(whole.idx.sort().values)
    p = torch.from_numpy(weights / weights.sum())
    for tree, d in zip(trees, draws):
        assert ((d.idx >= tree.low) & (d.idx < tree.high)).all()
        assert torch.allclose(d.prob, p[d.idx], rtol=1e-15)
        wanted = len(trees) / (size * weights.size * d.prob)
        assert torch.allclose(d.weight, wanted, rtol=1e-15)


whole_weights = st.lists(st.integers(0, 20), min_size=4, max_size=90).filter(any)
places = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(whole_weights, places, st.integers(0, 99), st.sampled_from(POINTS))
def test_ranks_together_are_the_single_tree(weights, cuts, seed, method):
    w = np.array(weights, float)  # whole numbers: sums are exact in any order
    cuts = sorted({min(max(round(c * w.size), 1), w.size - 1) for c in cuts})
    trees = shards(w, cuts)
    whole = SumTree(w)
    g = rng(seed)
    for _ in range(3):
        draws = [t.draw(30, rng(seed), method=method) for t in trees]
        assert_parts_of(draws, whole.draw(30, rng(seed), method=method), trees, w)
        for t in trees:  # new whole weights, each rank its own items
            rows = g.integers(t.low, t.high, size=5)
            new = g.integers(1, 9, size=5).astype(float)
            t.update(rows, new)
            whole.update(rows, new)
        w = whole.weights


def test_systematic_points_share_the_work_by_the_totals():
    w = rng().pareto(2.0, 300)
    trees = shards(w, [100, 200], method="systematic")

    def sizes_of(seed):
        return [len(t.draw(64, rng(seed)).idx) for t in trees]

    sizes = np.array([sizes_of(seed) for seed in range(200)])
    wanted = 64 * np.array([t.total for t in trees]) / w.sum()
    assert (sizes.sum(1) == 64).all()
    assert (np.abs(sizes - wanted) < 1).all()


@pytest.mark.parametrize(
    "rows, weights, error, words",
    [
        ([2], [1.0], InvalidShape, "item 2 belongs to another rank: rank 1 owns 3..6"),
        ([7], [1.0], InvalidShape, "outside the 7"),
        ([4, 5], [1.0, np.nan], InvalidScores, "not finite"),
    ],
)
def test_a_refused_update_changes_nothing(rows, weights, error, words):
    _, b = shards(np.arange(1.0, 8.0), [3])
    before = b._tree.copy()
    with pytest.raises(error, match=words):
        b.update(rows, weights)
    assert (b._tree == before).all()


def test_a_rank_without_weight_draws_nothing():
    a, b = shards(np.arange(1.0, 8.0), [3])
    a.update([0, 1, 2], 0.0)
    assert len(a.draw(5, rng()).idx) == 0
    assert len(b.draw(5, rng()).idx) == 5
    b.update([3, 4, 5, 6], 0.0)
    with pytest.raises(InvalidProbabilities, match="all 7 items on 2 ranks"):
        a.draw(1, rng())


def test_refusals():
    a, b = shards(np.arange(1.0, 8.0), [3])
    with pytest.raises(InvalidShape, match="tree of 3 items, the shards here have 7"):
        a.load_state_dict(SumTree(np.ones(3)).state_dict())
    with pytest.raises(InvalidArgument, match="give them to ShardedImportanceBatchSampler"):
        DistributedImportanceBatchSampler(a, 2, steps=1, generator=rng())
    s = ShardedImportanceBatchSampler(np.ones(4), 2, steps=2, generator=rng())
    with pytest.raises(InvalidShape, match="outside the 4"):
        s.update([4], [1.0])
    assert repr(b) == "ShardedSumTree(n=7, rank 1 of 2 owns 3..6, its total=22)"


# ---- states ----------------------------------------------------------------------------------
def test_a_state_moves_between_one_process_and_shards():
    options = dict(steps=8, lag=2)
    a = ImportanceBatchSampler(SumTree(rng(1).random(20)), 5, generator=rng(3), **options)
    stream = []
    for batch in a:
        d = batch.draw
        stream.append(d)
        a.update(d.idx, np.full(5, 1.0 + d.step), step=d.step)
        if d.step == 3:
            state = through_a_file(a.state_dict())
    b = ShardedImportanceBatchSampler(np.ones(20), 5, generator=rng(99), **options)
    b.load_state_dict(state)
    for batch, d in zip(b, stream[4:], strict=True):
        assert torch.equal(batch.draw.idx, d.idx)
        assert torch.equal(batch.draw.weight, d.weight)
        b.update(d.idx, np.full(5, 1.0 + d.step), step=d.step)


# ---- under torchrun --------------------------------------------------------------------------
def run(folder, ranks, stop, method="multinomial"):
    done = torchrun(ranks, "sharded_worker.py", folder, stop, method)
    assert done.returncode == 0, done.stderr[-2000:]
    return reports_of(folder, ranks)


def assert_is(reports, stream, first):
    "All ranks together saw `stream` from step `first` on, in whatever order of items."
    for t, (step, items, weights) in enumerate(stream[first : first + len(reports[0]["seen"])]):
        parts = [r["seen"][t] for r in reports]
        assert {part[0] for part in parts} == {step}
        pairs = [zip(items, weights) for _, items, weights in parts]
        mine = sorted((i, w / len(reports)) for rank in pairs for i, w in rank)
        theirs = sorted(zip(items, weights))
        assert [i for i, _ in mine] == [i for i, _ in theirs]
        assert np.allclose([w for _, w in mine], [w for _, w in theirs], rtol=1e-9)


def test_two_ranks_with_a_shard_each_see_the_single_process_stream(tmp_path):
    reports = run(tmp_path, 2, -1)
    stream, weight = worker.single()
    assert [len(r["seen"]) for r in reports] == [worker.STEPS] * 2
    assert_is(reports, stream, 0)
    assert np.allclose(reports[0]["weight"], weight, rtol=1e-9)
    for r in reports:
        assert "digest_of_p" in r["p"]
        assert "seed" not in r["p"]
        assert "seed = " in r["seed"]


def test_three_ranks_stop_and_two_go_on(tmp_path):
    stream, weight = worker.single()
    assert_is(run(tmp_path, 3, 7), stream, 0)
    reports = run(tmp_path, 2, -1)  # from the checkpoint of step 5, with other shards
    assert [s[0] for s in reports[0]["seen"]] == list(range(6, worker.STEPS))
    assert_is(reports, stream, 6)
    assert np.allclose(reports[0]["weight"], weight, rtol=1e-9)
