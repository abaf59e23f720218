"""The probe: right variances, nothing touched, sane verdicts, bad input refused."""

import copy
import random
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from impsamp.assess import probe, time_ratio
from impsamp.assess.probing import Items, Probe
from impsamp.errors import InvalidArgument, InvalidScores, InvalidShape, UnsupportedModel


def squares(out, y):
    return 0.5 * (out - y).square().sum(1)


def make(n=60, heavy=0, dropout=0.0, seed=1):
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.4
    x, y = torch.randn(n, 6, generator=g), torch.randn(n, 2, generator=g)
    if heavy:
        y[:heavy] *= 100
    return net, TensorDataset(x, y)


def explicit(net, data):
    x, y = data.tensors
    return torch.stack(
        [
            torch.cat(
                [
                    t.flatten()
                    for t in torch.autograd.grad(
                        squares(net(x[i : i + 1]), y[i : i + 1]).sum(), list(net.parameters())
                    )
                ]
            )
            for i in range(len(x))
        ]
    ).double()


def test_facts_and_bound_against_explicit_gradients():
    net, data = make()
    G = explicit(net, data)
    mean, g = G.mean(0), G.norm(dim=1)
    V = (g.square().mean() - mean.square().sum()).item()
    p = probe(net, squares, DataLoader(data, batch_size=4), seconds=0.2)
    assert p.facts["sample_size"] == 60 and p.facts["batch"] == 4
    assert p.facts["noise_scale"] == pytest.approx(V / mean.square().sum().item(), rel=1e-4)
    ideal = p.rows[0]
    assert ideal["variance_ratio"] == pytest.approx(
        (g.mean().item() ** 2 - mean.square().sum().item()) / V, rel=1e-4
    )
    assert (
        ideal["variance_low"]
        == pytest.approx(ideal["variance_ratio"])
        == pytest.approx(ideal["variance_high"])
    )  # M = N: nothing is estimated
    assert ideal["time_ratio"] == pytest.approx(
        time_ratio(ideal["variance_ratio"], 1, p.facts["noise_per_batch"])
    )


def test_pool_variance_is_what_pools_do():
    "10^4 simulated pools and draws with scores = norms against the predicted variance."
    net, data = make()
    G = explicit(net, data).numpy()
    g, mean, rng = np.linalg.norm(G, axis=1), G.mean(0), np.random.default_rng(0)
    p = probe(net, squares, DataLoader(data, batch_size=4), seconds=0.2)
    row = next(r for r in p.rows if r["scheme"] == "norm, pool")
    V_u, found = np.square(G - mean).sum(1).mean() / 4, []
    for _ in range(10_000):
        pool = rng.choice(60, row["pool"], replace=False)
        q = g[pool] / g[pool].sum()
        j = rng.choice(row["pool"], 4, p=q)
        found.append(np.square((G[pool[j]] / (row["pool"] * q[j])[:, None]).mean(0) - mean).sum())
    error = 4 * np.std(found) / 100 / V_u
    assert abs(np.mean(found) / V_u - row["variance_ratio"]) < error < 0.1


def state_bytes(net, optimizer):
    return (
        [t.detach().numpy().tobytes() for t in net.state_dict().values()]
        + [p.grad.numpy().tobytes() for p in net.parameters()]
        + [
            t.numpy().tobytes()
            for s in optimizer.state_dict()["state"].values()
            for t in s.values()
            if isinstance(t, torch.Tensor)
        ]
    )


class Augmented(TensorDataset):
    "A data set that draws from three global generators at each access."

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + random.random() * 0.01 + np.random.random() * 0.01 + torch.rand(()) * 0.01, y


def test_training_goes_on_as_if_the_probe_had_not_been():
    def run(probed):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        net, data = make(dropout=0.0)
        loader = DataLoader(
            Augmented(*data.tensors),
            batch_size=8,
            shuffle=True,
            generator=torch.Generator().manual_seed(5),
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for epoch in range(3):
            for k, (x, y) in enumerate(loader):
                optimizer.zero_grad()
                squares(net(x), y).mean().backward()
                if probed and k == 2:
                    before, mode = state_bytes(net, optimizer), [m.training for m in net.modules()]
                    rng = (
                        torch.get_rng_state(),
                        loader.generator.get_state(),
                        random.getstate(),
                        np.random.get_state()[1].copy(),
                    )
                    probe(net, squares, loader, seconds=0.05)
                    assert before == state_bytes(net, optimizer) and mode == [
                        m.training for m in net.modules()
                    ]
                    assert torch.equal(rng[0], torch.get_rng_state()) and torch.equal(
                        rng[1], loader.generator.get_state()
                    )
                    assert rng[2] == random.getstate() and np.array_equal(
                        rng[3], np.random.get_state()[1]
                    )
                    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
                optimizer.step()
        return state_bytes(net, optimizer)

    assert run(True) == run(False)


def test_untouched_on_failure_too():
    net, data = make()
    before, rng = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    with pytest.raises(InvalidShape, match="reduction"):
        probe(net, lambda o, y: squares(o, y).mean(), DataLoader(data, batch_size=4), seconds=0.1)
    bad = TensorDataset(torch.full((9, 6), np.nan), torch.zeros(9, 2))
    with pytest.raises(InvalidScores, match="not finite"):
        probe(net, squares, DataLoader(bad, batch_size=4), seconds=0.1)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items()) and torch.equal(
        rng, torch.get_rng_state()
    )


def test_verdicts_follow_the_variance():
    net, even = make()
    assert (
        probe(net, squares, DataLoader(even, batch_size=32), seconds=0.2).verdict == "do not bother"
    )  # no room for a pool worth its cost
    net, rare = make(n=4000, heavy=40)  # one item in a hundred holds all gradient
    p = probe(net, squares, DataLoader(rare, batch_size=8), seconds=2)
    assert p.rows[0]["variance_ratio"] < 0.1 and p.rows[0]["steps_ratio"] < 0.5


def rows(low, mid, high):
    base = dict(
        pool=8,
        variance_ratio=0.5,
        variance_low=0.4,
        variance_high=0.6,
        cost_ratio=1.1,
        steps_ratio=0.6,
    )
    return [
        base | dict(scheme="ideal", time_ratio=0.5, time_low=0.5, time_high=0.5),
        base | dict(scheme="loss, pool", time_ratio=mid, time_low=low, time_high=high),
    ]


@pytest.mark.parametrize(
    "ends,word",
    [
        ((0.5, 0.6, 0.7), "worth trying"),
        ((0.8, 0.89, 0.95), "undecided"),
        ((0.92, 0.95, 0.99), "do not bother"),
    ],
)
def test_verdict_words(ends, word):
    facts = dict(
        population=100,
        sample_size=50,
        batch=4,
        noise_scale=9.0,
        noise_per_batch=2.25,
        noise_share=0.69,
        step_seconds=0.001,
        rounds=9,
        loading="",
    )
    p = Probe(rows(*ends), facts, {})
    assert (
        p.verdict == word
        and p.page().startswith(f"# Probe: {word}")
        and "loss, pool" in str(p)
        and len(p.table()) == 2
    )


def test_time_is_kept():
    net, data = make(n=3000)
    start = time.perf_counter()
    p = probe(net, squares, DataLoader(data, batch_size=16), seconds=1.0)
    assert time.perf_counter() - start < 4 and p.facts["rounds"] >= 3


def test_a_list_of_batches_and_a_stream():
    net, data = make()
    batches = list(DataLoader(data, batch_size=5))
    assert probe(net, squares, batches, seconds=0.1).facts["population"] == 60

    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(*data.tensors)

    with pytest.raises(InvalidArgument, match="islice"):
        probe(net, squares, DataLoader(Stream(), batch_size=4), seconds=0.1)


def test_frozen_parameters_are_left_out():
    net, data = make()
    net[0].weight.requires_grad_(False), net[0].bias.requires_grad_(False)
    x, y = data.tensors
    G = torch.stack(
        [
            torch.cat(
                [
                    t.flatten()
                    for t in torch.autograd.grad(
                        squares(net(x[i : i + 1]), y[i : i + 1]).sum(), list(net[3].parameters())
                    )
                ]
            )
            for i in range(60)
        ]
    ).double()
    found = probe(net, squares, DataLoader(data, batch_size=4), seconds=0.1).facts["noise_scale"]
    assert found == pytest.approx(
        ((G.square().sum(1).mean() - G.mean(0).square().sum()) / G.mean(0).square().sum()).item(),
        rel=1e-4,
    )


@pytest.mark.parametrize(
    "loader,error,words",
    [
        (iter([]), InvalidArgument, "DataLoader or a list"),
        ([], InvalidArgument, "DataLoader or a list"),
        ([3], InvalidArgument, "pair of tensors"),
        ([(torch.zeros(2, 6), torch.zeros(3, 2))], InvalidShape, "2 inputs but 3 targets"),
        ([(torch.zeros(1, 6), torch.zeros(1, 2))], InvalidShape, "at least two"),
        (DataLoader(TensorDataset(torch.zeros(4, 6)), batch_size=2), InvalidArgument, "pair"),
        (
            DataLoader(TensorDataset(torch.zeros(4, 6), torch.zeros(4, 2)), batch_size=None),
            InvalidArgument,
            "batch_size",
        ),
    ],
)
def test_bad_loaders(loader, error, words):
    with pytest.raises(error, match=words):
        probe(make()[0], squares, loader, seconds=0.1)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True])
def test_bad_seconds(seconds):
    net, data = make()
    with pytest.raises(InvalidArgument, match="seconds"):
        probe(net, squares, DataLoader(data, batch_size=4), seconds=seconds)


def test_models_that_cannot_be_probed():
    net, data = make()
    loader = DataLoader(data, batch_size=4)
    for p in net.parameters():
        p.requires_grad_(False)
    with pytest.raises(UnsupportedModel, match="nothing to train"):
        probe(net, squares, loader, seconds=0.1)
    net, data = make()
    net.kept = net(data.tensors[0])  # a non-leaf tensor cannot be deep-copied
    with pytest.raises(UnsupportedModel, match="deepcopy"):
        probe(net, squares, loader, seconds=0.1)
    net, data = make()
    for p in net[3].parameters():
        p.data.zero_()
    done = TensorDataset(data.tensors[0], torch.zeros(60, 2))
    with pytest.raises(InvalidScores, match="gradient zero"):
        probe(net, squares, DataLoader(done, batch_size=4), seconds=0.1)


def test_items_read_what_the_loader_would():
    data = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6))
    loader = DataLoader(
        data,
        batch_size=2,
        collate_fn=lambda rows: (
            torch.stack([r[0] for r in rows]) * 2,
            torch.stack([r[1] for r in rows]),
        ),
    )
    x, y = Items(loader).fetch(np.array([4, 1]))
    assert y.tolist() == [4, 1] and torch.equal(x, data.tensors[0][[4, 1]] * 2)
