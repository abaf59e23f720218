"""Items that are removed or added while scores are remembered: the law, the weights, the epoch."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.samplers import ImportanceBatchSampler
from impsamp.samplers.draws import make_draw
from impsamp.samplers.sharded_bins import ShardedStale
from impsamp.samplers.sources import source_of
from impsamp.schemes import Mixture, Stale, SwitchOn, Uniform
from impsamp.schemes.stale import BINS
from impsamp.training import choose
from tests.samplers.helpers import rng, through_a_file

KINDS = pytest.mark.parametrize("calibrate", [True, False])


def witnessed(calibrate, n=12, seen=9, **settings):
    "A scheme of `n` items of which the first `seen` were reported, twice."
    scheme = Stale("loss", calibrate=calibrate, **settings).init(n)
    g = rng(5).lognormal(0, 2, n)
    for factor in (1.0, 3.0):
        scheme.update(np.arange(seen), g[:seen] * factor, np.full(seen, 1 / n))
    return scheme


def fresh_twin(scheme, living):
    "A scheme that never knew any but the `living` items, with the same evidence and scores."
    twin = Stale("loss", calibrate=scheme.calibrate, weight=scheme.weight).init(living.size)
    known = scheme.scores[living]
    seen = np.flatnonzero(~np.isnan(known))
    twin.update(seen, known[seen].astype(float), np.full(seen.size, 1 / living.size))
    twin.evidence = scheme.evidence
    return twin


@KINDS
def test_the_law_is_that_of_a_scheme_which_never_knew_the_removed(calibrate):
    scheme = witnessed(calibrate)
    scheme.remove([1, 4, 10])
    living = np.setdiff1d(np.arange(12), [1, 4, 10])
    p = scheme.probabilities()
    assert p[[1, 4, 10]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(p[living], fresh_twin(scheme, living).probabilities(), rtol=1e-9)
    assert scheme.population == 9 and scheme.n == 12 and scheme.unseen == 2


@KINDS
def test_weights_are_unbiased_for_the_mean_over_the_living(calibrate):
    """Over all draws of one item, by the loader's own weights, enumerated item by item."""
    scheme = witnessed(calibrate)
    scheme.remove([0, 11])
    source = source_of(scheme, 4000, np.random.default_rng)
    p = scheme.probabilities()
    values = rng(1).normal(size=12)
    draw = source.draw(rng(2), 0)
    idx = draw.idx.numpy()
    assert set(idx) == set(range(1, 11))
    weight = np.zeros(12)
    weight[idx] = draw.weight * 4000  # 1/(10 p_i), the same for each time that i was drawn
    np.testing.assert_allclose(p[1:11] * weight[1:11], 1 / 10, rtol=1e-9)
    assert (p * weight * values).sum() == pytest.approx(values[1:11].mean(), rel=1e-9)


@KINDS
@pytest.mark.parametrize("grown", [False, True])
def test_draws_follow_the_law_by_chi_square(calibrate, grown):
    scheme = witnessed(calibrate, n=40, seen=30)
    source = source_of(scheme, 60_000, np.random.default_rng)
    source.draw(rng(0), 0)
    scheme.remove(rng(3).permutation(40)[:13])
    if grown:
        scheme.grow(45)
        scheme.remove([41])
    draw = source.draw(rng(4), 1)
    p = scheme.probabilities()
    np.testing.assert_allclose(draw.prob, p[draw.idx.numpy()], rtol=1e-9)
    counts = np.bincount(draw.idx, minlength=scheme.n)
    assert not counts[p == 0].any()
    assert chisquare(counts[p > 0], 60_000 * p[p > 0]).pvalue > 1e-4


@KINDS
def test_a_late_report_of_a_removed_item_is_ignored_and_counted(calibrate):
    scheme, other = witnessed(calibrate), witnessed(calibrate)
    for one in (scheme, other):
        one.remove([3])
    q = np.full(3, 0.1)
    scheme.update(np.array([2, 3, 5]), np.array([1.0, 99.0, 2.0]), q)
    other.update(np.array([2, 5]), np.array([1.0, 2.0]), q[:2])
    assert scheme.outdated == 1 and other.outdated == 0
    assert np.isnan(scheme.scores[3]) and not scheme.lives(np.array([3]))[0]
    np.testing.assert_array_equal(scheme.probabilities(), other.probabilities())
    scheme.update([3], [7.0])  # of nobody else: without its probability, too
    assert scheme.outdated == 2 and (scheme.evidence.counts >= 0).all()
    scheme.probe([3, 2], [1.0, 1.0], [1.0, 1.0])
    assert scheme.outdated == 3


@KINDS
def test_the_loader_goes_on_while_items_go(calibrate):
    "Reports of draws made before; draws ahead are as they were made."
    scheme = Stale("loss", calibrate=calibrate).init(30)
    sampler = ImportanceBatchSampler(scheme, 8, steps=100, generator=0, lag=2)
    gone = []
    for batch in sampler:
        assert not set(batch) & set(gone)
        living = 30 - len(gone)
        np.testing.assert_allclose(batch.draw.weight, 1 / (8 * living * batch.draw.prob))
        if batch.draw.step % 7 == 6 and living > 9:
            gone += [batch[0]]
            scheme.remove([batch[0]])
        sampler.update(batch.draw, 1.0 + np.array(batch) % 5)
    assert len(gone) == 14 and scheme.outdated >= len(gone)


def run(sampler, scheme, last, plan):
    "Items step by step until `last`; `plan` says who goes after which step."
    items = []
    for batch in sampler:
        step = batch.draw.step
        items.append(list(batch))
        sampler.update(batch.draw, 1.0 + (np.array(batch) * step) % 7)
        if step in plan:
            scheme.remove(plan[step])
        if step == last:
            return items
    return items


@KINDS
@pytest.mark.parametrize("stop", [1, 2, 4, 9])
def test_a_restart_remembers_who_went(calibrate, stop):
    "In the shuffled epoch, of which five are passed over, and after it."

    def begun():
        scheme = Stale("loss", calibrate=calibrate, shuffle_first=True).init(30)
        return scheme, ImportanceBatchSampler(scheme, 6, steps=14, generator=1, lag=2)

    plan = {0: [3, 4, 5, 6, 7], 6: [0, 29]}
    scheme, sampler = begun()
    whole = run(sampler, scheme, 13, plan)
    first, sampler = begun()
    begin = run(sampler, first, stop, plan)
    second, resumed = begun()
    resumed.load_state_dict(through_a_file(sampler.state_dict()))
    assert second.population == first.population
    assert begin + run(resumed, second, 13, plan) == whole
    assert second.outdated == scheme.outdated


@KINDS
def test_the_rest_of_the_permutation_goes_on_without_them(calibrate):
    scheme = Stale("loss", calibrate=calibrate, shuffle_first=True).init(25)
    other = Stale("loss", shuffle_first=True).init(25)
    epoch = ImportanceBatchSampler(other, 5, steps=5, generator=3)
    order = [i for batch in epoch for i in batch]
    sampler = ImportanceBatchSampler(scheme, 5, steps=5, generator=3)
    gone = order[7:13]  # of the second and third batch
    met = []
    for batch in sampler:
        if batch.draw.step == 0:
            scheme.remove(gone)
        if len(met) < 15:
            assert np.allclose(batch.draw.weight, 1 / 5)
            met += batch
        sampler.update(batch.draw, np.ones(5))
    assert met == [i for i in order if i not in gone][:15]


def test_each_batch_of_that_epoch_is_a_uniform_subset_of_the_living():
    "Over many orders: every living item as often as another at each place."
    counts = np.zeros((3, 8))
    for seed in range(3000):
        scheme = Stale("loss", shuffle_first=True).init(8)
        source = source_of(scheme, 2, lambda epoch, s=seed: np.random.default_rng([s, epoch]))
        counts[0, source.draw(None, 0).idx.numpy()] += 1
        scheme.remove([2, 5])
        for step in (1, 2):
            rows = source._next_living(step)
            if rows is not None:
                counts[step, rows] += 1
    living = [0, 1, 3, 4, 6, 7]
    assert not counts[1:, [2, 5]].any()
    for row in counts[1:]:
        assert chisquare(row[living]).pvalue > 1e-4


def test_items_that_come_in_the_first_epoch_wait_for_its_end():
    scheme = Stale("loss", shuffle_first=True).init(12)
    sampler = ImportanceBatchSampler(scheme, 4, steps=40, generator=0)
    met = []
    for batch in sampler:
        if batch.draw.step == 1:
            scheme.grow(15)
        if batch.draw.step < 3:
            met += batch
        sampler.update(batch.draw, np.ones(4))
    assert sorted(met) == list(range(12)) and scheme.unseen == 0 and scheme.replacement


def test_the_training_loop_passes_them_over_too():
    from impsamp.randomness import CounterStream

    x = torch.zeros(11, 1)
    scheme = Stale("loss", shuffle_first=True).init(11)
    order = CounterStream(4).permutation(0, 11)
    gone = [int(order[1]), int(order[6])]
    met = []
    for step in range(4):
        fixed = (scheme, torch.nn.Identity(), None, x, x)
        choice = choose(*fixed, batch=3, stream=CounterStream(4), step=step)
        met += choice.idx.tolist()
        scheme.update(choice.idx, np.ones(len(choice.idx)), choice.prob)
        if step == 0:
            scheme.remove(gone)
    assert met == [i for i in order.tolist() if i != gone[1]] and scheme.replacement
    choice = choose(*fixed, batch=300, stream=CounterStream(4), step=9)
    np.testing.assert_allclose(choice.weight * 300 * 9 * choice.prob, 1)
    assert not set(choice.idx) & set(gone)


@KINDS
def test_bins_that_run_empty_and_scores_that_are_all_zero(calibrate):
    scheme = Stale("loss", calibrate=calibrate).init(5)
    source = source_of(scheme, 400, np.random.default_rng)
    for s in ([9.0, 0, 0, 0, 0], [9.0, 0, 0, 0, 0]):
        source.update(np.arange(5), np.array(s), np.full(5, 0.2))
    p = scheme.probabilities()
    np.testing.assert_allclose(p, [0.84, 0.04, 0.04, 0.04, 0.04], atol=1e-6)  # one has all the mass
    scheme.remove([0])  # and takes it along; its bin is empty now
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        draw = source.draw(rng(), 0)
        np.testing.assert_allclose(draw.prob, 0.25)
        np.testing.assert_allclose(scheme.probabilities(), [0, 0.25, 0.25, 0.25, 0.25])
    assert set(draw.idx.tolist()) == {1, 2, 3, 4}
    assert len(said) == (0 if calibrate and scheme.evidence.squares.any() else 1)
    scheme.remove([1, 2, 3])
    assert set(source.draw(rng(), 1).idx.tolist()) == {4}
    assert scheme.draw(1, 0)[1].tolist() == [1.0]


def test_what_cannot_be_removed_is_refused_and_changes_nothing():
    scheme = witnessed(True)
    scheme.remove([2])
    before = scheme.probabilities()
    for wrong, words in (
        ([2], "removed before"),
        ([12], "numbered 0 to 11"),
        ([-1], "numbered 0 to 11"),
        ([1.5], "numbered"),
        ([4, 4], "named twice"),
        ([i for i in range(12) if i != 2], "leave none"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            scheme.remove(wrong)
    with pytest.raises(ValueError):
        scheme.remove(np.ones(12, bool))
    with pytest.raises(InvalidArgument, match="init"):
        Stale().remove([0])
    scheme.remove([])
    np.testing.assert_array_equal(scheme.probabilities(), before)


@KINDS
def test_composites_keep_weights_right(calibrate):
    "A mixture with u may draw a removed item: it weighs nothing, and the mean is unbiased."
    inner = witnessed(calibrate)
    inner.remove([0, 4])
    for outer in (Mixture(inner, Uniform()), SwitchOn(inner)):
        target = outer.target
        assert target.sum() == pytest.approx(1) and target[[0, 4]].tolist() == [0, 0]
        assert target[1] == pytest.approx(1 / 10)


def test_shards_remove_their_own():
    def parts_of(sizes):
        parts = [ShardedStale(Stale("loss"), n) for n in sizes]
        from impsamp.samplers.sharded_bins import _sums_of

        def gathered():
            sums = [_sums_of(part.inner) for part in parts]
            return np.concatenate(sums).reshape(-1, 3, BINS + 1)

        for rank, part in enumerate(parts):
            part._place(rank, list(sizes))
            part._gathered = gathered
        return parts

    parts = parts_of([4, 6])
    parts[0].remove([1])
    parts[1].remove([4, 9])
    for _ in range(3):
        draws = [part.draw(50, np.random.default_rng(0)) for part in parts]
        idx = np.concatenate([d.idx for d in draws])
        assert idx.size == 50 and not set(idx) & {1, 4, 9}
        for part, d in zip(parts, draws):
            np.testing.assert_allclose(d.weight, 2 / (50 * 7 * d.prob))
            part.update(d.idx, 1.0 + d.idx.numpy(), d.prob)
    for part, wrong, kind in (
        (parts[0], [4], InvalidShape),
        (parts[1], [9], InvalidArgument),
        (parts[1], [5, 6, 7, 8], InvalidArgument),
    ):
        with pytest.raises(kind):
            part.remove(wrong)
    again = parts_of([4, 6])
    again[1].load_state_dict(through_a_file(parts[1].state_dict()))
    assert again[1].population == 7 and again[1].inner.population == 4


def test_a_million_items_are_removed_in_no_time_of_their_number():
    "Removal touches a few places an item, whatever n."
    for n in (1000, 100_000):
        scheme = Stale("loss").init(n)
        scheme.update(np.arange(n), rng(0).lognormal(0, 3, n), np.full(n, 1 / n))
        order = scheme.items.order.copy()
        scheme.remove([7, n // 2])
        assert (scheme.items.order != order).sum() <= 2 * (BINS + 2)


events = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(0, 3)),
        st.tuples(st.just("remove"), st.integers(0, 10**6)),
        st.tuples(st.just("draw"), st.integers(1, 6)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=14,
)


@settings(deadline=None, max_examples=40)
@given(st.booleans(), st.integers(2, 6), events)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_comes_and_goes_the_law_is_one_over_the_living(calibrate, n, happened):
    "The loader's source and the scheme agree after any history."
    scheme = Stale("loss", calibrate=calibrate).init(n)
    source = source_of(scheme, 3, np.random.default_rng)
    living = list(range(n))
    for step, (event, what) in enumerate(happened):
        if event == "grow":
            living += range(scheme.n, scheme.n + what)
            scheme.grow(scheme.n + what)
        elif event == "remove" and len(living) > 1:
            scheme.remove([living.pop(what % len(living))])
        elif event == "draw":
            draw = source.draw(rng(step), step)
            source.update(draw.idx.numpy(), rng(step).lognormal(0, 2, 3) * what, draw.prob.numpy())
        elif event == "restart":
            state = through_a_file(source.state_dict())
            scheme = Stale("loss", calibrate=calibrate).init(scheme.n)
            source = source_of(scheme, 3, np.random.default_rng)
            source.load_state_dict(state)
        p = scheme.probabilities()
        assert np.flatnonzero(p).tolist() == sorted(living) and np.isclose(p.sum(), 1)
        assert p[living].min() >= (1 - scheme.weight) / len(living) * (1 - 1e-9)
        rows, prob = source._items(rng(step))
        np.testing.assert_allclose(prob, p[rows], rtol=1e-9)
        one = make_draw(rows, prob, n=scheme.population, batch=3)
        np.testing.assert_allclose(one.weight * 3 * len(living) * p[rows], 1)


def test_a_switch_that_is_off_draws_uniformly_from_the_living():
    switch = SwitchOn(Stale("loss"), every=20, trial=2).init(6)
    switch.parts[0].remove([1])
    laws = []
    for _ in range(4):
        switch.due()
        laws.append(switch.probabilities())
    assert not switch.on
    np.testing.assert_allclose(laws, [[0.2, 0, 0.2, 0.2, 0.2, 0.2]] * 4)
