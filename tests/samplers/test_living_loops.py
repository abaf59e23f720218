"""No harmless thing kills a loop, and the draws stay those of a loop left alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import InvalidArgument, InvalidShape
from impsamp.samplers import ImportanceBatchSampler, SumTree
from impsamp.schemes import Loss, Stale
from tests.samplers.helpers import through_a_file
from tests.samplers.loops import BATCH, CHANGING, STATIC, STEPS, Loop, N, run, sampler_of

TOTAL = 3 * STEPS
KINDS = ["plain", "one ahead", "workers", "persistent workers"]
DISTURBED = {
    "a look": Loop(looks=1),
    "breaks": Loop(breaks={2, 7, 8, 14, 15}),
    "skips": Loop(skips={0, 3, 7, 9}),
    "all at once": Loop(looks=1, breaks={4, 11, 13}, skips={1, 5, 12}, spoils={2, 10, 13}),
    "by items": Loop(looks=1, breaks={4, 11}, skips={1, 12}, spoils={2}, form="items"),
}


def steps_of(seen):
    return [step for step, *_ in seen]


# ---- looks, breaks, skipped and spoilt reports ------------------------------------------------
@pytest.mark.parametrize("what", DISTURBED)
@pytest.mark.parametrize("law", CHANGING)
def test_a_disturbed_loop_sees_the_draws_of_a_calm_one(law, what):
    loop = DISTURBED[what]
    calm = run(sampler_of(law), TOTAL, loop.calm())
    assert steps_of(calm) == list(range(TOTAL))
    assert run(sampler_of(law), TOTAL, loop) == calm


ONE_AHEAD = [(law, "one ahead") for law in CHANGING]
WITH_WORKERS = [("tree", "workers"), ("stale", "persistent workers"), ("switch", "workers")]


@pytest.mark.parametrize("law, kind", ONE_AHEAD + WITH_WORKERS)
def test_at_an_explicit_lag_the_draws_are_the_same_for_every_loader(law, kind):
    loop = DISTURBED["all at once"]
    wanted = run(sampler_of(law, lag=4), TOTAL, loop.calm(), "plain")
    sampler = sampler_of(law, lag=4)
    assert run(sampler, TOTAL, loop, kind) == wanted
    assert sampler.late == 0
    assert sampler.ignored == 3


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("what", ["all at once", "by items"])
def test_without_a_lag_every_loader_trains_on_every_step_once(kind, what):
    sampler = sampler_of("stale")
    seen = run(sampler, TOTAL, DISTURBED[what], kind)
    assert steps_of(seen) == list(range(TOTAL))
    assert sampler.late == 0
    known = sampler._stream.source.law.scores
    assert np.isfinite(known[~np.isnan(known)]).all()


disturbances = st.sets(st.integers(0, TOTAL), max_size=8)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["stale", "tree", "prioritized"]),
    st.integers(0, 1),
    disturbances,
    disturbances,
    disturbances,
    st.sampled_from(["draw", "items"]),
    st.sampled_from([None, 0, 2]),
)
def test_whatever_happens_the_draws_are_those_of_a_calm_loop(
    law, looks, breaks, skips, spoils, form, lag
):
    "Except that an epoch from which nothing was reported is handed out again."
    loop = Loop(looks, breaks - skips, skips, spoils, form)
    calm = run(sampler_of(law, lag=lag), TOTAL, loop.calm())
    assert run(sampler_of(law, lag=lag), TOTAL, loop) == calm


@pytest.mark.parametrize("law", STATIC)
def test_a_static_law_goes_on_with_the_next_draw(law):
    whole = run(sampler_of(law), TOTAL, Loop())
    assert run(sampler_of(law), TOTAL, Loop(breaks={2, 9, 10})) == whole
    looked = run(sampler_of(law), TOTAL - 2, Loop(looks=2))
    assert looked == whole[2:]


# ---- an epoch from which nothing was reported -------------------------------------------------
def test_what_nobody_reports_is_handed_out_again_once_and_then_dropped():
    sampler = sampler_of("stale")

    def three():
        return [batch.draw.step for batch, _ in zip(sampler, range(3))]

    assert three() == [0, 1, 2]
    assert three() == [0, 1, 2]
    with pytest.warns(RuntimeWarning, match="nothing was reported from either"):
        assert next(iter(sampler)).draw.step > 2


def test_a_whole_epoch_without_a_report_is_over():
    sampler = sampler_of("stale")
    assert [b.draw.step for b in sampler] == list(range(STEPS))
    assert [b.draw.step for b in sampler] == list(range(STEPS, 2 * STEPS))


def test_consumed_says_what_was_trained_on_without_scores():
    for law in ("stale", "p"):
        sampler = sampler_of(law)
        for batch in sampler:
            sampler.consumed(batch.draw)
            if batch.draw.step == 2:
                break
        assert sampler.state_dict()["step"] == 2
        assert next(iter(sampler)).draw.step == 3


def test_an_old_iterator_cannot_go_on_beside_a_newer_one():
    sampler = sampler_of("tree")
    old = iter(sampler)
    next(old)
    next(iter(sampler))
    with pytest.raises(InvalidArgument, match="a newer pass over this sampler has begun"):
        next(old)


def test_left_early_with_a_report_in_time_for_the_checkpoint():
    "Trained to step 5 of two epochs left early, by reports without a step: it goes on with 6."

    def fresh():
        return ImportanceBatchSampler(SumTree(np.ones(4)), 2, steps=5, generator=0, lag=4)

    sampler = fresh()
    for _ in range(2):
        for k, batch in enumerate(sampler):
            sampler.update(batch.draw.idx, np.ones(2))
            if k == 2:
                break
    resumed = fresh()
    resumed.load_state_dict(through_a_file(sampler.state_dict()))
    assert [b.draw.step for b in resumed] == [6, 7]
    assert [b.draw.step for b in resumed] == list(range(8, 13))


# ---- what a report may be ---------------------------------------------------------------------
def test_the_draw_brings_its_own_probabilities_however_late_it_is():
    "Reports 20 steps late: the moments are those of the weights that the items were drawn with."
    sampler = sampler_of("stale", steps=60)
    waiting = []
    told = []
    learn = sampler._stream.source.law.update

    def listen(idx, scores, prob):
        told.append((idx.tolist(), prob.tolist()))
        learn(idx, scores, prob)

    sampler._stream.source.law.update = listen
    for batch in sampler:
        waiting.append(batch.draw)
        if len(waiting) > 20:
            draw = waiting.pop(0)
            sampler.update(draw, 1.0 + draw.idx)
    wanted = [(d.idx.tolist(), d.prob.tolist()) for d in run_draws(60, late=20)]
    assert told == wanted[: len(told)]
    assert len(told) == 39


def run_draws(steps, late):
    "The draws of the same loop, without a listener."
    sampler = sampler_of("stale", steps=steps)
    waiting = []
    draws = []
    for batch in sampler:
        draws.append(batch.draw)
        waiting.append(batch.draw)
        if len(waiting) > late:
            draw = waiting.pop(0)
            sampler.update(draw, 1.0 + draw.idx)
    return draws


def test_a_batch_may_be_reported_in_parts():
    "Micro-batches: two halves by their items, or with the step."
    sampler = sampler_of("stale")
    for batch in sampler:
        sampler.update(batch[:2], [1.0, 2.0])
        sampler.update(batch[2:], [3.0, 4.0])
        assert sampler.state_dict()["step"] == batch.draw.step
    known = sampler._stream.source.law.scores
    assert np.isin(known[~np.isnan(known)], [1.0, 2.0, 3.0, 4.0]).all()


def test_reports_may_come_in_any_order_within_their_lag():
    def stream(order):
        sampler = sampler_of("tree", steps=30, lag=5)
        waiting = []
        out = []
        for batch in sampler:
            out.append(tuple(batch))
            waiting.append(batch.draw)
            if len(waiting) == 3:
                for k in order:
                    sampler.update(waiting[k], 1.0 + waiting[k].idx + waiting[k].step)
                waiting = []
        return out

    assert stream((2, 0, 1)) == stream((0, 1, 2))


def test_the_draw_of_another_sampler_is_refused():
    sampler = sampler_of("tree")
    next(iter(sampler))
    other = next(iter(sampler_of("tree", seed=5))).draw
    with pytest.raises(InvalidArgument, match="not the draw of step 0 of this sampler"):
        sampler.update(other, np.ones(BATCH))
    with pytest.raises(InvalidArgument, match="step 7 was not drawn"):
        sampler.update(other._replace(step=7), np.ones(BATCH))


def test_a_mean_loss_is_named_before_a_step_is_taken_where_the_estimate_is_asked_for():
    draw = next(iter(sampler_of("tree"))).draw
    with pytest.raises(InvalidShape, match='reduction="none"'):
        draw.estimate(torch.tensor(0.7))
    sampler = sampler_of("tree")
    batch = next(iter(sampler))
    with pytest.raises(InvalidShape, match='reduction="none"'):
        sampler.update(batch.draw, torch.tensor(0.7))


@pytest.mark.parametrize("law", [lambda: Loss().init(N), lambda: SumTree(np.ones(N))])
def test_losses_that_are_not_finite_are_counted_and_said_once(law):
    sampler = ImportanceBatchSampler(law(), BATCH, steps=STEPS, generator=0)
    with pytest.warns(RuntimeWarning, match="are not finite") as said:
        for batch in sampler:
            sampler.update(batch.draw, [1.0, np.inf, 2.0, np.nan])
    assert len(said) == 1
    assert sampler.ignored == STEPS
    assert sampler.state_dict()["ignored"] == STEPS
    assert not sampler._stream.account.reports


# ---- seeds ------------------------------------------------------------------------------------
def test_a_seed_may_be_an_int_a_generator_or_torchs_own():
    def first(generator):
        s = ImportanceBatchSampler(SumTree(np.ones(N)), 4, steps=2, generator=generator)
        return s.seed, list(next(iter(s)))

    assert first(3) == first(np.random.default_rng(3))
    torch.manual_seed(0)
    none = first(None)
    assert first(None) != none
    torch.manual_seed(0)
    assert first(None) == none
    with pytest.raises(InvalidArgument, match="another seed"):
        ImportanceBatchSampler(
            SumTree(np.ones(N)), 4, steps=2, generator=None, rank=0, world_size=2
        )


def test_the_seed_taken_from_torch_is_in_the_state():
    def unseeded():
        return ImportanceBatchSampler(Stale("loss").init(N), 4, steps=9, generator=None)

    a = unseeded()
    batches = iter(a)
    for _ in range(3):
        next(batches)
    b = unseeded()
    b.load_state_dict(through_a_file(a.state_dict(step=2)))
    assert [list(x) for x in b] == [list(x) for x in batches]
