"""SVRG, SAGA, SARAH for torch modules: exact enumeration, Lemma 1, reference loops, resuming, refusals."""

from collections import namedtuple
from itertools import combinations, product
from math import ceil

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.errors import Diverged, InvalidArgument, InvalidShape
from impsamp.optimizers import SAGA, SARAH, SVRG
from impsamp.samplers import (
    ApproximateIndependentSampling,
    IndependentSampling,
    NiceSampling,
    SerialSampling,
)
from impsamp.theory.minibatch import minibatch_probabilities

Draw = namedtuple("Draw", "idx weight")
N, D = 6, 3
RNG = np.random.default_rng(7)
A = RNG.normal(size=(N, D)) * np.array([1, 0.3, 3, 0.6, 2, 0.1])[:, None]
Y = (RNG.random(N) < 0.5).astype(float)
METHODS = dict(svrg=SVRG, sarah=SARAH, saga=SAGA)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def grad_items(x, idx=slice(None)):
    "grad of (y_i - sigma(a_i x))^2, by hand."
    s = sigmoid(A[idx] @ x)
    return (2 * (s - Y[idx]) * s * (1 - s))[:, None] * A[idx]


# every subset with its probability, written out from the definitions -----------------------------------------------------------------
def nice(b):
    return (
        np.full(N, b / N),
        [(S, 1 / len(list(combinations(range(N), b)))) for S in combinations(range(N), b)],
        np.full(N, (N - b) / (N - 1)),
    )


def coins(p, items):
    for kept in product((0, 1), repeat=len(items)):
        yield (
            tuple(i for i, k in zip(items, kept) if k),
            np.prod([q if k else 1 - q for q, k in zip(p, kept)]),
        )


def independent(p):
    return p, list(coins(p, range(N))), 1 - p


def approximate(p):
    free = np.flatnonzero(p < 1)
    k = len(free)
    a = ceil(k * p[free].max() - 1e-12)
    pools = list(combinations(free, a))
    subsets = [
        (S + tuple(np.flatnonzero(p == 1)), q / len(pools))
        for pool in pools
        for S, q in coins(k * p[list(pool)] / a, pool)
    ]
    return p, subsets, np.where(p < 1, 1 - p * (1 - 1 / a), 0)


def serial(p):
    return p, [((i,), p[i]) for i in range(N)], np.ones(N)  # v = d with |S| <= d = 1


P = np.array([0.15, 0.3, 1.0, 0.35, 0.8, 0.4])  # sum 3, one item always in
SAMPLINGS = dict(
    nice1=nice(1),
    nice3=nice(3),
    independent=independent(P),
    approximate=approximate(P),
    serial=serial(P / P.sum()),
)


class Fixed:
    "The samplers' interface over an enumerated law."

    def __init__(self, p, subsets):
        self.inclusion_probabilities, self.subsets = p, subsets

    def draw(self, generator):
        u = (
            torch.rand(1, generator=generator).item()
            if isinstance(generator, torch.Generator)
            else generator.random()
        )
        k = np.searchsorted(np.cumsum([q for _, q in self.subsets]), u)
        return draw_of(self.subsets[min(k, len(self.subsets) - 1)][0], self.inclusion_probabilities)


def draw_of(S, p):
    return Draw(
        torch.tensor(S, dtype=torch.int64),
        torch.tensor([1 / (N * p[i]) for i in S], dtype=torch.float64),
    )


@pytest.fixture(params=SAMPLINGS)
def law(request):
    return SAMPLINGS[request.param]


def make(method, law, lr=0.3, seed=0, x0=None, **kw):
    p, subsets, _ = law
    x = nn.Parameter(torch.tensor(np.linspace(-1, 1, D) if x0 is None else x0))
    opt = METHODS[method](
        [x], Fixed(p, subsets), lr=lr, generator=np.random.default_rng(seed), **kw
    )
    matrix, y = torch.tensor(A), torch.tensor(Y)

    def closure(idx, weight):
        return (weight * (y[idx] - torch.sigmoid(matrix[idx] @ x)) ** 2).sum()

    return x, opt, closure


def all_moves(opt, x, closure, law):
    "For every subset: probability, and the direction in which a copy of the optimizer moves (x - x_new) / lr."
    p, subsets, _ = law
    state, start = opt.state_dict(), x.detach().clone()
    moves = []
    for S, q in subsets:
        opt.load_state_dict(state)
        x.data = start.clone()
        opt.step(closure, draw_of(S, p))
        moves.append((q, (start - x.detach()).numpy() / opt.param_groups[0]["lr"]))
    opt.load_state_dict(state)
    x.data = start
    q, moves = np.array([q for q, _ in moves]), np.array([m for _, m in moves])
    assert q.sum() == pytest.approx(1, abs=1e-12)
    return q, moves, start.numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_conditional_mean_and_lemma_1(method, law, weight_decay):
    x, opt, closure = make(
        method, law, weight_decay=weight_decay, **({} if method == "saga" else dict(inner_steps=9))
    )
    for _ in range(4):
        opt.step(closure)
    past = {"svrg": lambda: opt.state[x]["snapshot"], "sarah": lambda: opt.state[x]["previous"]}
    there = grad_items(past[method]().numpy()) if method in past else opt.state[x]["table"].numpy()
    memory = there.mean(0) if method != "sarah" else opt.state[x]["estimate"].numpy()
    q, moves, here = all_moves(opt, x, closure, law)
    z = grad_items(here) - there
    mean = q @ moves
    np.testing.assert_allclose(
        mean - weight_decay * here, z.mean(0) + memory, atol=1e-12
    )  # for SARAH: of the increment
    if method != "sarah":
        np.testing.assert_allclose(mean, grad_items(here).mean(0) + weight_decay * here, atol=1e-12)
    p, _, v = law
    variance, bound = q @ ((moves - mean) ** 2).sum(1), ((v / p) @ (z**2).sum(1)) / N**2
    assert 1e-12 < variance <= bound * (1 + 1e-12)
    if law is SAMPLINGS["independent"]:
        assert variance == pytest.approx(bound, rel=1e-10, abs=0)  # equality for coins


def test_sarah_is_biased_for_the_gradient_itself(law):
    x, opt, closure = make("sarah", law, inner_steps=9)
    for _ in range(4):
        opt.step(closure)
    q, moves, here = all_moves(opt, x, closure, law)
    assert np.linalg.norm(q @ moves - grad_items(here).mean(0)) > 1e-6


def reference(method, draws, tables, lr, inner, decay, x):
    "The algorithm boxes in numpy; `draws` of (S, weights), `tables` the sets J."
    table, old, v, snapshot, t = grad_items(x), None, None, None, 0
    for (S, w), J in zip(draws, tables):
        if method == "svrg":
            if t == 0:
                snapshot, g = x, grad_items(x).mean(0)
            v = w @ (grad_items(x, S) - grad_items(snapshot, S)) + g
            t = (t + 1) % inner
        elif method == "sarah":
            v = grad_items(x).mean(0) if t == 0 else w @ (grad_items(x, S) - grad_items(old, S)) + v
            old, t = x, (t + 1) % (inner + 1)
        else:
            v = w @ (grad_items(x, S) - table[S]) + table.mean(0)
            table = table.copy()
            table[J] = grad_items(x, J)
        x = x - lr * (v + decay * x)
    return x


@pytest.mark.parametrize("method", METHODS)
def test_forty_steps_against_the_algorithm_boxes(method, law):
    p, subsets, _ = law
    rng = np.random.default_rng(3)
    sets = [
        np.array(subsets[rng.choice(len(subsets), p=[q for _, q in subsets])][0], dtype=int)
        for _ in range(40)
    ]
    kw = dict(two_draws=False) if method == "saga" else dict(inner_steps=7)
    x, opt, closure = make(method, law, weight_decay=0.02, **kw)
    for S in sets:
        opt.step(closure, draw_of(S, p))
    want = reference(
        method, [(S, 1 / (N * p[S])) for S in sets], sets, 0.3, 7, 0.02, np.linspace(-1, 1, D)
    )
    np.testing.assert_allclose(x.detach(), want, rtol=0, atol=1e-12)


def test_saga_second_draw_is_uniform_and_moves_the_table():
    x, opt, closure = make("saga", SAMPLINGS["nice1"], table_size=2)
    hits = np.zeros(N)
    for _ in range(1500):
        opt.step(closure)
        items, new = opt._moved
        assert len(set(items.tolist())) == 2
        hits[items] += 1
        table = opt.state[x]["table"]
        np.testing.assert_allclose(opt.state[x]["mean"], table.mean(0), atol=1e-12)
        assert torch.equal(table[items], new[0])
    assert abs(hits / hits.sum() - 1 / N).max() < 5 * np.sqrt(1 / N / 3000)


def test_saga_counts_repeated_items_once_in_the_table_and_twice_in_the_step():
    x, opt, closure = make("saga", SAMPLINGS["serial"], two_draws=False)
    opt.step(closure)
    table, mean, here = (
        opt.state[x]["table"].clone().numpy(),
        opt.state[x]["mean"].clone().numpy(),
        x.detach().numpy().copy(),
    )
    opt.step(closure, Draw([4, 1, 4], [0.2, 0.3, 0.5]))
    new = grad_items(here)
    np.testing.assert_allclose(
        x.detach(),
        here - 0.3 * (0.7 * (new[4] - table[4]) + 0.3 * (new[1] - table[1]) + mean),
        atol=1e-14,
    )
    table[[1, 4]] = new[[1, 4]]
    np.testing.assert_allclose(opt.state[x]["table"], table, atol=1e-14)
    np.testing.assert_allclose(opt.state[x]["mean"], table.mean(0), atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_cost_is_counted(method):
    x, opt, closure = make(
        method, SAMPLINGS["nice3"], **(dict() if method == "saga" else dict(inner_steps=2))
    )
    for _ in range(3):
        opt.step(closure)
    # svrg: two anchors, three pairs; sarah: one anchor, two pairs; saga: the table, then |S| + |J| a step
    assert opt.grad_evals == dict(svrg=2 * N + 3 * 6, sarah=N + 2 * 6, saga=N + 3 * 6)[method]
    assert opt.effective_passes == opt.grad_evals / N


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("generator", ["PCG64", "Philox", "MT19937", "SFC64", "torch"])
def test_state_dict_resumes_bit_for_bit(method, generator, tmp_path):
    def fresh(seed):
        return (
            torch.Generator().manual_seed(seed)
            if generator == "torch"
            else np.random.Generator(getattr(np.random, generator)(seed))
        )

    kw = dict() if method == "saga" else dict(inner_steps=4, anchor_size=5)
    x, opt, closure = make(method, SAMPLINGS["approximate"], weight_decay=0.01, **kw)
    opt.generator = fresh(5)
    for _ in range(6):
        opt.step(closure)
    torch.save(dict(opt=opt.state_dict(), x=x.detach().clone()), tmp_path / "half.pt")
    for _ in range(9):
        opt.step(closure)
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    y, again, closure = make(method, SAMPLINGS["approximate"], x0=saved["x"].numpy(), lr=99.0, **kw)
    again.generator = fresh(123)
    again.load_state_dict(saved["opt"])
    for _ in range(9):
        again.step(closure)
    assert torch.equal(x, y) and again.grad_evals == opt.grad_evals


def test_loaded_state_is_not_shared():
    x, opt, closure = make("saga", SAMPLINGS["nice1"])
    opt.step(closure)
    y, other, closure2 = make("saga", SAMPLINGS["nice1"])
    other.load_state_dict(opt.state_dict())
    before = opt.state[x]["table"].clone()
    for _ in range(20):
        other.step(closure2)
    assert torch.equal(before, opt.state[x]["table"])


@pytest.mark.parametrize("method", METHODS)
def test_empty_set_still_steps(method):
    x, opt, closure = make(
        method, SAMPLINGS["independent"], **({} if method == "saga" else dict(inner_steps=9))
    )
    opt.step(closure)
    opt.step(closure)
    before, cost = x.detach().clone(), opt.grad_evals
    loss = opt.step(closure, Draw([], []))
    assert loss == 0 and not torch.equal(before, x)
    assert opt.grad_evals == cost + (opt.table_size if method == "saga" else 0)


@pytest.mark.parametrize("method", METHODS)
def test_module_with_groups_chunks_and_float32(method):
    "Two layers in two groups: each group at its own rate; the chunks of the anchor change nothing but rounding."
    torch.manual_seed(0)
    data, target = torch.randn(N, 4), torch.randint(0, 3, (N,))

    def run(chunk):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        kw = dict() if method == "saga" else dict(chunk_size=chunk)
        opt = METHODS[method](
            [dict(params=net[0].parameters()), dict(params=net[2].parameters(), lr=0.0)],
            Fixed(*SAMPLINGS["nice3"][:2]),
            lr=0.1,
            generator=np.random.default_rng(0),
            **kw,
        )

        def closure(idx, weight):
            return (
                weight * nn.functional.cross_entropy(net(data[idx]), target[idx], reduction="none")
            ).sum()

        head = net[2].weight.detach().clone()
        losses = [opt.step(closure).item() for _ in range(30)]
        assert torch.equal(head, net[2].weight) and all(
            p.grad is None and p.dtype == torch.float32 for p in net.parameters()
        )
        return torch.cat([p.detach().ravel() for p in net.parameters()]), losses

    (one, losses), (two, _) = run(1024), run(2)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_large_batch_anchor_is_unbiased_over_anchors():
    "SVRG with a part of the items in the anchor: the mean over all anchors and draws is the gradient; each anchor alone is off."
    law, here = SAMPLINGS["nice1"], np.linspace(-1, 1, D)
    directions = []
    for seed in range(400):
        x, opt, closure = make("svrg", law, seed=seed, anchor_size=4)
        opt.step(closure, Draw([0], [1.0]))
        directions.append((here - x.detach().numpy()) / 0.3)
    spread = np.std(directions, 0) / 20
    assert (spread > 1e-4).all() and (
        abs(np.mean(directions, 0) - grad_items(here).mean(0)) < 4.5 * spread
    ).all()


@pytest.mark.parametrize("method", METHODS)
def test_divergence_is_refused_with_parameters_untouched(method):
    x, opt, closure = make(method, SAMPLINGS["nice3"])
    opt.step(closure)
    before = x.detach().clone()
    with pytest.raises(Diverged, match="lower lr"):
        opt.step(lambda idx, weight: closure(idx, weight) * float("nan"))
    assert torch.equal(before, x)
    opt.step(closure)


@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_restored_when_the_closure_fails(method):
    x, opt, closure = make(method, SAMPLINGS["nice3"])
    for _ in range(3):
        opt.step(closure)
    before = x.detach().clone()

    def broken(idx, weight):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        opt.step(broken)
    assert torch.equal(before, x)


@pytest.mark.parametrize(
    "closure",
    [
        lambda i, w: 3.0,
        lambda i, w: torch.zeros(3, requires_grad=True),
        lambda i, w: torch.tensor(1.0),
    ],
)
def test_closure_must_return_a_scalar_with_graph(closure):
    _, opt, _ = make("svrg", SAMPLINGS["nice3"])
    with pytest.raises(InvalidShape, match="scalar tensor"):
        opt.step(closure)


@pytest.mark.parametrize(
    "bad",
    [
        dict(lr=-1.0),
        dict(lr=float("nan")),
        dict(weight_decay=-0.1),
        dict(inner_steps=0),
        dict(anchor_size=N + 1),
        dict(chunk_size=0),
        dict(generator=None),
        dict(n=N + 1),
    ],
)
def test_arguments_outside_their_range(bad):
    kw = dict(lr=0.1, generator=np.random.default_rng(0)) | bad
    with pytest.raises(InvalidArgument):
        SVRG([nn.Parameter(torch.zeros(1))], Fixed(*SAMPLINGS["nice1"][:2]), **kw)


def test_bare_index_tables_and_missing_n_are_explained():
    class Bare:
        def draw(self, size, generator):
            return None

    x, generator = [nn.Parameter(torch.zeros(1))], np.random.default_rng(0)
    with pytest.raises(InvalidArgument, match="ImportanceBatchSampler"):
        SVRG(x, Bare(), lr=0.1, generator=generator)
    with pytest.raises(InvalidArgument, match="give n"):
        SVRG(x, [Draw([0], [1.0])], lr=0.1, generator=generator)
    with pytest.raises(InvalidArgument, match="table_size"):
        SAGA(x, Fixed(*SAMPLINGS["nice1"][:2]), lr=0.1, generator=generator, table_size=N + 1)


def test_iterable_of_draws_starts_again_when_it_ends():
    p = SAMPLINGS["serial"][0]
    draws = [draw_of((i,), p) for i in (0, 4, 2)]
    x, opt, closure = make("svrg", SAMPLINGS["serial"], inner_steps=5)
    again = SVRG([x], draws, lr=0.3, generator=np.random.default_rng(0), n=N, inner_steps=5)
    for _ in range(8):
        again.step(closure)
    want = reference(
        "svrg",
        [(np.array(draws[t % 3].idx), draws[t % 3].weight.numpy()) for t in range(8)],
        range(8),
        0.3,
        5,
        0,
        np.linspace(-1, 1, D),
    )
    np.testing.assert_allclose(x.detach(), want, atol=1e-12)


def test_saga_refuses_up_front_with_the_memory_it_needs():
    net = nn.Linear(784, 10)
    with pytest.raises(InvalidArgument, match=r"60000 items x 7850 parameters = 1\.75 GiB.*SVRG"):
        SAGA(
            net.parameters(),
            Fixed(np.full(60_000, 1 / 60_000), []),
            lr=0.1,
            generator=np.random.default_rng(0),
        )
    opt = SAGA(
        net.parameters(),
        Fixed(np.full(60_000, 1 / 60_000), []),
        lr=0.1,
        generator=np.random.default_rng(0),
        max_bytes=2**31,
    )
    assert opt.table_bytes == 60_000 * 7850 * 4 and not opt.state


def test_groups_cannot_be_added_once_started():
    x, opt, closure = make("sarah", SAMPLINGS["nice3"])
    opt.step(closure)
    with pytest.raises(InvalidArgument, match="anchor"):
        opt.add_param_group(dict(params=[nn.Parameter(torch.zeros(1))]))


@pytest.mark.parametrize("method", METHODS)
def test_reaches_the_stationary_point(method, law):
    x, opt, closure = make(
        method,
        law,
        lr=0.3,
        weight_decay=0.1,
        x0=np.zeros(D),
        **(dict() if method == "saga" else dict(inner_steps=6)),
    )
    for _ in range(900):
        opt.step(closure)
    here = x.detach().numpy()
    assert np.linalg.norm(grad_items(here).mean(0) + 0.1 * here) < 1e-8


REAL = dict(
    nice=lambda: NiceSampling(N, 2),
    independent=lambda: IndependentSampling(P),
    approximate=lambda: ApproximateIndependentSampling(P),
    serial=lambda: SerialSampling(P / P.sum()),
    lemma2=lambda: IndependentSampling(
        minibatch_probabilities(np.linalg.norm(A, axis=1) ** 2, 2.0)
    ),
)


@pytest.mark.parametrize("sampling", REAL)
@pytest.mark.parametrize("method", METHODS)
def test_every_sampler_of_the_package_reaches_the_stationary_point(method, sampling):
    "The samplers' own draws and weights, both kinds of generator, resumed half way."
    x = nn.Parameter(torch.zeros(D, dtype=torch.float64))
    matrix, y = torch.tensor(A), torch.tensor(Y)

    def closure(idx, weight):
        return (weight * (y[idx] - torch.sigmoid(matrix[idx] @ x)) ** 2).sum()

    def make(generator):
        return METHODS[method](
            [x],
            REAL[sampling](),
            lr=0.3,
            generator=generator,
            weight_decay=0.1,
            **(dict() if method == "saga" else dict(inner_steps=6)),
        )

    opt = make(torch.Generator().manual_seed(0))
    for _ in range(300):
        opt.step(closure)
    again = make(torch.Generator().manual_seed(9))
    again.load_state_dict(opt.state_dict())
    for _ in range(600):
        again.step(closure)
    here = x.detach().numpy()
    assert np.linalg.norm(grad_items(here).mean(0) + 0.1 * here) < 1e-8
