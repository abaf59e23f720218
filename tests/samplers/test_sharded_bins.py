"""Sharded remembered scores: the law of one scheme that hears of all draws, on any number of ranks.

In one process, and with two gloo ranks that stop and go on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.randomness import counter_generator
from impsamp.samplers import ShardedStale
from impsamp.samplers.sharded_bins import _sums_of
from impsamp.schemes import Stale
from impsamp.schemes.stale import BINS
from tests.samplers import sharded_bins_worker as worker
from tests.samplers.torchrun import reports_of, torchrun


def shards(sizes, **options):
    "The parts of all ranks in one process: what stands for a gather is replaced."
    parts = [ShardedStale(Stale("loss", **options), n) for n in sizes]

    def gathered():
        return np.concatenate([_sums_of(p.inner) for p in parts]).reshape(-1, 3, BINS + 1)

    for rank, part in enumerate(parts):
        part._place(rank, list(sizes))
        part._gathered = gathered
    return parts


class Grid(np.random.Generator):
    "Hands out the middles of `size` equal cells of [0, 1)."

    def random(self, size):
        return (np.arange(size) + 0.5) / size


def probabilities_by_cells(parts, n, cells=20_000):
    "How many of equal cells belong to each item: P(i) to within 2/cells."
    counts = np.zeros(n)
    for part in parts:
        draw = part.draw(cells, Grid(np.random.PCG64(0)))
        counts += np.bincount(draw.idx.numpy(), minlength=n)
        expected = len(parts) / (cells * n * draw.prob.numpy())
        np.testing.assert_allclose(draw.weight.numpy(), expected, rtol=1e-12)
    assert counts.sum() == cells
    return counts / cells


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@settings(deadline=None, max_examples=25)
@given(shapes, st.integers(0, 99), st.integers(0, 25), st.sampled_from([0.0, 0.9, 0.99]))
def test_ranks_together_are_the_single_scheme(sizes, seed, steps, memory):
    "Also where all scores are zero (seed 0), and where a rank draws nothing."
    n = sum(sizes)
    g = np.random.default_rng(seed).lognormal(0, 3, n) * (seed > 0)
    parts = shards(sizes, memory=memory)
    single = Stale("loss", memory=memory).init(n)
    for part in (*(p.inner for p in parts), single):
        part._warned = True
    for step in range(steps):
        draws = [p.draw(4, counter_generator(seed, step)) for p in parts]
        idx = np.concatenate([d.idx for d in draws])
        prob = np.concatenate([d.prob for d in draws])
        np.testing.assert_allclose(prob, single.probabilities()[idx], rtol=1e-9)
        single.update(idx, g[idx], prob)
        for part, d in zip(parts, draws):
            part.update(d.idx, g[d.idx.numpy()], d.prob)
    found = probabilities_by_cells(parts, n)
    assert abs(found - single.probabilities()).max() <= 2 / 20_000


def test_a_rank_whose_scores_are_not_finite_ages_with_the_others():
    parts = shards([3, 3])
    for part in parts:
        part.update([part.low], [2.0], [1 / 6])
    with pytest.warns(RuntimeWarning, match="not finite"):
        parts[0].update([0], [np.nan], [1 / 6])
    parts[1].update([], [], [])
    assert (parts[0].inner.squares == parts[1].inner.squares).all()
    assert parts[0].inner.updates == parts[1].inner.updates == 2


def test_what_cannot_be_sharded_is_refused():
    for bad in (Stale(calibrate=False), Stale(shuffle_first=True), Stale(probe_every=50)):
        with pytest.raises(InvalidArgument, match="cannot be sharded"):
            ShardedStale(bad, 3)
    parts = shards([2, 3])
    with pytest.raises(InvalidShape, match="another rank"):
        parts[0].update([2], [1.0], [0.2])
    with pytest.raises(InvalidArgument, match="rank"):
        parts[0].load_state_dict(parts[1].state_dict())


def in_one_process(last):
    "What each rank sees in steps 0 .. `last` - 1."
    seen = [[] for _ in worker.SIZES]

    def gone(step, draws):
        for own, d in zip(seen, draws):
            own.append(d.idx.tolist())

    worker.steps(shards(worker.SIZES), 0, last, gone)
    return seen


def test_two_gloo_ranks_stop_and_go_on(tmp_path):
    "The draws of two processes, interrupted after six steps, are those of one process."
    wanted = in_one_process(14)
    seen = [[] for _ in worker.SIZES]
    for first, last in ((0, 6), (6, 14)):
        done = torchrun(2, "sharded_bins_worker.py", tmp_path, first, last)
        assert done.returncode == 0, done.stderr[-2000:]
        for own, report in zip(seen, reports_of(tmp_path, 2)):
            own += report["seen"]
    assert seen == wanted
    assert all(any(own) for own in seen)
