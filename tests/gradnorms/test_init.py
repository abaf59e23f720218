"""Per-sample gradient norms against the loop, over layers x settings x losses x precision."""

import copy

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import impsamp.gradnorms
from impsamp.errors import InvalidArgument, InvalidShape, UnknownName, UnsupportedModel
from impsamp.gradnorms import NORM_METHODS, choose_method, grad_norms, per_sample_grads
from tests.gradnorms.cases import CASES, N, case
from tests.gradnorms.helpers import ALL, close, double, mlp, squared


def logistic(out, y):
    return F.softplus(out.flatten(1) * y).mean(1)


def classes(out, y):
    return F.cross_entropy(out.flatten(1), (y[:, 0] > 0).long(), reduction="none")


LOSSES = {"squared": squared, "logistic": logistic, "cross-entropy": classes}


def norms_of(grads):
    return torch.cat([g.flatten(1) for g in grads.values()], 1).norm(dim=1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_loop(name, loss):
    model, x, y = case(name)
    oracle = grad_norms(model, LOSSES[loss], x, y, method="loop")
    assert oracle.min() > 0, "a test that compares zeros proves nothing"
    assert close(grad_norms(model, LOSSES[loss], x, y), oracle, 1e-10)
    methods = choose_method(model, LOSSES[loss], x, y)
    assert (set(methods.values()) == {"ghost"}) == CASES[name].ghost, methods


@pytest.mark.parametrize("name", CASES)
def test_equals_the_float64_loop_in_float32(name):
    model, x, y = case(name, torch.float32)
    wide = copy.deepcopy(model).double()
    oracle = grad_norms(wide, squared, double(x), y.double(), method="loop")
    assert close(grad_norms(model, squared, x, y), oracle, 1e-5)


def test_by_hand():
    "l_i = (w x_i + c)^2 / 2 at w = 1, c = 0 has gradient x_i (x_i, 1)."
    model = nn.Linear(1, 1).double()
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    x = torch.tensor([[0.0], [1.0], [-2.0]], dtype=torch.float64)
    found = grad_norms(model, lambda out, y: out[:, 0].square() / 2, x, x)
    assert torch.allclose(found, torch.tensor([0, 2**0.5, 2 * 5**0.5], dtype=torch.float64))


@pytest.mark.parametrize("method", NORM_METHODS)
def test_every_method_is_reachable_by_name(method):
    model, x, y = case("paper")
    oracle = grad_norms(model, squared, x, y, method="loop")
    assert close(grad_norms(model, squared, x, y, method=method), oracle, 1e-10)


def test_the_methods_are_those_of_the_documentation():
    assert tuple(NORM_METHODS) == ALL
    assert not hasattr(impsamp.gradnorms, "METHODS")


# chunks and numbers of samples


@pytest.mark.parametrize(
    "name",
    ["mlp", "conv2d", "encoder", "learned", "tied-language", "attention-cross"],
)
@pytest.mark.parametrize("chunk", [1, 2, 5, 7])
def test_chunks_do_not_matter(name, chunk):
    model, x, y = case(name)
    whole = grad_norms(model, squared, x, y, method="loop")
    for method in ("auto", "loop"):
        found = grad_norms(model, squared, x, y, method=method, chunk_size=chunk)
        assert close(found, whole, 1e-12)


@pytest.mark.parametrize("method", ["auto", "ghost"])
def test_a_chunk_size_bounds_the_samples_of_a_pass(method):
    model, x, y = mlp()
    seen = []

    def loss(out, t):
        seen.append(len(out))
        return squared(out, t)

    grad_norms(model, loss, x, y, method=method)  # the plan is made now
    seen.clear()
    grad_norms(model, loss, x, y, method=method, chunk_size=2)
    assert len(seen) == 3
    assert max(seen) == 2


@pytest.mark.parametrize("name", ["paper", "encoder", "batch-second", "learned", "embedding"])
def test_one_sample(name):
    model, x, y = case(name)
    whole = grad_norms(model, squared, x, y, method="loop")
    for i in range(2):
        one = slice(i, i + 1)
        assert close(grad_norms(model, squared, x[one], y[one]), whole[one], 1e-10)


# what the numbers are


def test_norms_are_of_the_loss_not_of_the_mean_and_scale_with_it():
    model, x, y = case("mlp")
    base = grad_norms(model, squared, x, y)
    assert torch.allclose(grad_norms(model, lambda o, t: 3 * squared(o, t), x, y), 3 * base)
    repeated = grad_norms(model, squared, x.repeat(7, 1), y.repeat(7, 1))
    assert torch.allclose(repeated, base.repeat(7))


def test_frozen_parameters_are_left_out():
    model, x, y = case("mlp")
    model[0].requires_grad_(False)
    grads = per_sample_grads(model, squared, x, y)
    assert set(grads) == {"2.weight", "2.bias"} == set(choose_method(model, squared, x, y))
    assert close(grad_norms(model, squared, x, y), norms_of(grads), 1e-12)


def test_results_are_detached_float64_and_deterministic():
    model, x, y = case("encoder", torch.float32)
    a = grad_norms(model, squared, x.clone().requires_grad_(), y)
    b = grad_norms(model, squared, x.clone().requires_grad_(), y)
    assert a.dtype == torch.float64
    assert not a.requires_grad
    assert torch.equal(a, b)
    assert a.shape == (N,)


def test_numpy_generator_of_the_user_is_not_needed():
    "Scoring takes no randomness at all, so two calls agree to the last bit."
    model, x, y = mlp()
    np.random.seed(0)
    a = grad_norms(model, squared, x, y)
    np.random.seed(1)
    assert torch.equal(a, grad_norms(model, squared, x, y))


def test_inside_no_grad_and_inference_mode():
    model, x, y = case("mlp")
    base = grad_norms(model, squared, x, y)
    with torch.no_grad():
        assert torch.equal(grad_norms(model, squared, x, y), base)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert torch.allclose(grad_norms(model, squared, x * 1, y * 1), base)


def test_non_finite_losses_show_as_non_finite_norms_of_their_own_sample():
    model, x, y = mlp()
    x[3] = float("nan")
    found = grad_norms(model, squared, x, y)
    assert found.isnan().tolist() == [False, False, False, True, False]
    keep = [0, 1, 2, 4]
    assert torch.allclose(found[keep], grad_norms(model, squared, x[keep], y[keep]))


def test_zero_gradients_give_zero_norms():
    model, x, y = mlp()
    found = grad_norms(model, lambda o, t: 0 * squared(o, t), x, y)
    assert torch.equal(found, torch.zeros(5, dtype=torch.float64))


class OptimizedModule(nn.Module):
    "As torch.compile names what it returns."

    def __init__(self, inner):
        super().__init__()
        self._orig_mod = inner


def test_a_wrapped_model_is_scored_without_its_wrapper():
    model, x, y = mlp()
    base = grad_norms(model, squared, x, y)
    for wrapped in (OptimizedModule(model), nn.DataParallel(OptimizedModule(model))):
        assert torch.equal(grad_norms(wrapped, squared, x, y), base)
        assert list(choose_method(wrapped)) == list(choose_method(model))


# which method, and the gradients themselves


class Quotient(nn.Module):
    "Division has no rule."

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x / self.w


def test_ghost_refuses_what_it_does_not_cover_and_names_it():
    model = nn.Sequential(nn.Linear(6, 6), Quotient())
    with pytest.raises(UnsupportedModel, match=r"1\.w"):
        grad_norms(model, squared, torch.randn(5, 6), torch.randn(5, 1), method="ghost")
    assert choose_method(model) == {"0.weight": "ghost", "0.bias": "ghost", "1.w": "vmap"}


@pytest.mark.parametrize("method", ["vmap", "loop"])
def test_the_norms_of_the_gradients_are_the_norms(method):
    model, x, y = mlp()
    grads = per_sample_grads(model, squared, x, y, method=method)
    assert grads["0.weight"].shape == (5, 9, 6)
    assert not any(g.requires_grad for g in grads.values())
    assert close(norms_of(grads), grad_norms(model, squared, x, y), 1e-12)


# refusals


BAD_BATCHES = [
    (lambda x, y: (x[:0], y), InvalidShape, "0 samples but y has 5"),
    (lambda x, y: (x, y[:3]), InvalidShape, "5 samples but y has 3"),
    (lambda x, y: (x.numpy(), y), InvalidShape, "x must be a tensor.*as_tensor"),
    (lambda x, y: (x, y.tolist()), InvalidShape, "y must be a tensor"),
    (lambda x, y: ((x, x[:2]), y), InvalidShape, "tensors of x must agree"),
    (lambda x, y: (x[0, 0], y), InvalidShape, "first axis"),
    (lambda x, y: ((x * 10).long(), y), InvalidArgument, "int64"),
    (lambda x, y: (x.half(), y), InvalidArgument, "float16"),
    (lambda x, y: (x > 0, y), InvalidArgument, "bool"),
]


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("bad, error, word", BAD_BATCHES)
def test_bad_batches(bad, error, word, method):
    model, x, y = mlp()
    with pytest.raises(error, match=word):
        grad_norms(model, squared, *bad(x, y), method=method)


def test_bad_options():
    model, x, y = mlp()
    with pytest.raises(UnknownName, match="did you mean 'ghost'"):
        grad_norms(model, squared, x, y, method="gost")
    for chunk in (0, -1, 2.5):
        with pytest.raises(InvalidArgument, match="chunk_size"):
            grad_norms(model, squared, x, y, chunk_size=chunk)
    with pytest.raises(UnknownName, match="method"):
        per_sample_grads(model, squared, x, y, method="ghosts")
    with pytest.raises(InvalidArgument, match="max_bytes"):
        per_sample_grads(model, squared, x, y, max_bytes=100)
