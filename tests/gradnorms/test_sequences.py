"""Sequences: losses and scores from tokens, bounds on exact norms, padding, refusals."""

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.errors import InvalidArgument, InvalidShape, UnknownName
from impsamp.gradnorms import (
    SequenceLoss,
    grad_norms,
    output_scores,
    sequence_scores,
    token_losses,
    token_scores,
    upper_bound_scores,
)
from impsamp.schemes import Stale
from impsamp.thinning import thin
from impsamp.training import train

PAD = -100


def batch(n=6, length=5, words=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, words, (n, length), generator=g)
    y = torch.randint(0, words, (n, length), generator=g)
    y[0, 2:] = PAD
    y[1, :] = PAD
    return x, y


def model(words=7):
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(words, 4), nn.Tanh(), nn.Linear(4, words)).double()


def test_losses_by_hand():
    z = torch.tensor([[[0.0, 0.0], [0.0, np.log(3)]]], dtype=torch.float64)
    y = torch.tensor([[0, 1]])
    both = np.log([2.0, 4 / 3])
    assert np.allclose(token_losses(z, y), [both])
    assert np.allclose(SequenceLoss()(z, y), both.sum())
    assert np.allclose(SequenceLoss(reduction="mean")(z, y), both.mean())
    assert np.allclose(token_scores(z, y), [[0.5 * 2**0.5, 0.25 * 2**0.5]])


def test_padding_counts_for_nothing():
    x, y = batch()
    z = model()(x)
    for loss in (SequenceLoss(), SequenceLoss(reduction="mean")):
        assert loss(z, y)[1] == 0
        wider = nn.functional.pad(z, (0, 0, 0, 3), value=9.0)
        assert torch.allclose(loss(wider, nn.functional.pad(y, (0, 3), value=PAD)), loss(z, y))
    assert (token_scores(z, y)[y == PAD] == 0).all()
    assert sequence_scores(torch.full((1, 2), torch.nan), torch.zeros(1, 2)).tolist() == [0.0]


def test_the_norm_bound_is_the_gradient_at_the_logits():
    x, y = batch()
    net = model()
    z = net(x)
    found = sequence_scores(token_scores(z, y), bound="norm")
    assert torch.allclose(found, output_scores(SequenceLoss()(z, y), z))
    assert torch.allclose(found, upper_bound_scores(net, SequenceLoss(), x, y))


def test_both_bounds_hold_for_exact_norms():
    """A linear layer on features of norm at most R: ||g_i|| <= R sum_t ||r_t||.

    And ||g_i|| <= ||features|| (sum_t ||r_t||^2)^1/2, the spectral norm of all tokens together."""
    x, y = batch(40, 6, seed=3)
    net = model()
    for p in net[0].parameters():
        p.requires_grad_(False)
    g = grad_norms(net, SequenceLoss(), x, y)
    h = net[:2](x).detach()
    h = torch.cat([h, torch.ones_like(h[..., :1])], -1)  # the bias
    r = token_scores(net(x), y)
    by_sum = h.norm(dim=-1).max() * sequence_scores(r)
    by_norm = torch.linalg.matrix_norm(h, 2) * sequence_scores(r, bound="norm")
    assert (g <= by_sum * (1 + 1e-9)).all() and (g <= by_norm * (1 + 1e-9)).all()
    assert g[1] == 0


def test_tokens_may_be_the_items_of_a_thinned_sum():
    "Each real token kept with its probability: E of the weighted token losses is their sum."
    x, y = batch()
    z = model()(x).detach()
    real = y != PAD
    losses = token_losses(z, y)[real]
    scores = token_scores(z, y)[real]
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3000):
        kept = thin(scores, 0.4, floor=0.1, generator=rng)
        found.append(float(kept.weight @ losses[kept.idx]))
    assert abs(np.mean(found) - losses.mean()) < 5 * np.std(found) / 3000**0.5


def test_sequences_train_by_free_scores():
    x, y = batch(20)
    net = model()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    done = train(net, SequenceLoss(), x, y, sgd, Stale("upper"), batch=4, steps=8, seed=0)
    assert done.diverged_at is None


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: SequenceLoss(reduction="none"), UnknownName),
        (lambda: token_losses(torch.zeros(2, 3), torch.zeros(2, 3)), InvalidShape),
        (lambda: token_losses(torch.zeros(2, 3, 4), torch.zeros(2, 2).long()), InvalidShape),
        (lambda: token_scores(torch.zeros(2, 3, 4), torch.zeros(2).long()), InvalidShape),
        (lambda: sequence_scores(torch.zeros(3)), InvalidShape),
        (lambda: sequence_scores(torch.zeros(2, 3), torch.zeros(2)), InvalidShape),
        (lambda: sequence_scores(torch.zeros(1, 2), torch.tensor([[2, 0]])), InvalidArgument),
        (lambda: sequence_scores(torch.zeros(1, 2), bound="max"), UnknownName),
    ],
)
def test_bad_input(call, error):
    with pytest.raises(error):
        call()
