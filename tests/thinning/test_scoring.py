"""Scores of rows: the owner of each entry is found, whatever the model returned."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from impsamp.errors import InvalidArgument, InvalidShape, UnknownName, UnsupportedModel
from impsamp.thinning import scoring
from impsamp.thinning.scoring import read_by, row_scores, score_function


def one_by_one(losses, output):
    "The oracle: one backward pass per loss, cotangents one-hot."
    norms = []
    for loss in losses:
        (g,) = torch.autograd.grad(loss, output, retain_graph=True)
        norms.append(g.double().norm())
    return torch.stack(norms)


def leaf(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).requires_grad_()


def merged(o):
    return o.reshape(3, 4, 2).exp().sum((1, 2))


def merged_time_first(o):
    return o.reshape(4, 3, 2).exp().sum((0, 2))


ORDER = torch.tensor([2, 0, 1])

# name -> (shape of the output for 3 samples, losses (3,) of it)
LAYOUTS = {
    "(n, V)": ((3, 5), lambda o: o.exp().sum(1)),
    "(n,)": ((3,), lambda o: o**2),
    "(T, n, V)": ((4, 3, 2), lambda o: o.exp().sum((0, 2))),
    "(T, n), T = n": ((3, 3), lambda o: (o.exp() * torch.tensor([[1.0], [5], [9]])).sum(0)),
    "(n T, V)": ((12, 2), merged),
    "(T n, V)": ((12, 2), merged_time_first),
    "reordered": ((3, 5), lambda o: o.exp().sum(1)[ORDER]),
    "ragged": ((6, 2), lambda o: torch.stack([s.exp().sum() for s in o.split([1, 3, 2])])),
    "a free row": ((4, 2), lambda o: o[:3].exp().sum(1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale", [1.0, 2.0**16, 2.0**-16, 1e12])
def test_scores_are_the_norms_of_one_backward_pass_per_loss(layout, scale):
    shape, loss = LAYOUTS[layout]
    output = leaf(*shape)
    losses = scale * loss(output)
    assert torch.allclose(row_scores(losses, output), one_by_one(losses, output), rtol=1e-6)
    losses.sum().backward()  # the graph is still usable


def test_three_hundred_samples_take_two_digits():
    output = leaf(2, 300)
    losses = (output.exp() * torch.tensor([[1.0], [3.0]])).sum(0)
    want = torch.linalg.vector_norm(output.exp() * torch.tensor([[1.0], [3.0]]), dim=0)
    assert torch.allclose(row_scores(losses, output).float(), want)


def test_what_belongs_to_several_samples_is_refused_in_a_sentence():
    output = leaf(4, 2)
    losses = (output - output.mean(0)).square().sum(1)
    with pytest.raises(UnsupportedModel, match=r"several samples.*scores of your own"):
        row_scores(losses, output)


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


STRUCTURES = {
    "tensor": lambda logits, hidden, aux: logits,
    "tuple": lambda logits, hidden, aux: (logits, hidden),
    "dict": lambda logits, hidden, aux: {"hidden": hidden, "logits": logits, "none": None},
    "nested": lambda logits, hidden, aux: [{"states": (hidden,)}, (logits, 3)],
    "object": lambda logits, hidden, aux: Output(logits, hidden),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_hidden_states_behind_the_logits_are_not_asked(structure):
    hidden = leaf(3, 4) * 1
    seen = []
    hidden.register_hook(seen.append)
    logits = hidden @ leaf(4, 2, seed=1)
    losses = logits.exp().sum(1)
    output = STRUCTURES[structure](logits, hidden, None)
    assert torch.allclose(row_scores(losses, output).float(), logits.exp().norm(dim=1))
    assert not seen  # no step back went beyond the logits


def test_several_tensors_count_together():
    a, b = leaf(3, 2), leaf(3, 2, seed=1)
    losses = a.square().sum(1) / 2 + 2 * b.square().sum(1)
    want = (a.square() + 16 * b.square()).sum(1).sqrt()
    assert torch.allclose(row_scores(losses, {"a": a, "b": b}).float(), want)


def test_half_precision_under_a_scaled_loss_does_not_overflow():
    "65536 times a gradient of 1/2 is in the range of float16 after a mean, not before it."
    output = leaf(8, 3).half().detach().requires_grad_()
    target = torch.arange(8) % 3
    plain = torch.nn.functional.cross_entropy(output.float(), target, reduction="none")
    want = row_scores(plain, output)
    assert torch.allclose(row_scores(2.0**16 * plain, output), 2**16 * want, rtol=1e-2)
    losses = (2.0**16 * plain).half()  # which are infinite as numbers
    assert losses.isinf().any()
    assert torch.allclose(row_scores(losses, output), 2**16 * want, rtol=1e-2)


@pytest.mark.parametrize("output", [torch.ones(3, 2), (None, 3), {}, torch.ones(3, 2) * 2])
def test_an_output_without_a_graph_to_the_losses_is_refused(output):
    losses = leaf(3) * 1
    with pytest.raises(InvalidArgument, match="do not depend"):
        row_scores(losses, output)
    with pytest.raises(InvalidArgument, match="do not depend"):
        read_by(losses, leaf(3))


@pytest.mark.parametrize("losses", [torch.tensor(1.0), torch.ones(3, 1), 3.0, None])
def test_losses_that_are_not_one_per_row(losses):
    with pytest.raises(InvalidShape, match="reduction='none'"):
        row_scores(losses, leaf(3))


def test_names_and_functions():
    own = score_function(lambda losses, output: np.ones(3))
    assert own(None, None).tolist() == [1, 1, 1]
    assert score_function("loss")(leaf(3), None).requires_grad is False
    with pytest.raises(UnknownName, match="did you mean 'output'"):
        score_function("outputs")


@pytest.mark.parametrize("dim", [1, -1])
def test_cross_entropy_needs_no_proof_and_gets_the_same_numbers(dim, monkeypatch):
    logits, target = leaf(5, 3), torch.tensor([0, 1, 2, 0, -100])
    losses = 3 * torch.nn.functional.nll_loss(logits.log_softmax(dim), target, reduction="none")
    want = scoring.norms_by_owner(losses, logits, retain_graph=True)
    monkeypatch.setattr(scoring, "norms_by_owner", None)
    assert torch.allclose(row_scores(losses, logits), want)
    assert row_scores(losses, logits)[-1] == 0  # ignored by its index


NOT_BY_ROWS = {
    "flipped": lambda o, y: cross_entropy(o, y).flip(0),
    "over the batch": lambda o, y: torch.nn.functional.nll_loss(
        o.log_softmax(0), y, reduction="none"
    ),
    "of the transposed": lambda o, y: cross_entropy(o.t(), y),
    "of another order": lambda o, y: cross_entropy(o[[2, 0, 1]], y),
    "two terms": lambda o, y: cross_entropy(o, y) + cross_entropy(o.flip(0), y),
}


def cross_entropy(o, y):
    return torch.nn.functional.cross_entropy(o, y, reduction="none")


@pytest.mark.parametrize("name", NOT_BY_ROWS)
def test_everything_else_is_proved(name, monkeypatch):
    asked = []

    def watched(losses, at, **kw):
        asked.append(at)
        return scoring_norms(losses, at, **kw)

    scoring_norms = scoring.norms_by_owner
    monkeypatch.setattr(scoring, "norms_by_owner", watched)
    output = leaf(3, 3)
    losses = NOT_BY_ROWS[name](output, torch.tensor([0, 0, 2]))
    if name in ("over the batch", "two terms"):
        with pytest.raises(UnsupportedModel, match="several samples"):
            row_scores(losses, output)
    else:
        assert torch.allclose(row_scores(losses, output), one_by_one(losses, output))
    assert asked
