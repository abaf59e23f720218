"""certify: trains as `train` does, with every scope, and judges what was used."""

from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.assess import assess, certify
from impsamp.errors import InvalidArgument
from impsamp.schemes import GradNorm, Loss, Mixture, PreconditionedGradNorm, Shuffle, Uniform


def squares(out, y):
    return 0.5 * (out - y).square().sum(1)


def task(n=20):
    g = torch.Generator().manual_seed(3)
    net = nn.Linear(2, 1).double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    x = torch.randn(n, 2, generator=g, dtype=torch.float64)
    return net, x, x.sum(1, keepdim=True)


class Visited(nn.Module):
    "Keeps the items of each forward pass of `size`; items are told apart by their first column."

    def __init__(self, net, x, size):
        super().__init__()
        self.net = net
        self.size = size
        self.batches = []
        self.known = x[:, 0]

    def forward(self, x):
        if len(x) == self.size:
            at = (x[:, :1] == self.known).nonzero()
            self.batches.append(at[:, 1].tolist())
        return self.net(x)


def test_an_epoch_of_shuffle_visits_every_item_once():
    net, x, y = task()
    watched = Visited(net, x, size=5)
    certify(Shuffle(), watched, squares, (x, y), batch=5, steps=8, every=8)
    assert [len(b) for b in watched.batches] == [5] * 8
    for epoch in (watched.batches[:4], watched.batches[4:]):
        assert sorted(item for batch in epoch for item in batch) == list(range(20))
    assert watched.batches[:4] != watched.batches[4:]


def test_a_batch_above_n_is_refused_without_replacement():
    net, x, y = task()
    with pytest.raises(InvalidArgument, match="batch must be at least 1 and at most 20"):
        certify(Shuffle(), net, squares, (x, y), batch=21, steps=1)
    certify(Uniform(), net, squares, (x, y), batch=21, steps=1)


@pytest.mark.parametrize(
    "make", [PreconditionedGradNorm, lambda: Mixture(PreconditionedGradNorm(), Uniform())]
)
def test_the_preconditioner_is_asked_at_every_step_and_every_look(make):
    net, x, y = task()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    asked = []
    precondition = PreconditionedGradNorm.precondition

    def spy(self, optimizer, model):
        asked.append(optimizer)
        return precondition(self, optimizer, model)

    with mock.patch.object(PreconditionedGradNorm, "precondition", spy):
        certify(make(), net, squares, (x, y), steps=10, every=10, optimizer=optimizer)
    assert asked == [optimizer] * 12  # ten steps, looks at 0 and 10


def test_a_preconditioned_scheme_is_judged_by_its_own_norms():
    net, x, y = task()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    certify(Uniform(), net, squares, (x, y), steps=5, optimizer=optimizer)
    net.weight.grad = torch.ones_like(net.weight)
    optimizer.state[net.weight]["exp_avg_sq"] *= torch.tensor([1e-4, 1.0])  # one steep coordinate
    mine = assess(
        PreconditionedGradNorm(clip=None), net, squares, (x, y), optimizer=optimizer
    ).rows[0]
    plain = assess(GradNorm(), net, squares, (x, y), optimizer=optimizer).rows[0]
    assert plain["tv_p"] == pytest.approx(0, abs=1e-12) and mine["tv_p"] > 0.01


@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_a_preconditioned_scheme_without_its_optimizer_is_refused(optimizer):
    net, x, y = task()
    with pytest.raises(InvalidArgument, match="pass optimizer=") as refused:
        assess(PreconditionedGradNorm(), net, squares, (x, y), optimizer=optimizer)
    assert "PreconditionedGradNorm needs the torch optimizer" in str(refused.value)


def test_the_step_is_the_one_of_train():
    "The same draws in the same order give the same weights."
    from impsamp.training import SequentialStream, training_step

    net, x, y = task()
    twin, _, _ = task()
    certify(GradNorm(), net, squares, (x, y), lr=0.1, steps=6, generator=np.random.default_rng(5))
    scheme = GradNorm().init(20)
    stream = SequentialStream(np.random.default_rng(5))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for t in range(6):
        training_step(scheme, twin, squares, x, y, optimizer, batch=5, stream=stream, step=t)
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_progress_changes_nothing_and_is_lines_where_asked(capsys):
    pages = []
    for verbose in (None, False, True):
        net, x, y = task()
        found = certify(Uniform(), net, squares, (x, y), steps=20, verbose=verbose)
        pages.append([row["second_moment_ratio"] for row in found.rows])
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == (10 if verbose else 0)
    assert lines[-1].startswith("certify Uniform: 100%")
    assert lines[-1].endswith("3 evaluations")
    assert pages[0] == pages[1] == pages[2]
    with pytest.raises(InvalidArgument, match="verbose must be"):
        certify(Uniform(), net, squares, (x, y), steps=20, verbose="yes")


def test_a_scheme_may_be_named_and_a_dataloader_is_told_what_to_give():
    def loss_fn(output, y):
        return (output - y).square().sum(1)

    data = torch.utils.data.TensorDataset(torch.ones(8, 2), torch.ones(8, 1))
    found = certify("stale", nn.Linear(2, 1), loss_fn, data, steps=2, every=1, verbose=False)
    assert found.scheme == "Stale"
    with pytest.raises(InvalidArgument, match=r"loader\.dataset"):
        loader = torch.utils.data.DataLoader(data, batch_size=4)
        certify("stale", nn.Linear(2, 1), loss_fn, loader, steps=2, verbose=False)


def test_a_class_and_an_optimizer_of_another_model_are_refused():
    model, data = torch.nn.Linear(2, 1), (torch.randn(6, 2), torch.randn(6, 1))
    other = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)

    def loss_fn(output, y):
        return (output - y).square().sum(1)

    with pytest.raises(InvalidArgument, match="Loss is a class"):
        certify(Loss, model, loss_fn, data, verbose=False)
    with pytest.raises(InvalidArgument, match="no parameter of this model"):
        certify(Loss(), model, loss_fn, data, optimizer=other, verbose=False)
