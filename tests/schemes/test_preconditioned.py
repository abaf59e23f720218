"""Norms in an adaptive optimizer's metric, against one gradient at a time."""

import copy

import pytest
import torch
from torch import nn

from impsamp.errors import InvalidArgument
from impsamp.gradnorms import grad_norms
from impsamp.schemes import Floored, GradNorm, Mixture, PreconditionedGradNorm, Tempered, Uniform


@pytest.mark.parametrize(
    "build",
    [lambda: PreconditionedGradNorm(power=0), lambda: PreconditionedGradNorm(clip=0.5)],
)
def test_bad_settings(build):
    with pytest.raises(InvalidArgument):
        build()


def test_preconditioned_norms_are_those_of_the_stretched_gradient():
    torch.manual_seed(0)
    net = nn.Linear(5, 3).double()
    x = torch.randn(6, 5).double()
    y = torch.randint(0, 3, (6,))
    loss = nn.CrossEntropyLoss(reduction="none")
    opt = torch.optim.Adam(net.parameters(), lr=0.01)
    scheme = PreconditionedGradNorm(clip=None)
    assert scheme.precondition(opt, net) is None
    for _ in range(3):
        opt.zero_grad()
        loss(net(x), y).mean().backward()
        opt.step()

    v = {p: opt.state[p]["exp_avg_sq"] / (1 - 0.999**3) for p in net.parameters()}
    slow = []
    for i in range(6):
        net.zero_grad()
        loss(net(x[i : i + 1]), y[i : i + 1]).sum().backward()
        squares = [(p.grad**2 / (v[p].sqrt() + 1e-8)).sum() for p in net.parameters()]
        slow.append(sum(squares).sqrt())
    norms = grad_norms(net, loss, x, y, precondition=scheme.precondition(opt, net))
    p = scheme.init(6).probabilities(norms)
    assert torch.allclose(p, torch.stack(slow) / sum(slow), rtol=1e-9)


def test_parts_of_a_composite_share_one_metric():
    mixed = Mixture(PreconditionedGradNorm(), Uniform())
    assert hasattr(mixed, "precondition") and hasattr(Tempered(mixed, 0.5), "precondition")
    assert not hasattr(Mixture(GradNorm(), Uniform()), "precondition")
    for other in (GradNorm(), PreconditionedGradNorm(power=1.0), PreconditionedGradNorm(clip=None)):
        with pytest.raises(InvalidArgument, match="different metrics"):
            Mixture(PreconditionedGradNorm(), other)
    Mixture(PreconditionedGradNorm(every=2), Floored(PreconditionedGradNorm(), 0.1))
    twin = copy.deepcopy(mixed)
    assert twin.precondition.__self__ is twin.parts[0]
    net = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters())
    assert mixed.precondition(optimizer, net) is None
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    stretched = mixed.precondition(optimizer, net)
    assert set(stretched) == {"weight", "bias"}
