"""Who owns each row of a gradient: against one-hot cotangents, for every number of samples."""

import warnings

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from impsamp.errors import UnsupportedModel
from impsamp.gradnorms import grad_norms
from impsamp.gradnorms.ownership import (
    FREE,
    MIXED,
    carries,
    code_weights,
    narrowest,
    norms_by_owner,
    owners,
    sample_codes,
    squares_by_owner,
)

COUNTS = (1, 2, 3, 11, 12, 64, 96, 121, 122, 300, 1001, 5000)


def back(losses, at, weights):
    "The gradient at `at` under each weighting, as rows."
    keep = dict(retain_graph=True)
    return [torch.autograd.grad(losses, at, w, **keep)[0].flatten(1) for w in weights]


def one_hot(losses, at):
    "(n, *at.shape): each loss's own gradient, the slow oracle."
    rows = torch.eye(len(losses), dtype=losses.dtype)
    return torch.stack([torch.autograd.grad(losses, at, r, retain_graph=True)[0] for r in rows])


def named(losses, at):
    codes = sample_codes(len(losses), losses.dtype)
    weights = [torch.ones_like(losses), *code_weights(codes, losses)]
    ones, *coded = back(losses, at, weights)
    return owners(ones, coded, codes)


def owners_by_one_hot(losses, at):
    touched = one_hot(losses, at).flatten(2).ne(0).any(2)
    count = touched.sum(0)
    first = touched.int().argmax(0)
    return torch.where(count == 0, FREE, torch.where(count == 1, first, MIXED))


# codes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", COUNTS)
def test_every_sample_has_codes_of_its_own_within_the_range(n, dtype):
    codes = sample_codes(n, dtype)
    half = len(codes) // 2
    assert len(set(map(tuple, codes[:half].T.tolist()))) == n
    assert torch.equal(codes[:half], -codes[half:])
    weights = code_weights(codes, torch.ones((), dtype=dtype))
    assert weights.isfinite().all()
    assert (weights.log2() == codes).all()
    tiny = torch.finfo(dtype).tiny
    assert weights.min() >= tiny * 2**8


def test_up_to_121_samples_have_exponents_of_their_own():
    for n in (1, 2, 64, 121):
        assert len(sample_codes(n)) == 2
        assert len(set(sample_codes(n)[0].tolist())) == n
    assert len(sample_codes(122)) == 4


@pytest.mark.parametrize("n", COUNTS)
def test_neither_a_shift_nor_a_reversal_goes_unseen(n):
    codes = sample_codes(n)[0]
    x = torch.ones(n, 1)
    coded = code_weights(codes, x)[:, None]
    assert carries(x, coded, codes)
    if n == 1:
        return
    for moved in (coded.roll(1, 0), coded.flip(0), coded.roll(n // 2, 0)):
        assert not carries(x, moved, codes)


def test_the_narrowest_range_decides():
    assert narrowest(torch.float64, torch.float32, torch.int64) == torch.float32
    assert narrowest(torch.float32, torch.float16) == torch.float16


# mixtures of equal parts, whose ratio rounds to a power of two where codes lie far apart


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data(), n=st.integers(2, 400))
def test_a_mean_over_any_group_is_mixed(data, n):
    group = data.draw(st.sets(st.integers(0, n - 1), min_size=2, max_size=min(n, 200)))
    codes = sample_codes(n)
    part = torch.zeros(n)
    part[list(group)] = 1 / len(group)
    ones = part.sum().reshape(1, 1)
    coded = [(w * part).sum().reshape(1, 1) for w in code_weights(codes, ones)]
    assert owners(ones, coded, codes).tolist() == [MIXED]


# rows of layers


def ragged(x, layer):
    mask = x > 0
    sample = mask.nonzero()[:, 0]
    rows = layer(x[mask][:, None])
    return torch.zeros(len(x), rows.shape[1]).index_add(0, sample, rows.tanh()), rows


def reordered(x, layer):
    order = x[:, 0].argsort()
    rows = layer(x[order])
    return rows[order.argsort()].tanh(), rows


def time_first(x, layer):
    rows = layer(x.t()[..., None].contiguous())
    return rows.tanh().sum(0), rows.flatten(0, 1)


def centred(x, layer):
    rows = layer(x)
    return rows - rows.mean(0), rows


def rolled(x, layer):
    rows = layer(x)
    return rows.roll(1, 0), rows


MODELS = {
    "ragged": (ragged, 1),
    "reordered": (reordered, 4),
    "time first": (time_first, 1),
    "centred": (centred, 4),
    "rolled": (rolled, 4),
}


@pytest.mark.parametrize("n", [1, 2, 7, 40, 130])
@pytest.mark.parametrize("name", MODELS)
def test_the_named_owners_are_those_of_one_hot_cotangents(name, n):
    torch.manual_seed(n)
    model, width = MODELS[name]
    x = torch.randn(n, 4)
    out, rows = model(x, nn.Linear(width, 3))
    if name == "time first":
        rows = out  # the flattened rows are no part of the graph to the losses
    losses = (out * torch.randn(n, 3)).sum(1)
    assert torch.equal(named(losses, rows), owners_by_one_hot(losses, rows))


def test_samples_whose_gradients_leave_the_range_are_still_named():
    "Rows of 1e-25: under the smallest codes they vanish, under the mirrored ones they show."
    n = 121
    x = torch.randn(n, 3)
    x[::5] *= 1e-25
    x.requires_grad_()
    order = torch.randperm(n)
    losses = x[order].square().sum(1) / 2
    assert torch.equal(named(losses, x), order.argsort())


def test_a_stranger_below_rounding_is_no_stranger():
    codes = sample_codes(2)
    ones = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    weights = code_weights(codes, ones)
    coded = [ones * w[:, None] for w in weights]
    coded[0][0, 0] *= 1 + 2**-20
    assert owners(ones, coded, codes).tolist() == [0, 1]
    assert carries(ones, coded[0], codes[0])
    coded[0][0, 0] *= 1 + 2**-15
    assert owners(ones, coded, codes).tolist() == [MIXED, 1]
    assert not carries(ones, coded[0], codes[0])


def test_a_sample_that_is_not_finite_keeps_its_row():
    codes = sample_codes(3)
    ones = torch.tensor([[1.0, 2.0], [float("nan"), 4.0], [float("inf"), 1.0]])
    coded = ones * code_weights(codes[0], ones)[:, None]
    assert carries(ones, coded, codes[0])
    overflown = torch.tensor([[1e30, 2.0], [1.0, 4.0], [1.0, 1.0]])
    assert not carries(overflown, torch.full((3, 2), float("inf")), codes[0])


# norms of an output's gradient


def oracle_norms(losses, at):
    return one_hot(losses, at).flatten(1).double().norm(dim=1)


@pytest.mark.parametrize("n", [1, 2, 7, 130])
def test_norms_of_outputs_of_any_shape(n):
    torch.manual_seed(0)
    first = torch.randn(n, 5, requires_grad=True)
    second = torch.randn(2, n, 5, requires_grad=True)
    merged = torch.randn(2 * n, 5, requires_grad=True)
    order = torch.randperm(n)
    cases = [
        (first.square().sum(1), first),
        (first[order].square().sum(1), first),
        (second.square().sum((0, 2)), second),
        (merged.unflatten(0, (2, n)).square().sum((0, 2)), merged),
        (merged.unflatten(0, (n, 2)).square().sum((1, 2)), merged),
    ]
    for losses, at in cases:
        found = norms_by_owner(losses, at, retain_graph=True)
        assert torch.allclose(found, oracle_norms(losses, at))


def test_a_place_in_the_graph_will_do():
    x = torch.randn(3, 4, requires_grad=True)
    out = x.tanh()
    losses = out.flip(0).square().sum(1)
    edge = torch.autograd.graph.get_gradient_edge(out)
    found = norms_by_owner(losses, edge)
    assert torch.allclose(found, 2 * out.flip(0).detach().double().norm(dim=1))


def test_a_square_output_is_not_read_the_wrong_way_round():
    out = torch.ones(2, 2, requires_grad=True)
    losses = (out * torch.tensor([[1.0], [10.0]])).sum(0)
    assert norms_by_owner(losses, out).tolist() == pytest.approx([101**0.5] * 2)


def test_an_output_of_several_samples_is_refused():
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(UnsupportedModel, match="several samples"):
        norms_by_owner((x - x.mean(0)).square().sum(1), x)


def test_an_output_that_no_loss_looks_at_has_norm_zero():
    x = torch.randn(4, 3, requires_grad=True)
    unused = torch.randn(4, 3, requires_grad=True)
    assert norms_by_owner(x.sum(1), unused).tolist() == [0, 0, 0, 0]


def test_squares_by_owner_by_hand():
    ones = torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    owner = torch.tensor([1, 0, 1, FREE])
    assert squares_by_owner(ones, owner, 3).tolist() == pytest.approx([9, 7, 0])


def test_half_precision():
    torch.manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.randn(20, 8, dtype=dtype, requires_grad=True)
        order = torch.randperm(20)
        losses = F.gelu(x[order]).sum(1)
        found = norms_by_owner(losses, x, retain_graph=True)
        assert torch.allclose(found, oracle_norms(losses, x), rtol=1e-2)


def test_saturated_losses_do_not_send_a_batch_to_the_loop():
    """Gradients from 1 down to what float32 cannot hold, in one batch: layers with samples first.

    Rows that have lost their digits under ones, or under a code, say nothing about their owner."""
    margins = torch.linspace(-2.0, 110.0, 100)[:, None]
    model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
        model[1].weight.copy_(torch.tensor([[0.125] * 4, [-0.125] * 4]))
        model[1].bias.zero_()
    targets = torch.zeros(100, dtype=torch.long)
    loss_fn = torch.nn.CrossEntropyLoss(reduction="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [grad_norms(model, loss_fn, margins, targets) for _ in range(34)]
    wanted = grad_norms(model, loss_fn, margins, targets, method="loop")
    assert (wanted == 0).any() and (wanted > 0.1).any()
    for norms in found:
        assert torch.allclose(norms, wanted, rtol=1e-4, atol=1e-36)


def test_rows_that_are_all_too_faint_are_not_taken_for_a_proof():
    "A batch mean at a scale that float32 still holds is found out beside faint rows."
    ones = torch.ones(6, 2)
    ones[3:] = 0
    codes = sample_codes(6)
    coded = ones * 2.0 ** codes[0][:, None]
    coded[0] = coded[1]
    assert not carries(ones, coded, codes[0])
