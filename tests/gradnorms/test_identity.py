"""What a plan is filed under: flags, closures, partial arguments, hooks."""

import functools

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.errors import UnsupportedModel
from impsamp.gradnorms import grad_norms
from impsamp.gradnorms.identity import identity, plan_key
from tests.gradnorms.helpers import close, mlp, squared


def key(model, loss, x, y):
    return plan_key(model, loss, x, y, dict(model.named_parameters()))


def weighted(w):
    def loss(out, y):
        return w * squared(out, y)

    return loss


def scaled(loss):
    return lambda out, y: 3 * loss(out, y)


def defaulted(out, y, w=1.0):
    return w * squared(out, y)


class Weighted:
    def __init__(self, w):
        self.w = w

    def __call__(self, out, y):
        return self.w * squared(out, y)

    def method(self, out, y):
        return self.w * squared(out, y)


PAIRS = {
    "closure": (weighted(1.0), weighted(2.0)),
    "nested closure": (scaled(weighted(1.0)), scaled(weighted(2.0))),
    "partial": (functools.partial(defaulted, w=1.0), functools.partial(defaulted, w=2.0)),
    "object": (Weighted(1.0), Weighted(2.0)),
    "method": (Weighted(1.0).method, Weighted(2.0).method),
    "module": (nn.MSELoss(reduction="none"), nn.MSELoss()),
    "number in a tensor": (weighted(torch.tensor(1.0)), weighted(torch.tensor(0.0))),
    "leaf": (weighted(nn.Parameter(torch.ones(()))), weighted(nn.Parameter(torch.ones(())))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_losses_of_one_code_are_told_apart(name):
    one, other = PAIRS[name]
    assert identity(one) != identity(other)
    assert identity(one) == identity(one)
    hash(identity(one))


def test_losses_made_anew_for_each_batch_are_the_same():
    assert identity(weighted(1.0)) == identity(weighted(1.0))
    assert identity(Weighted(1.0).method) == identity(Weighted(1.0).method)
    assert identity(nn.CrossEntropyLoss()) == identity(nn.CrossEntropyLoss())
    assert identity(F.mse_loss) == identity(F.mse_loss)


def test_what_holds_itself_ends():
    loop = []
    loop.append(loop)
    hash(identity(loop))
    hash(identity({"a": loop, "b": {1, 2}, "c": object()}))


def test_a_model_is_told_from_itself_by_flags_modes_hooks_and_dtypes():
    model, x, y = mlp()
    seen = [key(model, squared, x, y)]

    def is_new():
        found = key(model, squared, x, y)
        fresh = found not in seen
        seen.append(found)
        return fresh

    assert not is_new()
    model.eval()
    assert is_new()
    model[1].flag = True
    assert is_new()
    model[1].flag = False
    assert is_new()
    model[1].sizes = (1, 2)
    assert is_new()
    model[0].register_forward_hook(lambda *_: None)
    assert is_new()
    model[0].weight.register_hook(lambda g: g)
    assert is_new()
    assert key(model, squared, x, y) != key(model, squared, x.float(), y)
    assert key(model, squared, x, y) == key(model, squared, x[:2], y[:2])


# what that is for


class Switched(nn.Linear):
    mixes_by_default = False

    def __init__(self):
        super().__init__(6, 4)
        self.mixes = False

    def forward(self, x):
        h = super().forward(x)
        return h - h.detach().mean(0) if self.mixes else h


def test_a_switched_flag_of_the_model_is_looked_at():
    model = Switched().double()
    _, x, y = mlp()
    grad_norms(model, squared, x, y)
    model.mixes = True
    with pytest.raises(UnsupportedModel, match="samples interact"):
        grad_norms(model, squared, x, y)


def centring(mix):
    def loss(out, y):
        return squared(out - mix * out.detach().mean(0), y)

    return loss


@pytest.mark.parametrize("make", [centring, lambda m: functools.partial(centred_by, mix=m)])
def test_another_closure_or_argument_is_looked_at(make):
    model, x, y = mlp()
    grad_norms(model, make(0.0), x, y)
    with pytest.raises(UnsupportedModel, match="samples interact"):
        grad_norms(model, make(1.0), x, y)


def centred_by(out, y, mix):
    return squared(out - mix * out.detach().mean(0), y)


def test_a_penalty_switched_on_counts():
    model, x, y = mlp()

    def penalised(by):
        return lambda out, t: squared(out, t) + by * model[0].weight.square().sum()

    for by in (0.0, 1.0, 5.0):
        found = grad_norms(model, penalised(by), x, y)
        assert close(found, grad_norms(model, penalised(by), x, y, method="loop"), 1e-10)
