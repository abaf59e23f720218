"""ScalarRMSprop and ScalarAdam against the first paper's formulas, written again in numpy."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from impsamp.errors import Diverged, InvalidArgument, UnsupportedModel
from impsamp.optimizers import ScalarAdam, ScalarRMSprop


def rmsprop_oracle(theta, gradients, lr, alpha, eps):
    v = 0.0
    for g in gradients:
        v = alpha * v + (1 - alpha) * np.sum(g * g)
        theta = theta - lr / (eps + np.sqrt(v)) * g
    return theta


def adam_oracle(theta, gradients, lr, betas, eps):
    m, v = np.zeros_like(theta), 0.0
    for t, g in enumerate(gradients, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * np.sum(g * g)
        theta = theta - lr * (m / (1 - betas[0] ** t)) / (eps + np.sqrt(v / (1 - betas[1] ** t)))
    return theta


def split(vector, shapes=((2, 3), (4,))):
    sizes = [int(np.prod(s)) for s in shapes]
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return [torch.tensor(part).reshape(s) for part, s in zip(parts, shapes)]


def play(make, theta, gradients):
    params = [nn.Parameter(p.clone()) for p in split(theta)]
    opt = make(params)
    for g in gradients:
        for p, part in zip(params, split(g)):
            p.grad = part.clone()
        opt.step()
    return np.concatenate([p.detach().numpy().ravel() for p in params]), opt


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 12),
    rate=st.floats(0, 0.999),
    beta1=st.floats(0, 0.95),
    eps=st.floats(1e-10, 1.0),
    size=st.floats(1e-3, 1e3),
)
def test_formulas_over_many_tensors(seed, steps, rate, beta1, eps, size):
    rng = np.random.default_rng(seed)
    theta, gradients = rng.normal(size=10), size * rng.normal(size=(steps, 10))
    got, _ = play(lambda p: ScalarRMSprop(p, lr=0.1, alpha=rate, eps=eps), theta, gradients)
    want = rmsprop_oracle(theta, gradients, 0.1, rate, eps)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)
    betas = (beta1, rate)
    got, _ = play(lambda p: ScalarAdam(p, lr=0.1, betas=betas, eps=eps), theta, gradients)
    want = adam_oracle(theta, gradients, 0.1, betas, eps)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


def test_eps_stands_outside_the_root():
    "||G|| = 5: the step is G / (5 + 5), not G / sqrt(25 + 5)."
    g = np.full(10, 5 / np.sqrt(10))
    got, _ = play(lambda p: ScalarRMSprop(p, lr=1.0, alpha=0.0, eps=5.0), np.zeros(10), [g])
    np.testing.assert_allclose(got, -g / 10)


def test_the_direction_is_the_gradients_at_any_scale():
    g = np.random.default_rng(0).normal(size=10)
    for make in (lambda p: ScalarAdam(p, lr=0.01), lambda p: ScalarRMSprop(p, lr=0.01)):
        moved, _ = play(make, np.zeros(10), [g])
        far, _ = play(make, np.zeros(10), [1e6 * g])
        cosine = abs(moved @ g) / np.linalg.norm(moved) / np.linalg.norm(g)
        assert cosine == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(moved, far, rtol=1e-6)


def test_alpha_one_is_sgd():
    rng = np.random.default_rng(1)
    theta, gradients = rng.normal(size=10), rng.normal(size=(5, 10))
    got, _ = play(lambda p: ScalarRMSprop(p, lr=0.1, alpha=1.0, eps=2.0), theta, gradients)
    np.testing.assert_allclose(got, theta - 0.05 * gradients.sum(0), rtol=1e-12)


def test_norm_covers_all_groups_and_each_group_has_its_own_rate():
    rng = np.random.default_rng(2)
    theta, gradients = rng.normal(size=10), rng.normal(size=(6, 10))

    def groups(kind):
        return lambda p: kind([dict(params=[p[0]]), dict(params=[p[1]], lr=0.2)], lr=0.1)

    for kind, oracle, hyper in (
        (ScalarRMSprop, rmsprop_oracle, (0.99,)),
        (ScalarAdam, adam_oracle, ((0.9, 0.999),)),
    ):
        got, _ = play(groups(kind), theta, gradients)
        slow = oracle(theta, gradients, 0.1, *hyper, 1e-8)
        fast = oracle(theta, gradients, 0.2, *hyper, 1e-8)
        np.testing.assert_allclose(got[:6], slow[:6], rtol=1e-11)
        np.testing.assert_allclose(got[6:], fast[6:], rtol=1e-11)


@pytest.mark.parametrize("kind", [ScalarRMSprop, ScalarAdam])
def test_state_dict_resumes_bit_for_bit(kind, tmp_path):
    rng = np.random.default_rng(3)
    gradients = rng.normal(size=(9, 10))
    whole, _ = play(kind, np.ones(10), gradients)
    half, opt = play(kind, np.ones(10), gradients[:4])
    torch.save(opt.state_dict(), tmp_path / "state.pt")
    params = [nn.Parameter(p) for p in split(half)]
    fresh = kind(params, lr=123.0)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for g in gradients[4:]:
        for p, part in zip(params, split(g)):
            p.grad = part.clone()
        fresh.step()
    assert np.array_equal(whole, np.concatenate([p.detach().numpy().ravel() for p in params]))


@pytest.mark.parametrize("kind", [ScalarRMSprop, ScalarAdam])
def test_zero_gradient_and_missing_gradient(kind):
    w, still = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = kind([w, still], eps=0)
    w.grad = torch.zeros(2)
    opt.step()
    assert torch.equal(w, torch.ones(2)) and torch.equal(still, torch.ones(2))
    w.grad = torch.ones(2)
    assert opt.step(lambda: torch.tensor(7.0)) == 7
    assert (w < 1).all() and torch.equal(still, torch.ones(2))


@pytest.mark.parametrize("kind", [ScalarRMSprop, ScalarAdam])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_gradient_changes_nothing(kind, bad):
    w = nn.Parameter(torch.ones(3))
    opt = kind([w])
    w.grad = torch.ones(3)
    opt.step()
    before, state = w.detach().clone(), copy.deepcopy(opt.state_dict())
    w.grad = torch.tensor([1.0, bad, 1.0])
    with pytest.raises(Diverged, match="as before the step"):
        opt.step()
    assert torch.equal(w, before) and str(opt.state_dict()) == str(state)


@pytest.mark.parametrize(
    "kind, bad",
    [
        (ScalarRMSprop, dict(lr=-1)),
        (ScalarRMSprop, dict(alpha=1.5)),
        (ScalarRMSprop, dict(eps=-1e-8)),
        (ScalarRMSprop, dict(alpha=1, eps=0)),
        (ScalarAdam, dict(betas=(1.0, 0.9))),
        (ScalarAdam, dict(betas=(-0.1, 0.9))),
        (ScalarAdam, dict(lr=float("nan"))),
    ],
)
def test_hyper_parameters_outside_their_range(kind, bad):
    with pytest.raises(InvalidArgument):
        kind([nn.Parameter(torch.ones(1))], **bad)


def test_sparse_gradient_is_refused():
    table = nn.Embedding(4, 2, sparse=True)
    opt = ScalarAdam(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(UnsupportedModel, match="sparse=False"):
        opt.step()
