"""The probe: right variances, nothing touched, sane verdicts, bad input refused."""

import copy
import random
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from impsamp.assess import probe, time_ratio
from impsamp.assess.probing import Probe
from impsamp.assess.remembering import Remembering, remembered_time
from impsamp.errors import InvalidArgument, InvalidScores, InvalidShape, UnsupportedModel
from tests.assess.helpers import gradient_rows
from tests.assess.helpers import half_squares as squares


def make(n=60, heavy=0, dropout=0.0, seed=1):
    g = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.4
    x, y = torch.randn(n, 6, generator=g), torch.randn(n, 2, generator=g)
    if heavy:
        y[:heavy] *= 100
    return net, TensorDataset(x, y)


def test_facts_and_bound_against_explicit_gradients():
    net, data = make()
    G = gradient_rows(net, *data.tensors)
    g = G.norm(dim=1)
    mean_sq = G.mean(0).square().sum().item()
    V = g.square().mean().item() - mean_sq
    p = probe(net, squares, DataLoader(data, batch_size=4), seconds=0.2)
    assert p.facts["sample_size"] == 60 and p.facts["batch"] == 4
    assert p.facts["noise_scale"] == pytest.approx(V / mean_sq, rel=1e-4)
    ideal = p.rows[0]
    ratio = ideal["variance_ratio"]
    assert ratio == pytest.approx((g.mean().item() ** 2 - mean_sq) / V, rel=1e-4)
    # M = N: nothing is estimated
    assert ideal["variance_low"] == pytest.approx(ratio)
    assert ideal["variance_high"] == pytest.approx(ratio)
    steps = time_ratio(ratio, 1, p.facts["noise_per_batch"])
    assert ideal["time_ratio"] == pytest.approx(steps)


def test_pool_variance_is_what_pools_do():
    "10^4 simulated pools and draws with scores = norms against the predicted variance."
    net, data = make()
    G = gradient_rows(net, *data.tensors).numpy()
    g, mean = np.linalg.norm(G, axis=1), G.mean(0)
    p = probe(net, squares, DataLoader(data, batch_size=4), seconds=0.2)
    row = next(r for r in p.rows if r["scheme"] == "norm, pool")
    V_u = np.square(G - mean).sum(1).mean() / 4
    rng = np.random.default_rng(0)
    size = row["pool"]
    found = []
    for _ in range(10_000):
        pool = rng.choice(60, size, replace=False)
        q = g[pool] / g[pool].sum()
        j = rng.choice(size, 4, p=q)
        estimate = (G[pool[j]] / (size * q[j])[:, None]).mean(0)
        found.append(np.square(estimate - mean).sum())
    error = 4 * np.std(found) / 100 / V_u
    assert abs(np.mean(found) / V_u - row["variance_ratio"]) < error < 0.1


def state_bytes(net, optimizer):
    "Parameters, buffers, gradients and the optimizer's tensors."
    weights = [t.detach() for t in net.state_dict().values()]
    grads = [p.grad for p in net.parameters()]
    kept = [t for s in optimizer.state_dict()["state"].values() for t in s.values()]
    tensors = [*weights, *grads, *(t for t in kept if isinstance(t, torch.Tensor))]
    return [t.numpy().tobytes() for t in tensors]


def random_states(loader):
    "The states of all generators that a data set may draw from, as bytes."
    return (
        torch.get_rng_state().numpy().tobytes(),
        loader.generator.get_state().numpy().tobytes(),
        random.getstate(),
        np.random.get_state()[1].tobytes(),
    )


def check_untouched_by(probing, net, optimizer, loader):
    "Everything is after `probing()` as it was before, and no hook is left."
    before = state_bytes(net, optimizer)
    mode = [m.training for m in net.modules()]
    rng = random_states(loader)
    probing()
    assert before == state_bytes(net, optimizer)
    assert mode == [m.training for m in net.modules()]
    assert rng == random_states(loader)
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())


class Augmented(TensorDataset):
    "A data set that draws from three global generators at each access."

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + random.random() * 0.01 + np.random.random() * 0.01 + torch.rand(()) * 0.01, y


def trained(probed):
    "The state after three epochs, with or without a probe in each of them."
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    net, data = make(dropout=0.0)
    order = torch.Generator().manual_seed(5)
    loader = DataLoader(Augmented(*data.tensors), batch_size=8, shuffle=True, generator=order)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    short = partial(probe, net, squares, loader, seconds=0.05)
    for _ in range(3):
        for k, (x, y) in enumerate(loader):
            optimizer.zero_grad()
            squares(net(x), y).mean().backward()
            if probed and k == 2:
                check_untouched_by(short, net, optimizer, loader)
            optimizer.step()
    return state_bytes(net, optimizer)


def test_training_goes_on_as_if_the_probe_had_not_been():
    assert trained(probed=True) == trained(probed=False)


def test_untouched_on_failure_too():
    net, data = make()
    before, rng = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    with pytest.raises(InvalidShape, match="reduction"):
        probe(net, lambda o, y: squares(o, y).mean(), DataLoader(data, batch_size=4), seconds=0.1)
    bad = TensorDataset(torch.full((9, 6), np.nan), torch.zeros(9, 2))
    with pytest.raises(InvalidScores, match="not finite"):
        probe(net, squares, DataLoader(bad, batch_size=4), seconds=0.1)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())


def test_verdicts_follow_the_variance():
    net, even = make()
    p = probe(net, squares, DataLoader(even, batch_size=32), seconds=0.2)
    assert p.verdict == "do not bother"  # no room for a pool worth its cost
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
        remembered=Remembering(2.0, 1.2, 10, 0.66),
        step_seconds=0.001,
        rounds=9,
        loading="",
    )
    p = Probe(rows(*ends), facts, {})
    assert p.verdict == word
    assert p.page().startswith(f"# Probe: {word}")
    assert "loss, pool" in str(p)
    assert len(p.table()) == 2
    time = f"{ends[1]:.2f}"
    assert repr(p) == f"Probe({word!r}, 2 candidates, best 'loss, pool' at {time} of the time)"


def test_a_probe_without_candidates_does_not_bother():
    p = Probe(rows(0.5, 0.6, 0.7)[:1], {}, {})
    assert p.best is None and p.verdict == "do not bother"
    assert repr(p) == "Probe('do not bother', 1 candidates)"


def test_time_is_kept():
    net, data = make(n=3000)
    start = time.perf_counter()
    p = probe(net, squares, DataLoader(data, batch_size=16), seconds=1.0)
    assert time.perf_counter() - start < 20 and p.facts["rounds"] >= 3


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
    for p in net[0].parameters():
        p.requires_grad_(False)
    G = gradient_rows(net, *data.tensors, params=list(net[3].parameters()))
    mean_sq = G.mean(0).square().sum()
    scale = ((G.square().sum(1).mean() - mean_sq) / mean_sq).item()
    found = probe(net, squares, DataLoader(data, batch_size=4), seconds=0.1).facts["noise_scale"]
    assert found == pytest.approx(scale, rel=1e-4)


@pytest.mark.parametrize(
    "loader,error,words",
    [
        (iter([]), InvalidArgument, "DataLoader or a list"),
        ([], InvalidArgument, "DataLoader or a list"),
        ([3], InvalidArgument, "a pair .* got int"),
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


def test_held_out_items_are_not_read_and_not_counted():
    "The case of a loader over twenty of sixty items: the numbers are those of the twenty alone."
    net, data = make()
    kept = torch.arange(0, 60, 3)
    x, y = data.tensors
    y[1::3] = float("nan")  # whoever reads a held-out item finds out
    over = SubsetRandomSampler(kept.tolist())
    p = probe(net, squares, DataLoader(data, batch_size=4, sampler=over), seconds=0.2)
    assert p.facts["population"] == p.facts["sample_size"] == 20
    alone = TensorDataset(x[kept], y[kept])
    q = probe(net, squares, DataLoader(alone, batch_size=4), seconds=0.2)
    assert p.facts["noise_scale"] == pytest.approx(q.facts["noise_scale"], rel=1e-5)
    assert p.rows[0]["variance_ratio"] == pytest.approx(q.rows[0]["variance_ratio"], rel=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [lambda net, loader: (squares, net, loader), lambda net, loader: (net, loader, squares)],
)
def test_the_order_of_arguments_is_told(arguments):
    net, data = make()
    with pytest.raises(InvalidArgument, match="the order is probe"):
        probe(*arguments(net, DataLoader(data, batch_size=4)), seconds=0.1)


class TwoInputs(nn.Module):
    "Takes its input by names or places, and returns a dict."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 2)

    def forward(self, x, mask):
        return {"logits": self.layer(x * mask)}


class Dicts(torch.utils.data.Dataset):
    def __init__(self, wrap):
        g = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(40, 6, generator=g), torch.randn(40, 2, generator=g)
        self.wrap = wrap

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return self.wrap(self.x[i], torch.ones(6), self.y[i])


WRAPS = {
    "dict": lambda x, mask, y: {"x": x, "mask": mask, "labels": y},
    "pair of dict and tensor": lambda x, mask, y: ({"x": x, "mask": mask}, y),
    "pair of tuple and dict": lambda x, mask, y: ((x, mask), {"target": y}),
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("listed", [False, True])
def test_batches_as_users_have_them(wrap, listed):
    def loss_fn(out, y):
        y = y["target"] if isinstance(y, dict) else y
        return squares(out["logits"], y)

    data = Dicts(WRAPS[wrap])
    loader = DataLoader(data, batch_size=4)
    model = TwoInputs()
    found = probe(model, loss_fn, list(loader) if listed else loader, seconds=0.1).facts
    plain = DataLoader(TensorDataset(data.x, data.y), batch_size=4)
    want = probe(model.layer, squares, plain, seconds=0.1).facts
    assert found["population"] == 40
    assert found["noise_scale"] == pytest.approx(want["noise_scale"], rel=1e-5)


def test_progress_is_lines_where_asked_and_silence_elsewhere(capsys):
    net, data = make()
    loader = DataLoader(data, batch_size=4)
    probe(net, squares, loader, seconds=0.3)
    assert capsys.readouterr().err == ""
    probe(net, squares, loader, seconds=0.3, verbose=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("probe: 100%")
    assert any("timing round" in line for line in lines)
    with pytest.raises(InvalidArgument, match="verbose must be"):
        probe(net, squares, loader, seconds=0.3, verbose=2)


# ---- against shuffled epochs ---------------------------------------------------------------------
def test_what_is_remembered_is_bounded_by_what_was_measured():
    net, data = make()
    found = probe(net, squares, DataLoader(data, batch_size=6), seconds=0.05, epochs=4)
    said = found.facts["remembered"]
    assert said.epochs == 4
    assert said.cost > 0.3
    noise = found.facts["noise_per_batch"]
    assert said.time == pytest.approx(remembered_time(said.gain, said.cost, 4, noise))
    assert said.words() in found.page()
    assert not net._forward_hooks


@pytest.mark.parametrize("epochs", [0, -3, float("nan")])
def test_epochs_are_checked_before_anything_is_measured(epochs):
    net, data = make()
    with pytest.raises(InvalidArgument, match="epochs"):
        probe(net, squares, DataLoader(data, batch_size=6), epochs=epochs)


@pytest.mark.parametrize("kind", ["sparse", "complex"])
def test_gradients_that_are_no_plain_vectors(kind):
    torch.manual_seed(0)

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3, sparse=kind == "sparse")
            self.turn = nn.Parameter(torch.randn(3, dtype=torch.complex64))

        def forward(self, x):
            turned = (self.table(x) * self.turn) if kind == "complex" else self.table(x) + 0j
            return torch.stack([turned.real.sum(1), turned.imag.sum(1)], 1)

    net = Line()
    if kind == "sparse":
        net.turn.requires_grad_(False)
    else:
        net.table.requires_grad_(False)
    x, y = torch.randint(5, (40,)), torch.randn(40, 2)
    wanted = []
    for xi, yi in zip(x, y):
        net.zero_grad()
        squares(net(xi[None]), yi[None]).sum().backward()
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        plain = [g.to_dense() if g.is_sparse else g for g in grads]
        wanted.append(torch.cat([torch.view_as_real(g + 0j).flatten() for g in plain]))
    rows = torch.stack(wanted)
    least = rows.mean(0).square().sum().item()
    noise = (rows.square().sum(1).mean().item() - least) / least
    found = probe(net, squares, DataLoader(TensorDataset(x, y), 4), seconds=0.05, verbose=False)
    assert found.facts["noise_scale"] == pytest.approx(noise, rel=1e-4)


def test_a_loss_in_the_place_of_the_model_is_told_the_order():
    net, data = make()
    with pytest.raises(UnsupportedModel, match=r"CrossEntropyLoss .*the order is probe\(model"):
        probe(nn.CrossEntropyLoss(), net, DataLoader(data, 4))
    with pytest.raises(InvalidArgument, match="seconds must be a positive number, got 'a'"):
        probe(net, squares, DataLoader(data, 4), seconds="a")
