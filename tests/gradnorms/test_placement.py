"""Whose rows are whose in every call: against one-hot cotangents; squares summed by owner."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import impsamp.gradnorms.placement as placements
from impsamp.errors import UnsupportedModel
from impsamp.gradnorms.contractions import LinearRule
from impsamp.gradnorms.placement import (
    Layout,
    Rows,
    ghost_squares,
    is_telling,
    named_rows,
    output_gradients,
    parameter_squares,
    prove,
    reuse,
)
from impsamp.gradnorms.rules import Use
from tests.gradnorms.cases import CASES, case
from tests.gradnorms.helpers import caught, close, squared

# putting the samples first


def test_layouts_put_the_samples_first():
    rows = torch.arange(6)  # 3 samples of two positions
    assert Layout(0).apply(rows, 3).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert Layout(0, major=False).apply(rows, 3).tolist() == [[0, 3], [1, 4], [2, 5]]
    columns = torch.arange(6).reshape(2, 3)
    assert Layout(1).apply(columns, 3).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_named_rows_are_collected_and_filled_up_with_zeros():
    rows = named_rows(torch.tensor([2, 0, 2, -1, 2, 0]), 1, 4)
    assert rows.counts.tolist() == [2, 0, 3, 0]
    t = torch.arange(1.0, 7)[:, None]
    found = rows.take(t, rows.places(None), fill=True)[..., 0]
    assert found.tolist() == [[2, 6, 0], [0, 0, 0], [1, 3, 5], [0, 0, 0]]
    some = rows.places(torch.tensor([0, 1]))
    assert rows.take(t, some, fill=True)[..., 0].tolist() == [[2, 6], [0, 0]]
    assert rows.places(torch.tensor([2])).missing is None


def test_samples_of_one_row_at_most_get_no_axis_of_rows():
    rows = named_rows(torch.tensor([[1, -1], [2, 0]]).flatten(), 2, 3)
    t = torch.arange(8.0).reshape(2, 2, 2)
    assert rows.take(t, rows.places(None)).tolist() == [[6, 7], [0, 1], [4, 5]]


# the proof


def linear_proof(forward, x):
    "The proof for one linear layer, its losses and its calls."
    layer = nn.Linear(x.shape[-1], 2)
    params = dict(layer.named_parameters())
    losses, calls = caught(lambda: forward(layer, x), params)
    return prove(losses, calls), losses, calls


def test_the_axis_of_the_samples_is_found():
    x = torch.randn(3, 3, 4)
    proof, _, _ = linear_proof(lambda f, x: f(x).square().sum((1, 2)), x)
    assert proof.placements == [Layout(0)]
    proof, _, _ = linear_proof(lambda f, x: f(x).square().sum((0, 2)), x)
    assert proof.placements == [Layout(1)]


def test_the_order_of_positions_is_found():
    x = torch.randn(6, 4)
    proof, _, _ = linear_proof(lambda f, x: f(x).unflatten(0, (3, 2)).sum((1, 2)), x)
    assert proof.placements == [Layout(0)]
    proof, _, _ = linear_proof(lambda f, x: f(x).unflatten(0, (2, 3)).sum((0, 2)), x)
    assert proof.placements == [Layout(0, major=False)]


def test_rows_in_another_order_are_named():
    x = torch.randn(4, 3)
    order = torch.tensor([2, 0, 3, 1])
    proof, _, _ = linear_proof(lambda f, x: f(x)[order].square().sum(1), x)
    (rows,) = proof.placements
    assert isinstance(rows, Rows)
    assert rows.owner.tolist() == [1, 3, 0, 2]


def test_mixed_rows_are_not_placed():
    x = torch.randn(4, 3)
    mixing = [
        lambda f, x: (f(x) - f(x).mean(0)).square().sum(1),
        lambda f, x: f(x).softmax(0).square().sum(1),
        lambda f, x: f(x).cumsum(0).square().sum(1),
        lambda f, x: f(x).mean(0).expand(4, 2).square().sum(1),
        lambda f, x: f(x.mean(0, keepdim=True)).expand(4, 2).square().sum(1),
    ]
    for forward in mixing:
        proof, _, _ = linear_proof(forward, x)
        assert None in proof.placements


def test_a_call_that_no_loss_looks_at_is_left_out():
    x = torch.randn(4, 3)
    proof, _, _ = linear_proof(lambda f, x: f(x).sum(1).detach() - f.bias[0], x)
    assert proof.gradients == (None,)
    assert not is_telling(proof, 4)


def test_a_rule_that_needs_its_rows_together_is_not_given_named_ones():
    x = torch.randn(4, 3)
    layer = nn.Linear(3, 2)
    losses, (call,) = caught(lambda: layer(x)[[1, 0, 2, 3]].sum(1), dict(layer.named_parameters()))

    class Together(LinearRule):
        separable = False

    call.rule = Together()
    assert prove(losses, [call]).placements == [None]


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_the_outputs_go_where_one_hot_cotangents_say(name):
    "Of every layer: sample i's slice is the gradient of loss i alone, and nothing else is."
    model, x, y = case(name)
    params = {k: p for k, p in model.named_parameters() if p.requires_grad}
    losses, calls = caught(lambda: squared(model(x), y), params)
    proof = prove(losses, calls)
    n = len(losses)
    for i in range(n):
        weights = torch.eye(n, dtype=losses.dtype)[i]
        alone = output_gradients(losses, calls, weights, retain_graph=True)
        for placement, ones, b in zip(proof.placements, proof.gradients, alone):
            if b is None or placement is None:
                continue
            ours = placement.apply(b, n)
            assert torch.equal(ours[i], placement.apply(ones, n)[i])
            assert not ours[[j for j in range(n) if j != i]].any()


def test_a_proof_is_telling_if_most_samples_have_a_gradient():
    x = torch.ones(4, 3)
    for silent, expected in ((0, True), (2, True), (3, False)):
        weights = torch.ones(4)
        weights[:silent] = 0
        proof, _, _ = linear_proof(lambda f, x, w=weights: (f(x) * w[:, None]).sum(1), x)
        assert is_telling(proof, 4) is expected


def test_a_proof_is_reused_with_the_gradients_of_the_next_batch():
    x = torch.randn(4, 3)
    proof, losses, calls = linear_proof(lambda f, x: f(x).square().sum(1), x)
    again = reuse(proof.placements, 2 * losses, calls)
    assert again.placements == proof.placements
    assert torch.equal(again.gradients[0], 2 * proof.gradients[0])


def test_an_input_changed_in_place_is_refused():
    x = torch.randn(4, 3)
    layer = nn.Linear(3, 2)
    losses, calls = caught(lambda: layer(x).sum(1), dict(layer.named_parameters()))
    x.add_(1)
    with pytest.raises(UnsupportedModel, match="in place"):
        prove(losses, calls)


# squares


def test_squares_by_hand():
    "l_i = w x_i + c has gradient (x_i, 1); without c it has x_i, scaled by 3 it has 3 x_i."
    layer = nn.Linear(1, 1)
    params = dict(layer.named_parameters())
    x = torch.tensor([[1.0], [2.0]])

    def squares(**kw):
        losses, calls = caught(lambda: layer(x)[:, 0], params)
        return ghost_squares(2, calls, prove(losses, calls), params, **kw).tolist()

    assert squares() == pytest.approx([2, 5])
    assert squares(skip={"bias"}) == pytest.approx([1, 4])
    scales = {"weight": torch.tensor([[3.0]]), "bias": torch.tensor([0.0])}
    assert squares(scales=scales) == pytest.approx([9, 36])
    assert squares(skip=set(params)) == [0, 0]


def test_a_weight_used_twice_has_cross_terms():
    "Gradients 2 and 3 of one sample: (2 + 3)^2."
    one = torch.ones(1, 1)
    first = Use(LinearRule(), "weight", one, 2 * one, {})
    second = Use(LinearRule(), "weight", one, 3 * one, {})
    assert parameter_squares([first, second], one).tolist() == pytest.approx([25])


def scattered(counts, seed=0):
    "Rows of samples with so many rows each, in random order, and a loss that sums them up."
    generator = torch.Generator().manual_seed(seed)
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    owner = owner[torch.randperm(len(owner), generator=generator)]
    rows = torch.randn(len(owner), 4, generator=generator, dtype=torch.float64)

    def forward(model):
        out = model(rows)
        total = torch.zeros(len(counts), out.shape[1], dtype=out.dtype)
        return total.index_add(0, owner, out).square().sum(1)

    return forward


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


SKEWED = ([1, 1, 1, 1], [3, 0, 1, 2], [1, 60, 1, 0, 2, 1, 1, 1], [0, 0, 0, 5])


@pytest.mark.parametrize("counts", SKEWED)
def test_skewed_numbers_of_rows(counts):
    "Two layers, one of them used twice, on samples of which one may have nearly all the rows."
    torch.manual_seed(0)
    first, second = nn.Linear(4, 4).double(), nn.Linear(4, 3).double()
    model = nn.Sequential(first, nn.Tanh(), first, nn.LayerNorm(4).double(), second)
    params = dict(model.named_parameters())
    losses, calls = caught(scattered(counts), params, model)
    n = len(counts)
    found = ghost_squares(n, calls, prove(losses, calls), params)
    losses, _ = caught(scattered(counts), params, model)
    leaves = list(params.values())
    for i in range(n):
        expected = flat(torch.autograd.grad(losses[i], leaves, retain_graph=True)).square().sum()
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-20)


def test_embeddings_convolutions_and_group_norms_of_named_rows():
    torch.manual_seed(0)
    table = nn.Embedding(9, 12).double()
    conv = nn.Conv1d(3, 4, 2).double()
    norm = nn.GroupNorm(2, 4).double()
    model = nn.ModuleList([table, conv, norm])
    params = dict(model.named_parameters())
    ids = torch.randint(0, 9, (7,))
    owner = torch.tensor([2, 0, 0, 1, 2, 2, 0])

    def forward():
        images = table(ids).unflatten(1, (3, 4))
        out = F.relu(norm(conv(images))).flatten(1)
        total = torch.zeros(3, out.shape[1], dtype=out.dtype)
        return total.index_add(0, owner, out).square().sum(1)

    losses, calls = caught(forward, params)
    found = ghost_squares(3, calls, prove(losses, calls), params).sqrt()
    losses = forward()
    leaves = list(params.values())
    rows = [torch.autograd.grad(loss, leaves, retain_graph=True) for loss in losses]
    expected = torch.stack([flat(row).norm() for row in rows])
    assert close(found, expected, 1e-10)


# samples without a gradient


def learnt(kept, n=8, x=None):
    "Squares of a network whose loss looks at the samples `kept` alone, with and without the rest."
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    params = dict(model.named_parameters())
    x = torch.randn(n, 1, 6, 6) if x is None else x
    keep = torch.zeros(n)
    keep[kept] = 1
    losses, calls = caught(lambda: (model(x) * keep[:, None]).square().sum(1), params)
    return calls, prove(losses, calls), params


def looked_at(monkeypatch, calls, proof, params, n=8):
    "The squares, and how many samples were contracted for each parameter."
    sizes = []

    def counted(uses, param, scale=None):
        sizes.append(len(uses[0].b))
        return parameter_squares(uses, param, scale)

    monkeypatch.setattr(placements, "parameter_squares", counted)
    return ghost_squares(n, calls, proof, params), set(sizes)


def test_samples_without_a_gradient_are_left_out(monkeypatch):
    calls, proof, params = learnt([1, 6])
    found, sizes = looked_at(monkeypatch, calls, proof, params)
    assert sizes == {2}
    assert found.nonzero().flatten().tolist() == [1, 6]
    monkeypatch.setattr(placements, "_with_gradient", lambda placed, n: [None])
    whole, sizes = looked_at(monkeypatch, calls, proof, params)
    assert sizes == {8} and torch.equal(found, whole)


def test_a_batch_without_any_gradient_is_all_zeros(monkeypatch):
    found, sizes = looked_at(monkeypatch, *learnt([]))
    assert sizes == set() and found.tolist() == [0] * 8


def test_most_samples_with_a_gradient_are_taken_with_the_rest(monkeypatch):
    found, sizes = looked_at(monkeypatch, *learnt([0, 1, 2, 3, 4]))
    assert sizes == {8} and len(found.nonzero()) == 5


def test_zero_times_infinity_is_no_zero():
    x = torch.randn(8, 1, 6, 6)
    x[3] = torch.inf
    calls, proof, params = learnt([1, 6], x=x)
    silent = [g.index_fill(0, torch.tensor([3]), 0.0) for g in proof.gradients]
    assert ghost_squares(8, calls, proof._replace(gradients=silent), params)[3].isnan()
