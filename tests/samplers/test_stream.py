"One stream of draws: epochs, which draw a report is of, and a state that is checked as a whole."

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidArgument
from impsamp.samplers import SumTree
from impsamp.samplers.draws import Draw
from impsamp.samplers.reports import Account, told_by
from impsamp.samplers.stream import DrawStream, Passes, SaidOnce, check_drawn, report_on


def drawn(account, *batches):
    "Draws of these items, each with the probability (item + 1)/10."
    for items in batches:
        idx = torch.tensor(items)
        prob = (idx + 1) / 10
        account.add(Draw(idx, prob, prob.double(), account.drawn))
    return account


def passes(account, steps=3):
    return Passes(steps, account, SaidOnce("Sampler"), range(steps))


def test_an_epoch_left_early_goes_on_with_the_first_draw_not_had():
    p = passes(drawn(Account(), [0], [1], [2]))
    assert p.begin() == range(0, 3)
    p.account.hear(0, 3)
    assert p.begin() == range(1, 4)


def test_an_epoch_without_a_report_is_handed_out_again_once():
    p = passes(drawn(Account(), [0], [1]))
    p.begin()
    assert p.begin() == range(0, 3)
    with pytest.warns(RuntimeWarning, match="nothing was reported"):
        assert p.begin() == range(2, 5)


def test_a_static_law_goes_on():
    p = passes(Account(keeps=False, drawn=2))
    p.begin()
    assert p.begin() == range(2, 5)


def test_epochs_that_lie_ahead_are_gone_to_and_others_not():
    p = passes(Account())
    p.set_epoch(2)
    assert p.begin() == range(6, 9)
    p.set_epoch(1)
    assert p.epoch == range(6, 9)


@pytest.mark.parametrize("items, step", [([3, 1], 0), ([1], 0), ([2, 4], 1)])
def test_a_report_gets_the_probabilities_of_its_own_draw(items, step):
    account = drawn(Account(), [1, 3], [2, 4])
    report = report_on(told_by(items, np.ones(len(items)), None, 9), account, None, True)
    assert report.step == step
    np.testing.assert_allclose(report.prob, (np.array(items) + 1) / 10)


def test_items_of_no_draw():
    account = drawn(Account(), [1, 3])
    told = told_by([5], [1.0], None, 9)
    assert report_on(told, account, None, calibrates=False).prob is None
    with pytest.raises(InvalidArgument, match="item 5 is not in the draw of step 0: SumTree"):
        report_on(told, account, SumTree([1.0]), calibrates=True)


def test_a_report_whose_draw_is_gone_has_no_use():
    account = drawn(Account(), [1], [2])
    account.hear(0, 9)
    account.hear(1, 9)
    assert report_on(told_by([1], [1.0], 0, 9), account, None, calibrates=True) is None
    with pytest.raises(InvalidArgument, match="step 7 was not drawn"):
        check_drawn(7, account)


def stream(seed=0):
    return DrawStream(SumTree(np.ones(5)), 2, steps=4, seed=seed, lag=1)


def test_a_state_goes_on_and_a_bad_one_changes_nothing():
    first, second = stream(), stream(seed=5)
    for step in range(3):
        first.hear(told_by(first.draw(step), [2.0, 4.0], None, 5))
    state = first.state_dict()
    for bad in ({"step": 7}, {"stop": 99}, {"lag": 0}, {"ahead": [1]}):
        with pytest.raises(InvalidArgument):
            second.load_state_dict({**state, **bad})
        assert second.seed == 5 and second.account.drawn == 0
    second.load_state_dict(state)
    for step in range(3, 6):
        assert (second.draw(step).idx == first.draw(step).idx).all()
