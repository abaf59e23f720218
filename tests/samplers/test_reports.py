"""Which draw a report belongs to: against a plain model of a loop that knows what it did."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import impsamp.samplers.reports
from impsamp.errors import ImpsampError
from impsamp.samplers.draws import Draw, DrawnBatch
from impsamp.samplers.reports import Account, Report, draw_of, report_of, told_by


def draw(step, *items):
    p = torch.full((len(items),), 1 / (step + 2), dtype=torch.float64)
    return Draw(torch.tensor(items, dtype=torch.int64), p, p, step)


def unlike(step):
    "The items of `step`, unlike those of any other."
    return [2 * step, 2 * step + 1]


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 5),
    st.lists(st.sampled_from(["report", "skip"]), min_size=1, max_size=30),
)
def test_every_report_finds_its_draw_and_the_next_draw_to_be_had_is_known(depth, loop):
    "A loader that runs `depth` batches ahead; the loop reports or skips."
    account = Account()
    reported = []
    for step, does in enumerate(loop):
        while account.drawn <= step + depth:
            account.add(draw(account.drawn, *unlike(account.drawn)))
        if does == "report":
            assert account.find(unlike(step)) == step
            account.hear(step, stop=10**6)
            reported.append(step)
    assert account.over == max(reported, default=-1)
    if reported:
        assert account.had == len(loop) - 1
        ahead = [d.step for d in account.after(account.had)]
        assert ahead == list(range(len(loop), account.drawn))


def test_a_batch_that_is_reported_in_parts():
    account = Account()
    account.add(draw(0, 1, 2, 3, 4))
    account.add(draw(1, 5, 6, 7, 8))
    for part in ([1, 2], [3, 4]):
        assert account.find(part) == 0
        account.hear(0, stop=9)
    assert account.find([5, 6]) == 1


def test_of_equal_draws_the_oldest_is_reported_first():
    account = Account()
    for step in range(3):
        account.add(draw(step, 7, 7))
    for step in range(3):
        assert account.find([7, 7]) == step
        account.hear(step, stop=9)


def test_a_skipped_draw_is_found_when_its_report_comes_after_all():
    account = Account()
    for step in range(3):
        account.add(draw(step, *unlike(step)))
    account.hear(2, stop=9)
    assert account.find(unlike(0)) == 0
    account.hear(0, stop=9)
    assert account.seen == 2
    assert sorted(account.waiting) == [1, 2]


def test_items_that_no_draw_holds_count_for_the_oldest_not_reported():
    account = Account()
    account.add(draw(0, 1))
    account.add(draw(1, 2))
    account.hear(0, stop=9)
    assert account.find([99]) == 1
    account.hear(1, stop=9)
    assert account.find([99]) == 1
    assert account.prob_of(1, [99]) is None
    assert account.prob_of(1, [2]).tolist() == [1 / 3]


def test_draws_that_nobody_reports_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(impsamp.samplers.reports, "KEPT", 5)
    account = Account(lag=2)
    for step in range(100):
        account.add(draw(step, step))
    assert sorted(account.waiting) == list(range(93, 100))


@pytest.mark.parametrize("lag, due", [(0, [[0], [1], [2]]), (1, [[], [0], [1]])])
def test_reports_act_after_their_lag_in_the_order_of_their_steps(lag, due):
    account = Account(lag=lag)
    for step in (2, 0, 1):
        account.reports.append(Report(step, np.array([0]), np.array([1.0]), None))
    for k, wanted in zip((1, 2, 3), due):
        assert [r.step for r in account.due(k)] == wanted


def test_late_is_what_a_draw_has_overtaken():
    account = Account(lag=1)
    for step in range(4):
        account.add(draw(step, step))
    assert [account.is_late(step) for step in range(4)] == [True, True, False, False]
    assert not Account().is_late(0)


@pytest.mark.parametrize("saved", [3, (1, 2), (0, [0], [1.0], None, 5), "word"])
@pytest.mark.parametrize("read", [draw_of, report_of])
def test_what_is_no_draw_or_report_is_refused(read, saved):
    with pytest.raises(ImpsampError):
        read(saved, 3)


def test_what_was_saved_comes_back():
    report = Report(3, np.array([1, 0]), np.array([2.0, 5.0]), np.array([0.5, 0.25]))
    back = report_of(report.as_tensors(), 2)
    assert back.step == 3
    assert all((a == b).all() for a, b in zip(report[1:], back[1:]))
    empty = Report(0, np.empty(0, np.int64), np.empty(0), None)
    assert report_of(empty.as_tensors(), 2).idx.size == 0


@pytest.mark.parametrize("wrap", [lambda draw: draw, DrawnBatch])
def test_a_draw_in_place_of_the_scores_is_named(wrap):
    half = torch.tensor([0.5])
    draw = wrap(Draw(torch.tensor([1]), half, half, 0))
    with pytest.raises(ImpsampError, match=r"swapped\? update\(draw, losses\)"):
        told_by(torch.ones(1), draw, None, 3)
