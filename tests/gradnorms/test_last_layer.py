"""Norms of the last layer's gradients against autograd, item by item, plain and preconditioned."""

import pytest
import torch
from torch import nn

from impsamp.errors import InvalidArgument, UnsupportedModel
from impsamp.gradnorms import LastLayerScores, preconditioner_of

LOSS = nn.CrossEntropyLoss(reduction="none")


def made(bias=True):
    torch.manual_seed(0)
    body = [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3, bias=bias)]
    return nn.Sequential(*body).double(), torch.randn(4, 6).double(), torch.tensor([0, 2, 1, 1])


def slow(net, losses, metric):
    "One backward pass an item."
    norms = []
    for one in losses:
        grads = torch.autograd.grad(one, list(net[-1].parameters()), retain_graph=True)
        names = [name for name, _ in net[-1].named_parameters()]
        scaled = [g * metric.get(k, 1.0) for k, g in zip(names, grads)]
        norms.append(torch.cat([g.flatten() for g in scaled]).norm())
    return torch.stack(norms)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_scores_are_the_norms(make, power, bias):
    net, x, y = made(bias)
    opt = make(net.parameters(), lr=0.01)
    score = LastLayerScores(net[-1], opt, power=power, every=1)
    for _ in range(3):
        losses = LOSS(net(x), y)
        metric = {}
        if opt.state:
            metric = preconditioner_of(opt, net[-1], power=power, clip=10.0)
        assert torch.allclose(score(losses), slow(net, losses, metric))
        opt.zero_grad()
        losses.mean().backward()  # the graph still stands
        opt.step()


def test_the_metric_is_frozen_between_readings():
    net, x, y = made()
    opt = torch.optim.Adam(net.parameters(), lr=0.1)
    score = LastLayerScores(net[-1], opt, every=3)
    metrics = []
    for _ in range(6):
        losses = LOSS(net(x), y)
        score(losses)
        metrics.append(score._metric.get("bias"))
        losses.mean().backward()
        opt.step()
    assert metrics[0] is None  # before the first step there is none
    assert metrics[1] is metrics[2] and metrics[3] is metrics[5]
    assert metrics[2] is not metrics[3]


def test_it_is_the_free_score_of_a_training_step():
    from impsamp import Stale
    from impsamp.randomness import CounterStream
    from impsamp.training import training_step

    net, x, y = made()
    opt = torch.optim.Adam(net.parameters(), lr=0.01)
    scheme = Stale("upper").init(4)
    score = LastLayerScores(net[-1], opt)
    for t in range(5):
        done = training_step(
            scheme, net, LOSS, x, y, opt, batch=3, stream=CounterStream(0), step=t, free=score
        )
    assert done.scored == 0 and scheme.updates == 5


def test_refusals():
    net, x, y = made()
    with pytest.raises(InvalidArgument, match="Linear, got Tanh"):
        LastLayerScores(net[1])
    for bad in ({"power": 0.0}, {"clip": 0.5}, {"every": 0}):
        with pytest.raises(InvalidArgument):
            LastLayerScores(net[-1], **bad)
    score = LastLayerScores(net[-1])
    losses = LOSS(net(x), y)
    score(losses)
    with pytest.raises(UnsupportedModel, match="one row per item"):
        score(losses[:2])
    with torch.no_grad():
        net(x)
    with pytest.raises(UnsupportedModel, match="with a graph"):
        score(losses)
    score.remove()
    assert not net[-1]._forward_hooks


class Sorts(nn.Module):
    "Puts its batch in order, and back: the last layer's rows are not those of the losses."

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        order = x[:, 0].argsort()
        return self.net(x[order])[order.argsort()]


def test_rows_in_another_order_are_refused_and_not_given_to_others():
    net, x, y = made()
    score = LastLayerScores(net[-1])
    with pytest.raises(UnsupportedModel, match="reorders its batch"):
        score(LOSS(Sorts(net)(x), y))


def test_rows_that_are_compared_are_refused():
    net, x, y = made()
    score = LastLayerScores(net[-1])
    with pytest.raises(UnsupportedModel, match="normalises over it"):
        score(LOSS(nn.BatchNorm1d(3).double()(net(x)), y))


def test_losses_of_another_pass_are_refused():
    net, x, y = made()
    score = LastLayerScores(net[-1])
    losses = LOSS(net(x), y)
    net(x)
    with pytest.raises(UnsupportedModel, match="latest pass"):
        score(losses)
