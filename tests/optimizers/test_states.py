"""A saved state is held against the optimizer that is to take it."""

import copy

import pytest
import torch
from torch import nn

from impsamp.errors import InvalidArgument
from impsamp.optimizers.states import check_saved


def momentum():
    "An SGD of two groups after a step, and its state."
    params = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))]
    opt = torch.optim.SGD([dict(params=[p]) for p in params], lr=0.1, momentum=0.9)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    return opt, copy.deepcopy(opt.state_dict())


def shapes(p):
    return {"momentum_buffer": p.shape}


def test_a_state_of_its_own_passes_and_extra_options_do_no_harm():
    opt, saved = momentum()
    saved["param_groups"][0]["initial_lr"] = 0.1
    saved["state"][0]["flag"] = True
    check_saved(opt, saved, shapes)


def test_a_group_without_parameters_is_counted():
    opt, saved = momentum()
    del saved["param_groups"][1]["params"]
    with pytest.raises(InvalidArgument, match=r"groups of \[1, 0\] parameters, not \[1, 1\]"):
        check_saved(opt, saved, shapes)


@pytest.mark.parametrize("state", [None, [], "x", {}, {"state": {}}])
def test_what_is_no_state(state):
    opt, _ = momentum()
    with pytest.raises(InvalidArgument, match="not a state of this SGD"):
        check_saved(opt, state, shapes)


@pytest.mark.parametrize(
    "value, words",
    [
        (torch.ones(3), r"shape \(3,\), not \(2,\)"),
        (torch.full((2,), float("inf")), "not finite"),
        (None, "keeps 'momentum_buffer'"),
    ],
)
def test_tensors_that_do_not_fit(value, words):
    opt, saved = momentum()
    saved["state"][0]["momentum_buffer"] = value
    with pytest.raises(InvalidArgument, match=words):
        check_saved(opt, saved, shapes)


def test_keys_beside_torchs_own_can_be_asked_for():
    opt, saved = momentum()
    with pytest.raises(InvalidArgument, match=r"lacks \['more'\]"):
        check_saved(opt, saved, shapes, ["more"])
