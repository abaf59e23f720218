"""The loop and vmap; what no method can score is refused; the model is as found."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.errors import InvalidArgument, InvalidShape, UnsupportedModel
from impsamp.gradnorms import evaluation_statistics, grad_norms, per_sample_grads
from impsamp.gradnorms.oracle import GRADS, dense, loop_grads, per_sample_losses, untouched
from tests.gradnorms.cases import CASES, N, case
from tests.gradnorms.helpers import ALL, close, mlp, squared, state

# per-sample gradients


@pytest.mark.parametrize("method", GRADS)
def test_gradients_by_hand(method):
    "l_i = w x_i + c has gradient (x_i, 1)."
    model = nn.Linear(1, 1)
    params = dict(model.named_parameters())
    x = torch.tensor([[1.0], [2.0]])
    found = GRADS[method](model, lambda out, y: out[:, 0], x, x, params)
    assert found["weight"].tolist() == [[[1]], [[2]]]
    assert found["bias"].tolist() == [[1], [1]]


def test_the_loop_fills_in_what_has_no_gradient_and_what_is_sparse():
    model = nn.ModuleDict({"e": nn.Embedding(3, 1, sparse=True), "unused": nn.Linear(1, 1)})
    x = torch.tensor([[0, 2], [1, 1]])

    def forward(t):
        return model["e"](t).sum((1, 2))

    params = dict(model.named_parameters())
    found = loop_grads(forward, lambda out, y: out, x, x, params)
    assert found["e.weight"].flatten(1).tolist() == [[1, 0, 1], [0, 2, 0]]
    assert found["unused.weight"].tolist() == [[[0]], [[0]]]
    assert not dense(torch.eye(2).to_sparse()).is_sparse


WITHOUT_VMAP = ("embedding-bag", "lstm", "embedding-frequency", "embedding-sparse")


@pytest.mark.parametrize("name", [n for n in CASES if n not in WITHOUT_VMAP])
def test_vmap_equals_the_loop(name):
    model, x, y = case(name)
    try:
        found = grad_norms(model, squared, x, y, method="vmap")
    except UnsupportedModel as e:
        pytest.skip(f"torch.func cannot: {str(e)[:60]}")
    assert close(found, grad_norms(model, squared, x, y, method="loop"), 1e-10)


def test_vmap_really_runs_on_the_paper_network():
    model, x, y = case("paper")
    found = grad_norms(model, squared, x, y, method="vmap")
    assert close(found, grad_norms(model, squared, x, y, method="loop"), 1e-10)
    grads = per_sample_grads(model, squared, x, y)
    assert grads["0.weight"].shape == (N, 5, 1, 5, 5)
    found = torch.cat([g.flatten(1) for g in grads.values()], 1).norm(dim=1)
    assert close(found, grad_norms(model, squared, x, y), 1e-10)


# one loss per sample


@pytest.mark.parametrize("method", ALL)
def test_a_reduced_loss_is_refused(method):
    model, x, y = mlp()
    wide = y.expand(5, 4)
    with pytest.raises(InvalidShape, match="reduction='none'"):
        grad_norms(model, nn.MSELoss(), x, wide, method=method)
    with pytest.raises(InvalidShape, match="sum over every axis"):
        grad_norms(model, nn.MSELoss(reduction="none"), x, wide, method=method)
    with pytest.raises(InvalidShape, match="tensor of shape"):
        grad_norms(model, lambda o, t: 1.0, x, y, method=method)


def test_one_loss_of_one_sample_may_have_any_shape():
    x = torch.tensor([[2.0]])
    for shape in ((), (1,), (1, 1)):
        found = per_sample_losses(nn.Identity(), lambda o, t, s=shape: o.reshape(s), x, x)
        assert found.tolist() == [2]


def test_integer_images_are_refused_with_advice():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    x = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(InvalidArgument, match=r"x\.to"):
        grad_norms(model, squared, x, torch.zeros(3, 1))


def test_nothing_to_differentiate():
    model, x, y = mlp()
    with pytest.raises(UnsupportedModel, match="do not depend"):
        grad_norms(model, lambda o, t: squared(o.detach(), t), x, y)
    model.requires_grad_(False)
    with pytest.raises(UnsupportedModel, match="no parameter"):
        grad_norms(model, squared, x, y)
    with pytest.raises(UnsupportedModel, match="max_norm"):
        grad_norms(nn.Embedding(3, 2, max_norm=1.0), squared, torch.tensor([[1]]), y[:1])
    with pytest.raises(UnsupportedModel, match="not initialised"):
        grad_norms(nn.LazyLinear(3), squared, x, y)


# randomness and batch statistics


class FunctionalDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)

    def forward(self, x):
        return F.dropout(self.l(x), 0.5)


class Noise(FunctionalDropout):
    def forward(self, x):
        return self.l(x + 1e-6 * torch.randn_like(x))


RANDOM_MODELS = {
    "module": lambda: nn.Sequential(nn.Dropout(), nn.Linear(6, 4)),
    "functional": FunctionalDropout,
    "noise": Noise,
    "lstm": lambda: nn.Sequential(nn.LSTM(6, 4, num_layers=2, dropout=0.5)),
}


@pytest.mark.parametrize("method", ["auto", "ghost", "loop"])
@pytest.mark.parametrize("make", RANDOM_MODELS.values(), ids=RANDOM_MODELS)
def test_random_masks_are_refused_by_every_method(make, method):
    model = make()
    x = torch.randn(5, 6)
    y = torch.randn(5, 1)
    before = state(model)
    with pytest.raises(UnsupportedModel, match=r"random|interact"):
        grad_norms(model, squared, x, y, method=method)
    assert state(model) == before


def test_dropout_of_rate_zero_or_in_evaluation_is_no_mask():
    x = torch.randn(5, 6)
    y = torch.randn(5, 1)
    idle = nn.Sequential(nn.Dropout(0.0), nn.Linear(6, 4))
    assert grad_norms(idle, squared, x, y).shape == (5,)
    evaluated = nn.Sequential(nn.Dropout(), nn.Linear(6, 4)).eval()
    assert grad_norms(evaluated, squared, x, y).shape == (5,)


def mixed_modes():
    "Batch statistics, a mask and a normalisation per sample, in training; one layer is not."
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.InstanceNorm2d(4)]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(144, 2))
    model[4].eval()
    return model


def test_evaluation_statistics_switches_only_what_it_must_and_back():
    model = mixed_modes()
    x = torch.randn(5, 3, 8, 8)
    y = torch.randn(5, 1)
    model(x)
    before = state(model)
    with evaluation_statistics(model):
        assert [m.training for m in model] == [True, False, False, True, False, True]
        found = grad_norms(model, squared, x, y)
    assert state(model) == before
    evaluated = copy.deepcopy(model).eval()
    oracle = grad_norms(evaluated, squared, x, y, method="loop")
    assert torch.allclose(found, oracle, rtol=1e-5)


def test_evaluation_statistics_switches_back_after_a_failure():
    model = mixed_modes()
    before = state(model)
    with pytest.raises(KeyError), evaluation_statistics(model):
        raise KeyError
    assert state(model) == before
    without = nn.BatchNorm1d(2, track_running_stats=False)
    with (
        pytest.raises(UnsupportedModel, match="running statistics"),
        evaluation_statistics(without),
    ):
        pass


# no trace


class Counter(nn.Module):
    "Changes a buffer in place and replaces another one in every forward pass."

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        self.calls += 1
        self.last = x.mean() + torch.zeros(4)
        return self.l(x)


def normed():
    norm = nn.InstanceNorm1d(2, affine=True, track_running_stats=True)
    return nn.Sequential(nn.Unflatten(1, (2, 3)), norm, nn.Flatten(), nn.Linear(6, 4))


TRACELESS = {
    "plain": lambda: nn.Sequential(nn.Linear(6, 4)),
    "counter": Counter,
    "instance-norm": normed,
}


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("make", TRACELESS.values(), ids=TRACELESS)
def test_the_model_is_as_found(make, method):
    torch.manual_seed(1)
    model = make()
    x = torch.randn(5, 6)
    y = torch.randn(5, 1)
    squared(model(x), y).mean().backward()
    before = state(model)
    try:
        grad_norms(model, squared, x, y, method=method)
    except UnsupportedModel:
        refused = method == "vmap" and any(True for _ in model.buffers())
        assert refused, "torch.func refuses in-place changes of buffers"
    assert state(model) == before


class Fails(nn.Module):
    "Raises at the k-th forward pass, after changing a buffer and drawing a random number."

    def __init__(self, k):
        super().__init__()
        self.l = nn.Linear(6, 4)
        self.k = [k]
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += torch.rand(())
        self.k[0] -= 1
        if self.k[0] == 0:
            raise KeyError("on purpose")
        return self.l(x)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("method", ["auto", "ghost", "loop"])
def test_the_model_is_as_found_after_a_failure(method, k):
    model = Fails(k)
    x = torch.randn(5, 6)
    y = torch.randn(5, 1)
    squared(model.l(x), y).mean().backward()
    before = state(model)
    with pytest.raises(KeyError, match="on purpose"):
        grad_norms(model, squared, x, y, method=method, chunk_size=2)
    assert state(model) == before


def test_the_model_is_as_found_after_a_failing_loss():
    model, x, y = mlp()
    before = state(model)

    def loss(out, y):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        grad_norms(model, loss, x, y)
    assert state(model) == before


def test_the_random_stream_is_not_disturbed():
    model, x, y = mlp()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    grad_norms(model, squared, x, y)
    assert torch.equal(torch.rand(4), expected)


def test_a_buffer_gets_back_its_tensor_and_its_numbers():
    model = Counter()
    calls, last = model.calls, model.last
    with untouched(model, torch.device("cpu")):
        model(torch.ones(1, 6))
        assert model.calls.item() == 1
        assert model.last is not last
    assert model.calls is calls
    assert model.last is last
    assert calls.item() == 0


class Drifts(nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            self.bias.add_(1)
        return super().forward(x)


def test_parameters_changed_by_the_forward_pass_are_refused():
    with pytest.raises(UnsupportedModel, match=r"in place|interact"):
        grad_norms(Drifts(6, 4), squared, torch.randn(5, 6), torch.randn(5, 1))
