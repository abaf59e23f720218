"""What a closure may not do is found where it is cheap to find; gradients may be missing."""

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.errors import InvalidArgument, UnsupportedModel
from impsamp.optimizers.closures import all_finite, check_linear, no_batch_statistics, plus

ONE = torch.ones(2)
IDX = torch.tensor([1, 2])


def test_a_missing_gradient_counts_nothing():
    assert plus(None, None) is None
    assert torch.equal(plus(ONE, None), ONE)
    assert torch.equal(plus(None, ONE, -1), -ONE)
    assert torch.equal(plus(ONE, ONE, -1), torch.zeros(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, complex(0, np.nan)])
def test_one_bad_number_is_found(bad):
    assert all_finite([None, ONE])
    assert not all_finite([ONE, None, torch.tensor([1, bad])])


def test_one_nan_by_chance_is_no_proof_two_are():
    values = iter([torch.tensor(np.nan), torch.tensor(0.0)])
    check_linear(lambda idx, weight: next(values), IDX)
    with pytest.raises(InvalidArgument, match="gives nan"):
        check_linear(lambda idx, weight: torch.tensor(np.nan), IDX)


def test_the_check_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    check_linear(lambda idx, weight: (weight * torch.rand(1)).sum(), IDX)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "layer, refused",
    [
        (nn.BatchNorm1d(2), True),
        (nn.BatchNorm1d(2).eval(), False),
        (nn.BatchNorm1d(2, track_running_stats=False).eval(), True),
        (nn.LayerNorm(2), False),
        (nn.InstanceNorm1d(2), False),
    ],
)
def test_statistics_of_the_batch_are_found_wherever_they_are(layer, refused):
    net = nn.Sequential(nn.Sequential(layer))
    x = torch.randn(3, 2, 2)
    with no_batch_statistics():
        if refused:
            with pytest.raises(UnsupportedModel, match="eval"):
                net(x)
        else:
            net(x)
    nn.BatchNorm1d(2)(x)  # afterwards nobody looks
