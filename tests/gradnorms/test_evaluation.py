"""Scores of models in training mode: every mask is off inside, and the mode is as found after."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.errors import UnsupportedModel
from impsamp.gradnorms import evaluation_statistics, grad_norms
from impsamp.gradnorms.evaluation import draws_random_numbers, takes_batch_statistics
from tests.gradnorms.helpers import ALL, backward_norms, close, squared, state


class Masked(nn.Module):
    "A linear layer and a mask that its own forward draws."

    def __init__(self, mask):
        super().__init__()
        self.l = nn.Linear(8, 8)
        self.mask = mask

    def forward(self, x):
        return self.mask(self, self.l(x)).tanh()


def attention(m, h):
    q = h.unflatten(2, (2, 4)).transpose(1, 2)
    p = 0.5 if m.training else 0.0
    return F.scaled_dot_product_attention(q, q, q, None, p).transpose(1, 2).flatten(2)


def stochastic_depth(m, h):
    "As torchvision and timm write it."
    if not m.training:
        return h
    mask = h.new_empty(len(h), 1, 1).bernoulli_(0.7)
    return h * mask.div_(0.7)


MASKS = {
    "dropout": lambda m, h: F.dropout(h, 0.5, m.training),
    "dropout by name": lambda m, h: F.dropout(input=h, training=m.training),
    "always on": lambda m, h: h if not m.training else F.dropout(h),
    "channels": lambda m, h: F.dropout1d(h, 0.5, m.training),
    "alpha": lambda m, h: F.alpha_dropout(h, 0.5, m.training),
    "torch's": lambda m, h: torch.dropout(h, 0.5, m.training),
    "attention": attention,
    "stochastic depth": stochastic_depth,
    "rrelu": lambda m, h: F.rrelu(h, training=m.training),
}


class DropPath(nn.Module):
    "As transformers writes it; known by its name."

    def forward(self, h):
        if not self.training:
            return h
        keep = 0.8 + torch.rand(len(h), 1, 1, dtype=h.dtype)
        return h.div(0.8) * keep.floor_()


class Encoder(nn.TransformerEncoderLayer):
    pass


class Coin(nn.Module):
    "Leaves a layer out now and then."

    def __init__(self):
        super().__init__()
        self.layerdrop = 0.5
        self.l = nn.Linear(8, 8)

    def forward(self, x):
        if self.training and torch.rand([]) < self.layerdrop:
            return x
        return self.l(x)


def recurrent():
    return nn.Sequential(nn.LSTM(8, 8, 2, dropout=0.5, batch_first=True), First())


class First(nn.Module):
    def forward(self, found):
        return found[0]


MODELS = {name: lambda f=f: Masked(f) for name, f in MASKS.items()} | {
    "dropout layer": lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 2)),
    "drop path": lambda: nn.Sequential(nn.Linear(8, 8), DropPath()),
    "rrelu layer": lambda: nn.Sequential(nn.Linear(8, 8), nn.RReLU()),
    "encoder": lambda: Encoder(8, 2, 16, dropout=0.3, batch_first=True),
    "coin": Coin,
    "recurrent": recurrent,
}


def batch():
    return torch.randn(5, 4, 8, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)


# torch.func has no rule for them
WITHOUT_VMAP = ("rrelu", "rrelu layer", "recurrent")


@pytest.mark.parametrize("method", ["auto", "vmap", "loop"])
@pytest.mark.parametrize("name", MODELS)
def test_scores_in_training_mode_are_those_of_the_evaluation_form(name, method):
    if method == "vmap" and name in WITHOUT_VMAP:
        pytest.skip("torch.func cannot")
    torch.manual_seed(0)
    model = MODELS[name]().double()
    x, y = batch()
    oracle = backward_norms(copy.deepcopy(model).eval(), squared, x, y)
    before = state(model)
    with evaluation_statistics(model):
        found = grad_norms(model, squared, x, y, method=method)
    assert close(found, oracle, 1e-10)
    assert state(model) == before


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_outside_all_of_them_are_refused_with_advice(make):
    torch.manual_seed(0)
    with pytest.raises(UnsupportedModel, match=r"evaluation_statistics|interact|depend"):
        grad_norms(make().double(), squared, *batch())


class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(8, 2)

    def forward(self, x):
        return self.l(x + 1e-6 * torch.randn_like(x))


@pytest.mark.parametrize("method", ALL)
def test_what_cannot_be_switched_off_is_refused_with_other_advice(method):
    model = Noise().double()
    with evaluation_statistics(model), pytest.raises(UnsupportedModel) as refusal:
        grad_norms(model, squared, *batch(), method=method)
    assert "score inside" not in str(refusal.value)
    assert "take it out" in str(refusal.value)


def test_the_advice_depends_on_where_it_is_given():
    assert "score inside" in takes_batch_statistics()
    with evaluation_statistics(nn.Linear(1, 1)):
        assert "score inside" not in takes_batch_statistics()
        assert "score inside" not in draws_random_numbers("noise")
    assert "score inside" in draws_random_numbers("noise")


class BatchNormByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = nn.BatchNorm1d(4)
        self.w = nn.Parameter(torch.randn(8, 2))

    def forward(self, x):
        n = self.n
        h = F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, True)
        return h @ self.w


def test_a_functional_batch_norm_uses_its_running_statistics():
    torch.manual_seed(0)
    model = BatchNormByHand().double()
    x, y = batch()
    by_module = nn.Sequential(model.n).double()
    with evaluation_statistics(model):
        h = model(x)
        found = grad_norms(model, squared, x, y)
        oracle = grad_norms(model, squared, x, y, method="loop")
    assert torch.allclose(h, by_module.eval()(x) @ model.w)
    assert close(found, oracle, 1e-10)


def test_masks_are_random_again_afterwards():
    x = torch.ones(1000)
    with evaluation_statistics(nn.Linear(1, 1)):
        assert torch.equal(F.dropout(x), x)
    assert not torch.equal(F.dropout(x), x)
