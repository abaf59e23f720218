"""The plan: what it must not believe, when it is made anew; samples that interact are refused."""

import gc
import weakref

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import impsamp.gradnorms.plan as plans
from impsamp.errors import UnsupportedModel
from impsamp.gradnorms import choose_method, grad_norms
from impsamp.gradnorms.placement import prove
from impsamp.gradnorms.plan import PROVED_FOR, explicit_squares, make_ghost_plan, planned_squares
from tests.gradnorms.cases import Twice, case
from tests.gradnorms.helpers import ALL, close, mlp, squared, state


def equals_the_loop(model, x, y, bound=1e-10):
    oracle = grad_norms(model, squared, x, y, method="loop")
    return close(grad_norms(model, squared, x, y), oracle, bound)


# what a plan says


def test_a_plan_of_a_covered_network():
    model, x, y = mlp()
    params = dict(model.named_parameters())
    plan = make_ghost_plan(model, squared, x, y, params)
    assert plan.left("ghost") == set(params)
    assert plan.left("vmap") == plan.left("loop") == set()
    assert plan.floats == 6 + 9
    assert repr(plan) == "GhostPlan(4 ghost; 15 floats a sample, proved=True)"


def test_one_sample_and_zero_gradients_prove_nothing():
    model, x, y = mlp()
    params = dict(model.named_parameters())
    assert not make_ghost_plan(model, squared, x[:1], y[:1], params).proved
    assert not make_ghost_plan(model, lambda o, t: 0 * squared(o, t), x, y, params).proved


def test_planned_squares_are_those_of_the_gradients():
    model, x, y = case("learned")
    params = dict(model.named_parameters())
    plan = make_ghost_plan(model, squared, x, y, params)
    found = planned_squares(plan, model, squared, x, y, params)
    for method in ("vmap", "loop"):
        assert close(found, explicit_squares(method, model, squared, x, y, params), 1e-10)


def test_a_use_that_the_plan_does_not_know_goes_to_the_loop():
    "The same calls as planned, and then the weight enters the output once more."
    model, x, y = mlp()
    params = dict(model.named_parameters())
    plan = make_ghost_plan(model, squared, x, y, params)

    def penalised(out, t):
        return squared(out, t) + model[0].weight.square().sum()

    found = planned_squares(plan, model, penalised, x, y, params)
    assert close(found, explicit_squares("loop", model, penalised, x, y, params), 1e-12)


# how long a proof holds


class Counted:
    "`prove`, counted."

    def __init__(self):
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        return prove(*args)


def masked(out, target):
    t, keep = target
    return squared(out, t) * keep


def proofs_after_a_full_batch(monkeypatch, kept, batches):
    "Proofs that `batches` batches take in which only the samples `kept` have a gradient."
    model, x, y = mlp()
    params = dict(model.named_parameters())
    everybody = torch.ones(len(x), dtype=x.dtype)
    plan = make_ghost_plan(model, masked, x, (y, everybody), params)
    counted = Counted()
    monkeypatch.setattr(plans, "prove", counted)
    planned_squares(plan, model, masked, x, (y, everybody), params)
    assert counted.calls == 1
    some = torch.zeros_like(everybody)
    some[kept] = 1.0
    oracle = explicit_squares("loop", model, masked, x, (y, some), params)
    for _ in range(batches):
        found = planned_squares(plan, model, masked, x, (y, some), params)
        assert close(found, oracle, 1e-12)
    return counted.calls - 1


def test_what_many_samples_told_few_may_confirm(monkeypatch):
    "A network that has learnt all but one: 31 batches, a proof, 31 batches, a proof, 31 batches."
    assert proofs_after_a_full_batch(monkeypatch, [2], 3 * PROVED_FOR + 2) == 2


def test_zeros_confirm_nothing(monkeypatch):
    assert proofs_after_a_full_batch(monkeypatch, [], PROVED_FOR + 5) == 5


# what it must not believe


def test_a_weight_made_of_parameters_is_covered():
    model, x, y = case("weight-norm")
    assert set(choose_method(model, squared, x, y).values()) == {"ghost"}


def test_a_gradient_that_something_changes_on_its_way_is_noticed():
    """A hook on the weight.

    Autograd's gradient is three times what the layer's input and output gradient give."""
    model, x, y = case("mlp")
    model[0].weight.register_hook(lambda g: 3 * g)
    assert equals_the_loop(model, x, y)
    methods = choose_method(model, squared, x, y)
    assert methods.pop("0.weight") == "loop"
    assert set(methods.values()) == {"ghost"}


class PositionsFirst(nn.Module):
    "(n, 4, 8) -> rows ordered by position, then sample."

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(8, 3)

    def forward(self, x):
        rows = self.l(x.transpose(0, 1).flatten(0, 1))
        return rows.unflatten(0, (4, -1)).transpose(0, 1)


def test_samples_that_prove_nothing_about_the_layout_are_not_believed():
    """First, middle and last sample are equal, at all positions.

    Both orders of the rows fit them, only one fits the rest."""
    torch.manual_seed(0)
    model = PositionsFirst().double()
    x = torch.randn(7, 4, 8, dtype=torch.float64)
    y = torch.randn(7, 1, dtype=torch.float64)
    x[[0, 3, 6]] = 1.0
    y[[0, 3, 6]] = 1.0
    assert equals_the_loop(model, x, y)
    other = torch.randn_like(x)  # and nothing was remembered
    assert equals_the_loop(model, other, y)


class Deepens(Twice):
    often = 1

    def forward(self, x):
        for _ in range(self.often):
            x = self.l(x).tanh()
        return x


@pytest.mark.parametrize("before, after", [(1, 2), (2, 1), (2, 3)])
def test_a_pass_that_differs_from_the_plan_is_proved_anew(before, after):
    model = Deepens().double()
    x = torch.randn(6, 6, dtype=torch.float64)
    y = torch.randn(6, 1, dtype=torch.float64)
    model.often = before
    grad_norms(model, squared, x, y)
    model.often = after
    assert equals_the_loop(model, x, y)


class Branches(nn.Module):
    "Control flow that looks at the data: the second half of the batch takes another layer."

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 4)
        self.b = nn.Linear(6, 4)

    def forward(self, x):
        return self.a(x) if x.mean() < 10 else self.b(x).sin()


def test_control_flow_that_looks_at_the_data_is_proved_anew():
    torch.manual_seed(0)
    model = Branches().double()
    x = torch.randn(8, 6, dtype=torch.float64)
    y = torch.randn(8, 1, dtype=torch.float64)
    x[4:] += 20
    assert equals_the_loop(model, x[:4], y[:4])
    assert equals_the_loop(model, x[4:], y[4:])
    with pytest.raises(UnsupportedModel, match="samples interact"):
        grad_norms(Branches().double(), squared, x, y)


# remembered, weakly


def test_plans_do_not_keep_the_model_alive():
    model, x, y = mlp()
    grad_norms(model, squared, x, y)
    ref = weakref.ref(model)
    del model
    gc.collect()
    assert ref() is None


def test_a_model_that_changes_between_calls_gets_a_new_plan():
    model, x, y = mlp()
    grad_norms(model, squared, x, y)

    def same():
        found = grad_norms(model, squared, x, y)
        return torch.allclose(found, grad_norms(model, squared, x, y, method="loop"))

    model.append(nn.GRUCell(4, 4).double())
    assert same()
    model[0] = nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9)).double()
    assert same()
    model[2].weight.requires_grad_(False)
    assert same()


# samples that interact


def softmax_over_the_batch(out, y):
    return -out.log_softmax(0)[:, 0]


def centred(out, y):
    return (out - out.mean(0)).square().sum(1)


def expanded_mean(out, y):
    return out.square().mean().expand(len(out))


INTERACTING = {
    "softmax over the batch": softmax_over_the_batch,
    "centred": centred,
    "expanded mean": expanded_mean,
}


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("name", INTERACTING)
def test_a_loss_that_mixes_samples_is_refused(name, method):
    model, x, y = mlp()
    with pytest.raises(UnsupportedModel, match="samples interact"):
        grad_norms(model, INTERACTING[name], x, y, method=method)


class Mixes(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)

    def forward(self, x):
        h = self.l(x)
        return h - h.mean(0)


class FunctionalBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)

    def forward(self, x):
        return F.batch_norm(self.l(x), None, None, training=True)


def without_running_statistics():
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    return nn.Sequential(nn.Linear(6, 4), norm).eval()


MIXING = [
    (Mixes, "interact"),
    (FunctionalBatchNorm, "batch statistics|interact"),
    (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), "evaluation_statistics"),
    (without_running_statistics, "batch statistics"),
]


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("make, word", MIXING)
def test_a_model_that_mixes_samples_is_refused(make, word, method):
    torch.manual_seed(0)
    model = make()
    x = torch.randn(5, 6)
    y = torch.randn(5, 1)
    before = state(model)
    with pytest.raises(UnsupportedModel, match=word):
        grad_norms(model, squared, x, y, method=method)
    assert state(model) == before
