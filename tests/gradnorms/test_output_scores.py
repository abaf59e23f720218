"""The free score of a training pass: any loss of one number per item, and words for the rest."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from impsamp.errors import InvalidShape, UnsupportedModel
from impsamp.gradnorms import output_scores

B = 5
WEIGHT = torch.tensor([0.1, 2.0, 5.0])
MASK = torch.tensor([[1.0, 1.0, 0.0, 1.0]] * B)


def model_and_batch(shape=(B, 6)):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    return model, torch.randn(shape), torch.randint(0, 3, shape[:-1])


def tokens(o, y):
    return F.cross_entropy(o.transpose(1, 2), y, reduction="none")


LOSSES = {
    "cross entropy": lambda o, y: F.cross_entropy(o, y, reduction="none"),
    "class weights": lambda o, y: F.cross_entropy(o, y, weight=WEIGHT, reduction="none"),
    "label smoothing": lambda o, y: F.cross_entropy(o, y, label_smoothing=0.2, reduction="none"),
    "squares": lambda o, y: F.mse_loss(o, o.detach() - 1 - y[:, None], reduction="none").sum(1),
    "binary": lambda o, y: F.binary_cross_entropy_with_logits(
        o, F.one_hot(y, 3).float(), reduction="none"
    ).mean(1),
}
SEQUENCES = {
    "sum of tokens": lambda o, y: tokens(o, y).sum(1),
    "mean of tokens": lambda o, y: tokens(o, y).mean(1),
    "next token": lambda o, y: tokens(o[:, :-1], y[:, 1:]).sum(1),
    "masked": lambda o, y: (tokens(o, y) * MASK).sum(1) / MASK.sum(1),
    "flattened": lambda o, y: (
        F.cross_entropy(o.flatten(0, 1), y.flatten(), reduction="none").view(B, -1).sum(1)
    ),
}


def one_by_one(loss_of, output, y):
    "The slow way: a gradient per item, of that item's row alone."
    norms = []
    for i in range(len(output)):
        row = output[i : i + 1].detach().requires_grad_()
        (g,) = torch.autograd.grad(loss_of(row, y[i : i + 1]).sum(), row)
        norms.append(g.norm().double())
    return torch.stack(norms)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_every_kind(name):
    model, x, y = model_and_batch()
    output = model(x)
    losses = LOSSES[name](output, y)
    scores = output_scores(losses, output)
    if name != "squares":
        assert torch.allclose(scores, one_by_one(LOSSES[name], output, y), atol=1e-6)
    else:
        wanted = 2 * (1 + y) * 3**0.5  # each of three differences is 1 + y
        assert torch.allclose(scores, wanted.double(), atol=1e-5)
    losses.sum().backward()  # the graph is still there


@pytest.mark.parametrize("name", ["sum of tokens", "mean of tokens", "next token"])
def test_losses_of_sequences(name):
    model, x, y = model_and_batch((B, 4, 6))
    output = model(x)
    scores = output_scores(SEQUENCES[name](output, y), output)
    assert torch.allclose(scores, one_by_one(SEQUENCES[name], output, y), atol=1e-6)


@pytest.mark.parametrize("name", ["masked", "flattened"])
def test_losses_of_masked_and_flattened_sequences(name):
    model, x, y = model_and_batch((B, 4, 6))
    output = model(x)
    losses = SEQUENCES[name](output, y)
    (g,) = torch.autograd.grad(losses.sum(), output, retain_graph=True)
    wanted = g.flatten(1).norm(dim=1).double()
    assert torch.allclose(output_scores(losses, output), wanted, atol=1e-6)


def test_an_output_of_several_tensors_counts_as_one():
    model, x, y = model_and_batch()
    a = model(x)
    b = model(2 * x)
    losses = LOSSES["cross entropy"](a, y) + LOSSES["cross entropy"](b, y)
    wanted = (output_scores(losses, a).square() + output_scores(losses, b).square()).sqrt()
    for output in ((a, b), {"logits": a, "more": [b, y]}, {"logits": a, "more": b, "unused": x}):
        assert torch.allclose(output_scores(losses, output), wanted)


def test_losses_at_a_perfect_fit_have_scores_of_zero():
    model, x, _ = model_and_batch()
    output = model(x)
    assert output_scores((output - output.detach()).square().sum(1), output).tolist() == [0.0] * B


def test_an_empty_batch_has_no_scores():
    model, x, y = model_and_batch()
    output = model(x[:0])
    assert output_scores(LOSSES["cross entropy"](output, y[:0]), output).shape == (0,)


def another_pass(model, x, y):
    return LOSSES["cross entropy"](model(x), y), model(x)


def without_gradients(model, x, y):
    with torch.no_grad():
        output = model(x)
    return LOSSES["cross entropy"](output, y), output


def detached(model, x, y):
    output = model(x)
    return LOSSES["cross entropy"](output, y).detach(), output


def averaged(model, x, y):
    output = model(x)
    return F.cross_entropy(output, y), output


def of_every_class(model, x, y):
    output = model(x)
    return output.square(), output


def repeated(model, x, y):
    output = model(x)
    return F.cross_entropy(output, y).expand(B), output


def a_list(model, x, y):
    return [1.0, 2.0], model(x)


def no_tensor(model, x, y):
    return LOSSES["cross entropy"](model(x), y), "logits"


REFUSED = [
    (another_pass, UnsupportedModel, "not computed from this output"),
    (no_tensor, UnsupportedModel, "not computed from this output"),
    (without_gradients, UnsupportedModel, "no graph"),
    (detached, UnsupportedModel, "no graph"),
    (averaged, InvalidShape, "reduction='none'"),
    (of_every_class, InvalidShape, r"losses.flatten\(1\).sum\(1\)"),
    (repeated, UnsupportedModel, "several samples"),
    (a_list, InvalidShape, "got list"),
]


@pytest.mark.parametrize("case, error, words", REFUSED)
def test_what_has_no_score_is_refused_in_words(case, error, words):
    losses, output = case(*model_and_batch())
    with pytest.raises(error, match=words):
        output_scores(losses, output)


@pytest.mark.full
def test_a_model_compiled_with_its_loss_is_refused_and_alone_is_not():
    model, x, y = model_and_batch()

    def both(x, y):
        output = model(x)
        return output, LOSSES["cross entropy"](output, y)

    output, losses = torch.compile(both, backend="aot_eager")(x, y)
    with pytest.raises(UnsupportedModel, match="compile the model without its loss"):
        output_scores(losses, output)
