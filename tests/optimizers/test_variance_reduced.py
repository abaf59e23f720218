"""What SVRG, SARAH and SAGA share: exact enumeration, Lemma 1, references, resuming, refusals."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.errors import Diverged, InvalidArgument, InvalidShape
from impsamp.optimizers import SVRG
from impsamp.samplers import (
    ApproximateIndependentSampling,
    ImportanceBatchSampler,
    IndependentSampling,
    NiceSampling,
    SerialSampling,
)
from impsamp.theory.minibatch import minibatch_probabilities
from tests.optimizers.helpers import (
    METHODS,
    SAMPLINGS,
    A,
    D,
    Draw,
    Fixed,
    N,
    P,
    draw_of,
    epochs,
    grad_items,
    loss_closure,
    make,
    saga_reference,
    sarah_reference,
    svrg_reference,
)


def all_moves(opt, x, closure, law):
    "For every subset: probability, and the direction (x - x_new) / lr of a copy of the optimizer."
    p, subsets, _ = law
    state, start = opt.state_dict(), x.detach().clone()
    moves = []
    for S, _ in subsets:
        opt.load_state_dict(state)
        x.data = start.clone()
        opt.step(closure, draw_of(S, p))
        moves.append((start - x.detach()).numpy() / opt.param_groups[0]["lr"])
    opt.load_state_dict(state)
    x.data = start
    q = np.array([q for _, q in subsets])
    assert q.sum() == pytest.approx(1, abs=1e-12)
    return q, np.array(moves), start.numpy()


def kept_gradients(method, opt, x):
    "The items' gradients where the method compares, and the estimate it adds to the difference."
    if method == "svrg":
        there = grad_items(opt.state[x]["snapshot"].numpy())
        return there, there.mean(0)
    if method == "sarah":
        there = grad_items(opt.state[x]["previous"].numpy())
        return there, opt.state[x]["estimate"].numpy()
    there = opt.state[x]["table"].numpy()
    return there, there.mean(0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_conditional_mean_and_lemma_1(method, law, weight_decay):
    x, opt, closure = make(method, law, weight_decay=weight_decay, **epochs(method, inner_steps=9))
    for _ in range(4):
        opt.step(closure)
    there, memory = kept_gradients(method, opt, x)
    q, moves, here = all_moves(opt, x, closure, law)
    z = grad_items(here) - there
    mean = q @ moves
    # for SARAH: of the increment
    np.testing.assert_allclose(mean - weight_decay * here, z.mean(0) + memory, atol=1e-12)
    if method != "sarah":
        np.testing.assert_allclose(mean, grad_items(here).mean(0) + weight_decay * here, atol=1e-12)
    p, _, v = law
    variance = q @ ((moves - mean) ** 2).sum(1)
    bound = ((v / p) @ (z**2).sum(1)) / N**2
    assert 1e-12 < variance <= bound * (1 + 1e-12)
    if law is SAMPLINGS["independent"]:
        assert variance == pytest.approx(bound, rel=1e-10, abs=0)  # equality for coins


def test_sarah_is_biased_for_the_gradient_itself(law):
    x, opt, closure = make("sarah", law, inner_steps=9)
    for _ in range(4):
        opt.step(closure)
    q, moves, here = all_moves(opt, x, closure, law)
    assert np.linalg.norm(q @ moves - grad_items(here).mean(0)) > 1e-6


REFERENCES = dict(
    svrg=lambda draws, sets, **kw: svrg_reference(draws, inner=7, **kw),
    sarah=lambda draws, sets, **kw: sarah_reference(draws, inner=7, **kw),
    saga=saga_reference,
)


@pytest.mark.parametrize("method", METHODS)
def test_forty_steps_against_the_algorithm_boxes(method, law):
    p, subsets, _ = law
    rng = np.random.default_rng(3)
    chances = [q for _, q in subsets]
    picks = [rng.choice(len(subsets), p=chances) for _ in range(40)]
    sets = [np.array(subsets[k][0], dtype=int) for k in picks]
    kw = dict(one_draw=True) if method == "saga" else dict(inner_steps=7)
    x, opt, closure = make(method, law, weight_decay=0.02, **kw)
    for S in sets:
        opt.step(closure, draw_of(S, p))
    draws = [(S, 1 / (N * p[S])) for S in sets]
    want = REFERENCES[method](draws, sets, lr=0.3, decay=0.02, x=np.linspace(-1, 1, D))
    np.testing.assert_allclose(x.detach(), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_cost_is_counted(method):
    _, opt, closure = make(method, SAMPLINGS["nice3"], **epochs(method, inner_steps=2))
    for _ in range(3):
        opt.step(closure)
    # two anchors, three pairs; one anchor, two pairs; the table, then |S| + |J| a step
    want = dict(svrg=2 * N + 3 * 6, sarah=N + 2 * 6, saga=N + 3 * 6)[method]
    assert opt.grad_evals == want
    assert opt.effective_passes == opt.grad_evals / N


def seeded_generator(kind, seed):
    if kind == "torch":
        return torch.Generator().manual_seed(seed)
    return np.random.Generator(getattr(np.random, kind)(seed))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("generator", ["PCG64", "Philox", "MT19937", "SFC64", "torch"])
def test_state_dict_resumes_bit_for_bit(method, generator, tmp_path):
    law = SAMPLINGS["approximate"]
    kw = epochs(method, inner_steps=4, anchor_size=5)
    x, opt, closure = make(method, law, weight_decay=0.01, **kw)
    opt.generator = seeded_generator(generator, 5)
    for _ in range(6):
        opt.step(closure)
    torch.save(dict(opt=opt.state_dict(), x=x.detach().clone()), tmp_path / "half.pt")
    for _ in range(9):
        opt.step(closure)
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    y, again, closure = make(method, law, x0=saved["x"].numpy(), lr=99.0, **kw)
    again.generator = seeded_generator(generator, 123)
    again.load_state_dict(saved["opt"])
    for _ in range(9):
        again.step(closure)
    assert torch.equal(x, y) and again.grad_evals == opt.grad_evals


def test_a_state_of_another_kind_of_generator_is_refused():
    _, opt, closure = make("svrg", SAMPLINGS["nice1"])
    opt.step(closure)
    saved = opt.state_dict()
    opt.generator = torch.Generator()
    with pytest.raises(InvalidArgument, match="does not belong to a Generator"):
        opt.load_state_dict(saved)


@pytest.mark.parametrize("method", METHODS)
def test_empty_set_still_steps(method):
    x, opt, closure = make(method, SAMPLINGS["independent"], **epochs(method, inner_steps=9))
    opt.step(closure)
    opt.step(closure)
    before, cost = x.detach().clone(), opt.grad_evals
    loss = opt.step(closure, Draw([], []))
    assert loss == 0 and not torch.equal(before, x)
    assert opt.grad_evals == cost + (opt.table_size if method == "saga" else 0)


def trained_network(method, data, target, **kw):
    "Parameters and losses of 30 steps of two layers, the second of which stands still (lr = 0)."
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    groups = [dict(params=net[0].parameters()), dict(params=net[2].parameters(), lr=0.0)]
    sampling = Fixed(*SAMPLINGS["nice3"][:2])
    rng = np.random.default_rng(0)
    opt = METHODS[method](groups, sampling, lr=0.1, generator=rng, **kw)
    cross_entropy = partial(nn.functional.cross_entropy, reduction="none")

    def closure(idx, weight):
        return (weight * cross_entropy(net(data[idx]), target[idx])).sum()

    head = net[2].weight.detach().clone()
    losses = [opt.step(closure).item() for _ in range(30)]
    assert torch.equal(head, net[2].weight)
    assert all(p.grad is None and p.dtype == torch.float32 for p in net.parameters())
    return torch.cat([p.detach().ravel() for p in net.parameters()]), losses


@pytest.mark.parametrize("method", METHODS)
def test_module_with_groups_chunks_and_float32(method):
    "Each group at its own rate; the chunks of the anchor change nothing but rounding."
    torch.manual_seed(0)
    data, target = torch.randn(N, 4), torch.randint(0, 3, (N,))
    one, losses = trained_network(method, data, target, **epochs(method, chunk_size=1024))
    two, _ = trained_network(method, data, target, **epochs(method, chunk_size=2))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_large_batch_anchor_is_unbiased_over_anchors():
    "The mean over all anchors of a part of the items is the gradient; each anchor alone is off."
    here = np.linspace(-1, 1, D)
    directions = []
    for seed in range(400):
        x, opt, closure = make("svrg", SAMPLINGS["nice1"], seed=seed, anchor_size=4)
        opt.step(closure, Draw([0], [1.0]))
        directions.append((here - x.detach().numpy()) / 0.3)
    spread = np.std(directions, 0) / 20
    error = abs(np.mean(directions, 0) - grad_items(here).mean(0))
    assert (spread > 1e-4).all() and (error < 4.5 * spread).all()


def test_an_anchor_of_a_part_holds_distinct_items_in_ascending_order():
    _, opt, closure = make("svrg", SAMPLINGS["nice1"], anchor_size=4)
    seen = []

    def watched(idx, weight):
        seen.append(idx.tolist())
        return closure(idx, weight)

    opt.step(watched, Draw([0], [1.0]))
    anchor = seen[0]
    assert len(anchor) == 4 and anchor == sorted(set(anchor))


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
        dict(generator="7"),
        dict(generator=-1),
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


def test_iterable_of_draws_starts_again_when_it_ends():
    p = SAMPLINGS["serial"][0]
    draws = [draw_of((i,), p) for i in (0, 4, 2)]
    x, _, closure = make("svrg", SAMPLINGS["serial"])
    opt = SVRG([x], draws, lr=0.3, generator=np.random.default_rng(0), n=N, inner_steps=5)
    for _ in range(8):
        opt.step(closure)
    played = [draws[t % 3] for t in range(8)]
    pairs = [(np.array(d.idx), d.weight.numpy()) for d in played]
    want = svrg_reference(pairs, lr=0.3, inner=5, decay=0, x=np.linspace(-1, 1, D))
    np.testing.assert_allclose(x.detach(), want, atol=1e-12)


def test_a_batch_sampler_tells_n_and_the_size_of_a_batch():
    rng = np.random.default_rng(0)
    batches = ImportanceBatchSampler(np.full(N, 1 / N), 2, steps=3, generator=rng)
    x, _, closure = make("svrg", SAMPLINGS["nice1"])
    opt = SVRG([x], batches, lr=0.1, generator=rng)
    assert opt.n == N and opt.inner_steps == N / 2
    opt.step(closure)
    assert opt.grad_evals == N + 2 * 2


def test_groups_cannot_be_added_once_started():
    _, opt, closure = make("sarah", SAMPLINGS["nice3"])
    opt.step(closure)
    with pytest.raises(InvalidArgument, match="anchor"):
        opt.add_param_group(dict(params=[nn.Parameter(torch.zeros(1))]))


@pytest.mark.parametrize("method", METHODS)
def test_reaches_the_stationary_point(method, law):
    kw = epochs(method, inner_steps=6)
    x, opt, closure = make(method, law, weight_decay=0.1, x0=np.zeros(D), **kw)
    for _ in range(900):
        opt.step(closure)
    here = x.detach().numpy()
    assert np.linalg.norm(grad_items(here).mean(0) + 0.1 * here) < 1e-8


def lemma_2():
    smoothness = np.linalg.norm(A, axis=1) ** 2
    return IndependentSampling(minibatch_probabilities(smoothness, 2.0))


REAL = dict(
    nice=lambda: NiceSampling(N, 2),
    independent=lambda: IndependentSampling(P),
    approximate=lambda: ApproximateIndependentSampling(P),
    serial=lambda: SerialSampling(P / P.sum()),
    lemma2=lemma_2,
)


@pytest.mark.parametrize("sampling", REAL)
@pytest.mark.parametrize("method", METHODS)
def test_every_sampler_of_the_package_reaches_the_stationary_point(method, sampling):
    "The samplers' own draws and weights, both kinds of generator, resumed half way."
    x = nn.Parameter(torch.zeros(D, dtype=torch.float64))
    closure = loss_closure(x)

    def fresh(seed):
        generator = torch.Generator().manual_seed(seed)
        kw = dict(lr=0.3, weight_decay=0.1, **epochs(method, inner_steps=6))
        return METHODS[method]([x], REAL[sampling](), generator=generator, **kw)

    opt = fresh(0)
    for _ in range(300):
        opt.step(closure)
    again = fresh(9)
    again.load_state_dict(opt.state_dict())
    for _ in range(600):
        again.step(closure)
    here = x.detach().numpy()
    assert np.linalg.norm(grad_items(here).mean(0) + 0.1 * here) < 1e-8
