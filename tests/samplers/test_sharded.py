"""Sharded scores: the union over ranks is the single tree's draw, by many seeds in one process and under torchrun; updates stay with their owner."""

import json

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
from impsamp.samplers.distributed import agree, digest
from tests.samplers import torchrun_worker as worker
from tests.samplers.torchrun import torchrun


def shards(weights, cuts, **options):
    parts = np.split(weights, cuts)
    trees = [ShardedSumTree(part, **options) for part in parts]
    for r, tree in enumerate(trees):
        tree._place(r, [len(p) for p in parts])
        tree._totals = lambda: np.array([t.total for t in trees])
    return trees


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 20), min_size=4, max_size=90).filter(any),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4),
    st.integers(0, 99),
    st.sampled_from(["multinomial", "stratified", "systematic"]),
)
def test_ranks_together_are_the_single_tree(weights, cuts, seed, method):
    w = np.array(weights, float)  # whole numbers: sums are exact in any order
    cuts = sorted({min(max(round(c * w.size), 1), w.size - 1) for c in cuts})
    trees, whole, g = shards(w, cuts), SumTree(w), np.random.default_rng(seed)
    for _ in range(3):
        draws = [t.draw(30, np.random.default_rng(seed), method=method) for t in trees]
        one = whole.draw(30, np.random.default_rng(seed), method=method)
        idx, order = torch.cat([d.idx for d in draws]), np.argsort(one.idx.numpy(), kind="stable")
        assert (np.sort(idx.numpy()) == one.idx.numpy()[order]).all()
        for t, d in zip(trees, draws):
            assert ((d.idx >= t.low) & (d.idx < t.high)).all()
            assert torch.allclose(
                d.weight, len(trees) / (30 * w.size * d.prob), rtol=1e-15
            ) and torch.allclose(d.prob, torch.from_numpy(w)[d.idx] / w.sum(), rtol=1e-15)
        for t in trees:  # new whole weights, each rank its own items
            rows = g.integers(t.low, t.high, size=5)
            new = g.integers(1, 9, size=5).astype(float)
            t.update(rows, new)
            whole.update(rows, new)
            for i, x in zip(rows, new):
                w[i] = x


def test_systematic_points_share_the_work_by_the_totals():
    w = np.random.default_rng(0).pareto(2.0, 300)
    trees = shards(w, [100, 200], method="systematic")
    sizes = np.array(
        [[len(t.draw(64, np.random.default_rng(s)).idx) for t in trees] for s in range(200)]
    )
    assert (sizes.sum(1) == 64).all() and (
        np.abs(sizes - 64 * np.array([t.total for t in trees]) / w.sum()) < 1
    ).all()


def test_refusals():
    a, b = shards(np.arange(1.0, 8.0), [3])
    before = b._tree.copy()
    for rows, error, words in (
        ([2], InvalidShape, "item 2 belongs to another rank: rank 1 owns 3..6"),
        ([7], InvalidShape, "outside the 7"),
        ([4, 5], InvalidScores, "not finite"),
    ):
        with pytest.raises(error, match=words):
            b.update(rows, [1.0] * (len(rows) - 1) + [np.nan if len(rows) > 1 else 1.0])
    assert (b._tree == before).all()
    a.update([0, 1, 2], 0.0)
    assert (
        len(a.draw(5, np.random.default_rng(0)).idx) == 0
        and len(b.draw(5, np.random.default_rng(0)).idx) == 5
    )
    b.update([3, 4, 5, 6], 0.0)
    with pytest.raises(InvalidProbabilities, match="all 7 items on 2 ranks"):
        a.draw(1, np.random.default_rng(0))
    with pytest.raises(InvalidShape, match="tree of 3 items, the shards here have 7"):
        a.load_state_dict(SumTree(np.ones(3)).state_dict())
    with pytest.raises(InvalidArgument, match="give them to ShardedImportanceBatchSampler"):
        DistributedImportanceBatchSampler(a, 2, steps=1, generator=np.random.default_rng(0))
    s = ShardedImportanceBatchSampler(np.ones(4), 2, steps=2, generator=np.random.default_rng(0))
    with pytest.raises(InvalidShape, match="outside the 4"):
        s.update([4], [1.0])
    with pytest.raises(InvalidArgument, match="differ in p = 1 here"):
        _disagree(p=1)


def _disagree(**facts):
    from unittest import mock

    with mock.patch(
        "impsamp.samplers.distributed.gather_rows",
        lambda rows, size, group: torch.cat([rows, rows + 1]),
    ):
        agree(**facts)


def test_the_digest_sees_every_bit_kind_and_order():
    p = np.random.default_rng(0).dirichlet(np.ones(50))
    close = p.copy()
    close[7] = np.nextafter(close[7], 1)
    seen = [
        digest(x)
        for x in (
            p,
            close,
            p[::-1],
            p.reshape(5, 10),
            p.astype(np.float32),
            [p, p],
            {"a": p},
            {"b": p},
            None,
            "a",
        )
    ]
    assert (
        len(set(seen)) == len(seen)
        and digest(torch.from_numpy(p)) == seen[0]
        and all(0 <= s < 2**48 for s in seen)
    )


def test_a_state_moves_between_one_process_and_shards():
    w, opts = (
        np.random.default_rng(1).random(20),
        dict(steps=8, generator=np.random.default_rng(3), lag=2),
    )
    a = ImportanceBatchSampler(SumTree(w), 5, **opts)
    stream, state = [], None
    for batch in a:
        stream.append(batch.draw)
        a.update(batch.draw.idx, np.full(5, 1.0 + batch.draw.step), step=batch.draw.step)
        if batch.draw.step == 3:
            state = a.state_dict()
    b = ShardedImportanceBatchSampler(
        np.ones(20), 5, steps=8, generator=np.random.default_rng(99), lag=2
    )
    b.load_state_dict(state)
    for batch, d in zip(b, stream[4:], strict=True):
        assert torch.equal(batch.draw.idx, d.idx) and torch.equal(batch.draw.weight, d.weight)
        b.update(d.idx, np.full(5, 1.0 + d.step), step=d.step)


# ---- under torchrun ------------------------------------------------------------------------------------------------
def run(folder, ranks, stop, method="multinomial"):
    done = torchrun(ranks, "sharded_worker.py", folder, stop, method)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in range(ranks)]


def assert_is(reports, single, first):
    for t, (step, items, weights) in enumerate(single[first : len(reports[0]["seen"]) + first]):
        parts = [r["seen"][t] for r in reports]
        assert {p[0] for p in parts} == {step}
        mine = sorted((i, w / len(reports)) for p in parts for i, w in zip(*p[1:]))
        theirs = sorted(zip(items, weights))
        assert [i for i, _ in mine] == [i for i, _ in theirs] and np.allclose(
            [w for _, w in mine], [w for _, w in theirs], rtol=1e-9
        )


def test_two_ranks_with_a_shard_each_see_the_single_process_stream(tmp_path):
    reports, (stream, weight) = run(tmp_path, 2, -1), worker.single()
    assert [len(r["seen"]) for r in reports] == [worker.STEPS] * 2
    assert_is(reports, stream, 0)
    assert np.allclose(reports[0]["weight"], weight, rtol=1e-9)
    for r in reports:
        assert "digest_of_p" in r["p"] and "seed" not in r["p"] and "seed = " in r["seed"]


def test_three_ranks_stop_and_two_go_on(tmp_path):
    stream, weight = worker.single()
    assert_is(run(tmp_path, 3, 7), stream, 0)
    reports = run(tmp_path, 2, -1)  # from the checkpoint of step 5, with other shards
    assert [s[0] for s in reports[0]["seen"]] == list(range(6, worker.STEPS))
    assert_is(reports, stream, 6)
    assert np.allclose(reports[0]["weight"], weight, rtol=1e-9)
