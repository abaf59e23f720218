"""Losses that depend on their company without a trace in the graph."""

import warnings

import pytest
import torch
import torch.nn as nn

from impsamp.errors import UnsupportedModel
from impsamp.gradnorms import grad_norms, per_sample_grads
from impsamp.gradnorms.company import check_samples, interaction, interactions, spread, tolerance
from impsamp.gradnorms.plan import COMPANY_EVERY
from tests.gradnorms.helpers import ALL, squared


def test_an_interaction_is_a_difference_beyond_rounding():
    one = torch.tensor(1.0)
    assert interaction(one, one) is None
    assert interaction(one * 1.0005, one) is None
    assert interaction(one * 1.01, one).startswith("samples interact")
    assert interaction(one, torch.tensor(float("nan"))) is None
    assert tolerance(one.bfloat16()) == 0.1
    assert interaction(one.bfloat16() * 1.05, one.bfloat16()) is None


def test_first_middle_and_last():
    assert [spread(n) for n in (1, 2, 3, 100)] == [[0], [0, 1], [0, 1, 2], [0, 50, 99]]


class TopK(nn.Module):
    "Only the k largest outputs of the batch count: nothing that three samples would show."

    k = 10

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        h = self.layer(x)
        kept = torch.zeros(len(x))
        size = h.detach().square().sum(1)
        kept[size.topk(min(self.k, len(x))).indices] = 1
        return h * kept[:, None] + 1


class Centred(nn.Linear):
    "A detached mean over the batch."

    def forward(self, x):
        h = super().forward(x)
        return h - h.detach().mean(0)


class Capacity(nn.Module):
    "An expert that takes the first samples only; the others pass by."

    def __init__(self):
        super().__init__()
        self.expert = nn.Linear(6, 6)

    def forward(self, x):
        served = self.expert(x[:8])
        return torch.cat([served, x[8:]]) + 0 * self.expert.bias


MODELS = {"top-k": TopK, "detached mean": lambda: Centred(6, 4), "capacity": Capacity}


@pytest.mark.parametrize("method", [m for m in ALL if m != "ghost"])
@pytest.mark.parametrize("name", MODELS)
def test_what_three_samples_do_not_show_is_refused_at_the_first_batch(name, method):
    torch.manual_seed(0)
    model = MODELS[name]()
    x = torch.randn(40, 6)
    with pytest.raises(UnsupportedModel, match="samples interact"):
        grad_norms(model, squared, x, torch.randn(40, 1), method=method)


def test_check_samples_and_interactions_say_the_same():
    torch.manual_seed(0)
    model = Centred(6, 4)
    x = torch.randn(5, 6)
    y = torch.randn(5, 1)
    with pytest.raises(UnsupportedModel, match="next to others"):
        check_samples(model, squared, x, y)
    with torch.no_grad():
        losses = squared(model(x), y)
    assert len(interactions(model, squared, x, y, losses, [0, 1, 2])) == 3
    assert interactions(nn.Linear(6, 4), lambda o, y: y[:, 0], x, y, y[:, 0], [0, 1]) == []


class LaterCentred(Centred):
    "Interacts from some batch on, by a list that no key looks into."

    def __init__(self):
        super().__init__(6, 4)
        self.mixes = [False]

    def forward(self, x):
        return super().forward(x) if self.mixes[0] else nn.Linear.forward(self, x)


def test_what_begins_later_is_told_once_and_the_number_is_that_of_this_pass():
    torch.manual_seed(0)
    model = LaterCentred()
    x = torch.randn(8, 6)
    y = torch.randn(8, 1)
    grad_norms(model, squared, x, y)
    model.mixes[0] = True
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2 * COMPANY_EVERY):
            found = grad_norms(model, squared, x, y)
    assert sum("samples interact" in str(w.message) for w in said) == 1
    losses = squared(model(x), y)
    for i in range(8):
        grads = torch.autograd.grad(losses[i], list(model.parameters()), retain_graph=True)
        norm = torch.cat([g.flatten() for g in grads]).norm().item()
        assert found[i].item() == pytest.approx(norm, rel=1e-5)


def test_per_sample_gradients_are_those_of_lone_samples():
    model = Centred(6, 4)
    x = torch.randn(5, 6)
    found = per_sample_grads(model, squared, x, torch.zeros(5, 1), method="loop")
    assert found["bias"].abs().max() == 0  # alone, a sample is its own mean
