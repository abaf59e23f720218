"""||D g_i||: D from an optimizer's state or from the user, through every method."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.errors import InvalidArgument, InvalidShape, UnsupportedModel
from impsamp.gradnorms import grad_norms, per_sample_grads, preconditioner_of
from impsamp.gradnorms.preconditioners import read_preconditioner
from tests.gradnorms.helpers import ALL, mlp, squared

# from an optimizer


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, eps=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, betas=(0.8, 0.7)),
    "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, alpha=0.5),
    "centered": lambda p: torch.optim.RMSprop(p, centered=True, alpha=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p),
}


def from_the_formula(name, optimizer, p):
    "D of Adam and its kin, from the state of the parameter `p`."
    s = optimizer.state[p]
    (group,) = optimizer.param_groups
    v = s["max_exp_avg_sq"] if name == "amsgrad" else s["exp_avg_sq"]
    corrected = v / (1 - group["betas"][1] ** float(s["step"]))
    return 1 / (corrected.sqrt() + group["eps"])


def from_a_step(name, optimizer, model, p):
    """One step with a gradient d that hardly changes the state moves theta by lr * D d.

    Momentum is off, so D can be read off the step."""
    before = p.detach().clone()
    other = OPTIMIZERS[name](model.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for q in model.parameters():
        q.grad = 1e-9 * torch.ones_like(q)
    other.param_groups[0]["alpha"] = 1.0
    other.step()
    moved = before - p.detach()
    return moved / (optimizer.param_groups[0]["lr"] * 1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_preconditioner_is_what_the_optimizer_divides_by(name):
    model, x, y = mlp()
    opt = OPTIMIZERS[name](model.parameters())
    for _ in range(4):
        opt.zero_grad()
        squared(model(x), y).mean().backward()
        opt.step()
    D = preconditioner_of(opt, model)
    p = model[0].weight
    if "exp_avg" in opt.state[p]:
        expected = from_the_formula(name, opt, p)
    else:
        expected = from_a_step(name, opt, model, p)
    if name == "centered":
        expected = expected.clamp(max=expected.max())
    assert torch.allclose(D["0.weight"], expected, rtol=1e-3)


def test_one_step_of_adam_by_hand():
    "v_hat = g^2 after one step, so D = 1 / |g|, and with power one half its root."
    net = nn.Linear(2, 1, bias=False)
    opt = torch.optim.Adam(net.parameters())
    net(torch.tensor([[2.0, 4.0]])).sum().backward()
    opt.step()
    D = preconditioner_of(opt, net)["weight"]
    assert torch.allclose(D, torch.tensor([[1 / 2, 1 / 4]]))
    root = preconditioner_of(opt, net, power=0.5)["weight"]
    assert torch.allclose(root, torch.tensor([[2**-0.5, 1 / 2]]))


# through every method


@pytest.mark.parametrize("method", ALL)
def test_precondition_gives_the_norm_of_D_g(method):
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 8), nn.Tanh()]
    model = nn.Sequential(*body, nn.Linear(8, 2)).double()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    y = torch.randn(5, 1, dtype=torch.float64)
    D = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    grads = per_sample_grads(model, squared, x, y)
    scaled = [(D[name] * g).flatten(1) for name, g in grads.items()]
    expected = torch.cat(scaled, 1).norm(dim=1)

    def norms(precondition):
        return grad_norms(model, squared, x, y, method=method, precondition=precondition)

    assert torch.allclose(norms(D), expected, rtol=1e-10)
    assert torch.allclose(norms(list(D.values())), expected, rtol=1e-10)
    tripled = norms([3.0] * len(D))
    assert torch.allclose(tripled, 3 * grad_norms(model, squared, x, y), rtol=1e-10)


class TwoEmbeddings(nn.Module):
    "The sum of two embeddings, and one of them again as the last layer."

    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(7, 3)
        self.f = nn.Embedding(7, 3)

    def forward(self, t):
        return F.linear(self.e(t) + self.f(t), self.e.weight)


def test_precondition_on_embeddings_and_tied_weights():
    torch.manual_seed(0)
    model = TwoEmbeddings().double()
    x = torch.randint(0, 7, (5, 4))
    y = torch.randn(5, 1, dtype=torch.float64)
    D = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    ghost = grad_norms(model, squared, x, y, method="ghost", precondition=D)
    loop = grad_norms(model, squared, x, y, method="loop", precondition=D)
    assert torch.allclose(ghost, loop, rtol=1e-10)


def test_precondition_in_float32_at_the_scale_of_adam():
    "D up to 1e8 on gradients of 1e-8: squares of squares must not leave float32."
    model, x, y = mlp(torch.float32)
    D = {name: 10 ** (16 * torch.rand(p.shape) - 8) for name, p in model.named_parameters()}

    def small(o, t):
        return 1e-8 * squared(o, t)

    found = grad_norms(model, small, x, y, precondition=D)
    wide_model = copy.deepcopy(model).double()
    wide_D = {name: d.double() for name, d in D.items()}
    wide = grad_norms(
        wide_model,
        small,
        x.double(),
        y.double(),
        precondition=wide_D,
        method="loop",
    )
    assert (found - wide).abs().max() <= 1e-5 * wide.max()


# refusals


def trained(*optimizers):
    "A network after one step of each optimizer, made from its parameters."
    model, x, y = mlp()
    made = [make(model.parameters()) for make in optimizers]
    squared(model(x), y).mean().backward()
    for opt in made:
        opt.step()
    return model, x, y, made


def test_an_optimizer_without_a_second_moment_is_refused():
    model, _, _ = mlp()
    with pytest.raises(InvalidArgument, match="take a step"):
        preconditioner_of(torch.optim.Adam(model.parameters()), model)
    with pytest.raises(InvalidArgument, match="not among"):
        preconditioner_of(torch.optim.Adam([nn.Parameter(torch.ones(1))]), model)
    model, _, _, (sgd,) = trained(lambda p: torch.optim.SGD(p, momentum=0.9, lr=0.1))
    with pytest.raises(UnsupportedModel, match="second moment"):
        preconditioner_of(sgd, model)


def test_a_clip_is_a_multiple_of_the_median():
    model, _, _, (opt,) = trained(torch.optim.Adam)
    good = preconditioner_of(opt, model)
    clipped = preconditioner_of(opt, model, clip=2.0)
    middle = torch.cat([d.flatten() for d in good.values()]).median()
    assert all(torch.equal(clipped[k], good[k].clamp(max=2 * middle)) for k in good)


def test_bad_preconditioners():
    model, x, y, (opt,) = trained(torch.optim.Adam)
    good = preconditioner_of(opt, model)
    for bad, error, word in (
        ({"0.weight": 1.0}, InvalidArgument, "lacks 0.bias"),
        ([1.0], InvalidArgument, "1 entries for 4"),
        ({**good, "0.bias": torch.ones(3)}, InvalidShape, "broadcast"),
        ({**good, "0.bias": float("inf")}, InvalidArgument, "finite"),
    ):
        with pytest.raises(error, match=word):
            grad_norms(model, squared, x, y, precondition=bad)


def test_numbers_are_spread_over_the_parameter():
    weight = nn.Parameter(torch.zeros(2, 3))
    found = read_preconditioner({"w": 2.0, "other": 5.0}, {"w": weight})
    assert found.keys() == {"w"}
    assert found["w"].tolist() == [[2, 2, 2], [2, 2, 2]]
