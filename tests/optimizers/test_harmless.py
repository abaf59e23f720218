"""What a training run meets by chance must not kill it, nor pass for right if it is not."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.errors import Diverged, InvalidArgument, UnsupportedModel
from impsamp.optimizers import SAGA, SARAH, SVRG, ScalarAdam, ScalarRMSprop
from impsamp.samplers import ImportanceBatchSampler, IndependentSampling, NiceSampling
from tests.optimizers.helpers import METHODS, SAMPLINGS, A, Fixed, N, Y, draw_of, epochs, make

cross_entropy = nn.functional.cross_entropy
DATA = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1, 2, 0, 1, 2])


def network(seed=1, norm=nn.Identity):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), norm(5) if norm is not nn.Identity else norm(), nn.Tanh(),
                         nn.Linear(5, 3))  # fmt: skip


def closure_of(net, data=DATA):
    def closure(idx, weight):
        losses = cross_entropy(net(data[idx]), TARGET[idx], reduction="none")
        return (weight * losses).sum()

    return closure


def optimizer(method, params, **kw):
    kw = dict(lr=0.1, generator=3) | epochs(method, inner_steps=4) | kw
    return METHODS[method](params, NiceSampling(N, 2), **kw)


def run(method, params, closure, steps=11, **kw):
    opt = optimizer(method, params, **kw)
    for _ in range(steps):
        opt.step(closure)
    return opt


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_stand_still_and_change_nothing_for_the_others(method):
    whole, part = network(), network()
    for net in (whole, part):
        net[0].requires_grad_(False)
    before = copy.deepcopy(whole[0].state_dict())
    run(method, whole.parameters(), closure_of(whole), weight_decay=0.1)
    run(method, part[3].parameters(), closure_of(part), weight_decay=0.1)
    assert same(whole.parameters(), part.parameters())
    assert same(whole[0].parameters(), before.values())


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_train_is_said(method):
    net = network().requires_grad_(False)
    with pytest.raises(InvalidArgument, match="nothing to train"):
        optimizer(method, net.parameters()).step(closure_of(net))


def two_parameters():
    "The sum of the helpers with its parameter cut in two, and its closure."
    parts = [nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in ([-1.0], [0.0, 1.0])]
    matrix, y = torch.tensor(A), torch.tensor(Y)

    def closure(idx, weight):
        x = torch.cat(parts)
        return (weight * (y[idx] - torch.sigmoid(matrix[idx] @ x)) ** 2).sum()

    return parts, closure


def mean_direction(opt, parts, closure, law):
    "E v over all draws, by enumeration; the optimizer is left as found."
    p, subsets, _ = law
    state = opt.state_dict()
    here = [x.detach().clone() for x in parts]
    mean = torch.zeros(3, dtype=torch.float64)
    for S, chance in subsets:
        opt.load_state_dict(state)
        for x, value in zip(parts, here):
            x.data = value.clone()
        opt.step(closure, draw_of(S, p))
        mean += chance * torch.cat([(v - x.detach()) / 0.3 for v, x in zip(here, parts)])
    opt.load_state_dict(state)
    for x, value in zip(parts, here):
        x.data = value
    return mean


@pytest.mark.parametrize("method", ["svrg", "saga"])
def test_the_direction_stays_unbiased_when_parameters_are_frozen_and_unfrozen(method):
    law = SAMPLINGS["independent"]
    parts, closure = two_parameters()
    opt = METHODS[method](
        parts, Fixed(*law[:2]), lr=0.3, generator=0, **epochs(method, inner_steps=50)
    )
    everything = torch.arange(N), torch.full((N,), 1 / N, dtype=torch.float64)
    for trained in (True, False, True):
        parts[0].requires_grad_(trained)
        for _ in range(3):
            opt.step(closure)
        want = torch.autograd.grad(closure(*everything), [x for x in parts if x.requires_grad])
        mean = mean_direction(opt, parts, closure, law)
        assert torch.allclose(mean[0 if trained else 1 :], torch.cat(want), atol=1e-13)
        assert trained or mean[0] == 0


@pytest.mark.parametrize("method", METHODS)
def test_sarah_and_the_others_go_on_when_a_layer_is_unfrozen(method):
    net = network()
    net[0].requires_grad_(False)
    opt = run(method, net.parameters(), closure_of(net), steps=3)
    net[0].requires_grad_(True)
    before = net[0].weight.detach().clone()
    opt.step(closure_of(net))
    assert not torch.equal(before, net[0].weight)


@pytest.mark.parametrize("method", METHODS)
def test_sparse_gradients_of_an_embedding_are_those_of_a_dense_one(method):
    tables = []
    for sparse in (True, False):
        torch.manual_seed(0)
        table = nn.Embedding(5, 3, sparse=sparse)
        run(method, table.parameters(), closure_of(table, torch.tensor([0, 1, 2, 3, 3, 1])))
        tables.append(table.weight.detach())
    assert torch.equal(*tables)


@pytest.mark.parametrize("method", METHODS)
def test_a_complex_parameter_moves_as_its_two_real_parts(method):
    matrix = torch.tensor(A[:, :2])
    z = nn.Parameter(torch.tensor([0.5 + 1j], dtype=torch.complex128))
    x = nn.Parameter(torch.tensor([0.5, 1.0], dtype=torch.float64))

    def of(parts):
        def closure(idx, weight):
            real = torch.view_as_real(parts[0]) if parts.is_complex() else parts
            return (weight * (matrix[idx] @ real - 1) ** 2).sum()

        return closure

    run(method, [z], of(z), weight_decay=0.1)
    run(method, [x], of(x), weight_decay=0.1)
    assert torch.allclose(torch.view_as_real(z.detach())[0], x.detach(), rtol=1e-12)


@pytest.mark.parametrize("kind", [ScalarAdam, ScalarRMSprop])
def test_one_norm_of_a_complex_gradient_is_that_of_its_parts(kind):
    moved = []
    for value in (torch.tensor([3.0 + 4j]), torch.tensor([3.0, 4.0])):
        p = nn.Parameter(torch.zeros_like(value))
        p.grad = value
        kind([p], lr=0.1).step()
        moved.append(torch.view_as_real(p.detach()).flatten() if p.is_complex() else p.detach())
    assert torch.allclose(*moved)


@pytest.mark.parametrize("method", METHODS)
def test_weight_decay_leaves_alone_what_the_loss_does_not_reach(method):
    net = network()
    unused = nn.Linear(2, 2)
    before = copy.deepcopy(unused.state_dict())
    opt = run(method, [*net.parameters(), *unused.parameters()], closure_of(net), weight_decay=0.5)
    assert same(unused.parameters(), before.values())
    again = optimizer(method, [*net.parameters(), *unused.parameters()], weight_decay=0.5)
    again.load_state_dict(opt.state_dict())
    again.step(closure_of(net))
    assert same(unused.parameters(), before.values())


@pytest.mark.parametrize("method", METHODS)
def test_weight_decay_moves_what_only_other_items_reach(method):
    "As in torch, a gradient of 0 is a gradient: the anchor reaches both, a draw one of them."
    parts = [nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2)]

    def closure(idx, weight):
        halves = [(weight * (idx % 2 == k)).sum() * parts[k].sum() for k in (0, 1)]
        present = [h for k, h in enumerate(halves) if (idx % 2 == k).any()]
        return sum(present)

    opt = run(method, parts, closure, steps=1, weight_decay=0.5)
    before = parts[1].item()
    opt.step(closure, draw_of((0, 2), np.full(N, 0.5)))
    assert parts[1].item() == pytest.approx(before - 0.1 * (0.5 + 0.5 * before))


class Noisy(nn.Module):
    "A layer whose output depends on torch's, numpy's and Python's global generators."

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        x = nn.functional.dropout(x, 0.5) * random.random() * np.random.random()
        return self.layer(x)


@pytest.mark.parametrize("method", [SVRG, SARAH])
def test_both_gradients_of_a_difference_see_the_same_random_numbers(method):
    net = Noisy()
    # lr = 0: x stays where it was, so every difference is exactly zero
    opt = method(net.parameters(), NiceSampling(N, 2), lr=0.0, generator=0, inner_steps=9)
    for _ in range(3):
        opt.step(closure_of(net))
    _, difference = opt._difference(closure_of(net), None, opt._keeps[0])
    assert all((d == 0).all() for d in difference)


def test_masks_differ_from_step_to_step():
    net = Noisy()
    opt = SVRG(net.parameters(), NiceSampling(N, N), lr=0.0, generator=0, inner_steps=99)
    assert len({opt.step(closure_of(net)).item() for _ in range(5)}) == 5


@pytest.mark.parametrize("method", METHODS)
def test_batch_statistics_are_refused_in_a_sentence(method):
    net = network(norm=nn.BatchNorm1d)
    with pytest.raises(UnsupportedModel, match="ties the items"):
        optimizer(method, net.parameters()).step(closure_of(net))
    net[1].eval()
    run(method, net.parameters(), closure_of(net))
    assert net[1].num_batches_tracked == 0
    net = network(norm=nn.LayerNorm)
    run(method, net.parameters(), closure_of(net))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", ["ignores", "normalises", "regularises"])
def test_a_closure_that_does_not_weigh_is_refused_before_anything_moves(method, wrong):
    net = network()
    before = copy.deepcopy(net.state_dict())

    def closure(idx, weight):
        losses = cross_entropy(net(DATA[idx]), TARGET[idx], reduction="none")
        if wrong == "ignores":
            return losses.mean()
        if wrong == "normalises":
            return (weight * losses).sum() / weight.sum()
        return (weight * losses).sum() + net[0].weight.square().sum()

    with pytest.raises(InvalidArgument, match="0 \\* weight"):
        optimizer(method, net.parameters()).step(closure)
    assert same(net.state_dict().values(), before.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("at", [1, 2, 3, 8, 9, 10, 14])
def test_one_gradient_that_is_not_finite_costs_one_step(method, at):
    "Whether in the anchor, the first filling, the draw or the refresh of the table."
    net = network()
    calls = []

    def closure(idx, weight):
        calls.append(idx)
        value = closure_of(net)(idx, weight)
        return value * float("nan") if len(calls) == at else value

    opt = optimizer(method, net.parameters())
    failed = 0
    for _ in range(12):
        before = copy.deepcopy((net.state_dict(), opt.state_dict()["state"]))
        try:
            opt.step(closure)
        except Diverged:
            failed += 1
            assert same(net.state_dict().values(), before[0].values())
    kept = [t for s in opt.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
    assert failed <= 1 and all(torch.isfinite(t).all() for t in kept)


def test_one_huge_gradient_does_not_stay_in_the_tables_mean():
    "1e30 into a float32 mean and out again leaves its rounding; the mean is summed anew."
    net = network()
    calls = []

    def closure(idx, weight):
        calls.append(idx)
        value = closure_of(net)(idx, weight)
        return value * 1e30 if len(calls) == 9 else value

    opt = SAGA(net.parameters(), NiceSampling(N, 2), lr=0.0, generator=0, table_size=2)
    for _ in range(40):
        opt.step(closure)
    for p in net.parameters():
        assert torch.allclose(opt.state[p]["mean"], opt.state[p]["table"].mean(0), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_is_a_generator(method):
    first, second = network(), network()
    run(method, first.parameters(), closure_of(first), generator=5)
    run(method, second.parameters(), closure_of(second), generator=np.random.default_rng(5))
    assert same(first.parameters(), second.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_network_runs(method):
    plain, net = network(), network()
    compiled = torch.compile(net, backend="aot_eager")
    run(method, plain.parameters(), closure_of(plain), steps=6)
    run(method, net.parameters(), closure_of(compiled), steps=6)
    for a, b in zip(plain.parameters(), net.parameters()):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


SPOILED = {
    "another method": lambda s: s.update(method="Adam"),
    "another n": lambda s: s.update(n=N + 1),
    "no generator": lambda s: s.pop("generator"),
    "another generator": lambda s: s.update(generator=torch.Generator().get_state()),
    "a text that is no state": lambda s: s.update(generator="{}"),
    "no progress": lambda s: s.pop("progress"),
    "half a progress": lambda s: s["progress"].pop("inner"),
    "a step of -5": lambda s: s["progress"].update(steps=-5),
    "a step of x": lambda s: s["progress"].update(steps="x"),
    "no groups": lambda s: s.update(param_groups=[]),
    "fewer parameters": lambda s: s["param_groups"][0]["params"].pop(),
    "no rate": lambda s: s["param_groups"][0].pop("lr"),
    "a rate of nan": lambda s: s["param_groups"][0].update(lr=float("nan")),
    "an unknown name": lambda s: s["state"][0].update(other=torch.zeros(5, 4)),
    "an unknown parameter": lambda s: s["state"].update({9: {}}),
    "another sampling": lambda s: s.update(sampling={}),
}


def changed(value):
    "A change of the first kept tensor of the first parameter."

    def spoil(saved):
        entry = saved["state"][0]
        name = next(k for k, v in entry.items() if isinstance(v, torch.Tensor))
        entry[name] = value(entry[name])

    return spoil


SPOILED["a wrong shape"] = changed(lambda t: t[..., :1])
SPOILED["nan"] = changed(lambda t: t * float("nan"))
SPOILED["no tensor"] = changed(lambda t: "x")


def as_text(state):
    return repr(sorted(state.items(), key=str))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", SPOILED)
def test_a_state_is_loaded_whole_or_not_at_all(method, fault):
    net = network()
    saved = run(method, net.parameters(), closure_of(net), steps=3).state_dict()
    SPOILED[fault](saved)
    opt = run(method, net.parameters(), closure_of(net), steps=2, generator=8)
    before = as_text(opt.state_dict())
    with pytest.raises(InvalidArgument):
        opt.load_state_dict(saved)
    assert as_text(opt.state_dict()) == before
    opt.step(closure_of(net))


class Refusing(ImportanceBatchSampler):
    "A sampler that loads half of a state before it refuses."

    def load_state_dict(self, state):
        super().load_state_dict(state)
        if self.half:
            self.half = False
            raise ValueError("half way")

    half = False


def test_a_sampling_that_refuses_half_way_leaves_everything_as_it_was():
    net = network()
    p = np.full(N, 1 / N)

    def fresh(seed):
        sampler = Refusing(p, 2, steps=9, generator=np.random.default_rng(seed))
        return SVRG(net.parameters(), sampler, lr=0.1, generator=seed)

    saved = fresh(0)
    saved.step(closure_of(net))
    opt = fresh(1)
    opt.step(closure_of(net))
    before = as_text(opt.state_dict())
    opt.sampling.half = True
    with pytest.raises(ValueError, match="half way"):
        opt.load_state_dict(saved.state_dict())
    assert as_text(opt.state_dict()) == before


SCALAR = {
    "no groups": lambda s: s.update(param_groups=[]),
    "no second moment": lambda s: s["param_groups"][0].pop("square_norm"),
    "a negative second moment": lambda s: s["param_groups"][0].update(square_norm=-1.0),
    "a second moment of nan": lambda s: s["param_groups"][0].update(square_norm=float("nan")),
    "a rate of -1": lambda s: s["param_groups"][0].update(lr=-1.0),
    "another optimizer's": lambda s: s["state"].update({0: {"exp_avg": torch.zeros(2)}}),
    "a wrong shape": lambda s: s["state"].update({0: {"m": torch.zeros(3)}}),
    "nan": lambda s: s["state"].update({0: {"m": torch.full((2,), float("nan"))}}),
}


@pytest.mark.parametrize("kind", [ScalarAdam, ScalarRMSprop])
@pytest.mark.parametrize("fault", SCALAR)
def test_a_scalar_optimizer_takes_no_foreign_state(kind, fault):
    p = nn.Parameter(torch.ones(2))
    opt = kind([p], lr=0.1)
    p.grad = torch.ones(2)
    opt.step()
    saved, before = copy.deepcopy(opt.state_dict()), as_text(opt.state_dict())
    SCALAR[fault](saved)
    with pytest.raises(InvalidArgument):
        opt.load_state_dict(saved)
    assert as_text(opt.state_dict()) == before


def test_independent_draws_that_are_empty_do_not_stop_a_run():
    net = network()
    sampling = IndependentSampling(np.full(N, 0.05))
    for method in (SVRG, SARAH, SAGA):
        opt = method(net.parameters(), sampling, lr=0.1, generator=0, weight_decay=0.1)
        for _ in range(10):
            opt.step(closure_of(net))


def test_make_is_the_helpers_own():
    "The helpers' closures pass the check of weights."
    _, opt, closure = make("saga", SAMPLINGS["nice1"])
    opt.step(closure)
    assert opt._known_linear


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_sampler_that_nobody_reports_to_is_resumed_with_its_optimizer(method):
    def fresh(net, seed):
        sampler = ImportanceBatchSampler(
            np.full(N, 1 / N), 2, steps=4, generator=np.random.default_rng(seed)
        )
        kw = epochs(method, inner_steps=3)
        return METHODS[method](net.parameters(), sampler, lr=0.1, generator=seed, **kw)

    net = network()
    opt = fresh(net, 0)
    for _ in range(6):
        opt.step(closure_of(net))
    saved, here = opt.state_dict(), copy.deepcopy(net.state_dict())
    resumed = network()
    resumed.load_state_dict(here)
    again = fresh(resumed, 1)
    again.load_state_dict(saved)
    for _ in range(2):  # to the end of the sampler's epoch
        opt.step(closure_of(net))
        again.step(closure_of(resumed))
    assert same(net.parameters(), resumed.parameters())
