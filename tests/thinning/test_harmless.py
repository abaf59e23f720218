"""Thinning in the loops that people run: half precision, compiled models, structures, resuming."""

import copy
import warnings
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from impsamp.errors import InvalidArgument, InvalidScores, InvalidShape, UnsupportedModel
from impsamp.thinning import Thinning, VarianceBound, row_scores, skip_zero_rows
from tests.thinning.helpers import cross_entropy, flat_grad, regression

HALF = [torch.bfloat16, torch.float16]


def image_net(repeated=False):
    "A convolution and two layers, in part inside a checkpoint."
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, padding=1)
            self.first = nn.Linear(64, 8)
            self.last = nn.Linear(8, 3)

        def block(self, x):
            return self.first(self.conv(x).relu().flatten(1)).relu()

        def forward(self, x):
            h = checkpoint(self.block, x, use_reentrant=False) if repeated else self.block(x)
            return self.last(h)

    return Net()


X = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def gradients(net, dtype, skipping, x=X):
    net.zero_grad()
    with ExitStack() as stack:
        if dtype is not None:
            stack.enter_context(torch.autocast("cpu", dtype=dtype))
        if skipping:
            stack.enter_context(skip_zero_rows())
        out = net(x)
    cross_entropy(out.float(), Y)[[1, 4]].sum().backward()
    return flat_grad(net).clone()


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("dtype", [None, *HALF])
def test_rows_are_skipped_under_autocast_and_beside_checkpoints(dtype, repeated):
    net = image_net(repeated)
    plain, skipped = (gradients(net, dtype, skipping) for skipping in (False, True))
    assert torch.allclose(plain, skipped, rtol=1e-2 if dtype else 1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", HALF)
def test_skipping_under_autocast_runs_its_own_rule_in_half_precision(dtype):
    with torch.autocast("cpu", dtype=dtype), skip_zero_rows():
        out = nn.Linear(3, 2)(torch.randn(5, 3))
    assert out.dtype == dtype and "_Linear" in type(out.grad_fn).__name__


def test_complex_layers_run_as_they_are():
    net = nn.Linear(3, 2, dtype=torch.complex64)
    x = torch.randn(5, 3, dtype=torch.complex64)
    grads = []
    for skipping in (False, True):
        net.zero_grad()
        with skip_zero_rows() if skipping else ExitStack():
            out = net(x)
        out[[1, 3]].abs().square().sum().backward()
        grads.append(flat_grad(net).clone())
    assert torch.equal(*grads)


@pytest.mark.parametrize(
    ("backend", "audit_every"),
    [
        ("aot_eager", None),
        ("aot_eager", 2),
        ("inductor", 2),  # without an audit from its second step on
        pytest.param("inductor", None, marks=pytest.mark.full),
    ],
)
def test_a_compiled_model_is_thinned_as_it_is(backend, audit_every):
    "The audit of donated buffers is impossible, and given up once with a warning."
    torch.compiler.reset()  # what was compiled before decides when buffers are donated
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(64, 5), torch.randint(0, 3, (64,))
    forward = torch.compile(net, backend=backend)
    bound = VarianceBound(0.1, audit_every=audit_every)
    thinner = Thinning(net.parameters(), bound, generator=0)
    said = []
    for rows in (16, 64, 48, 64):
        net.zero_grad()
        with skip_zero_rows():
            out = forward(x[:rows])
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            draw = thinner.backward(cross_entropy(out, y[:rows]), out)
        said += [w.filename for w in found if "cannot be audited" in str(w.message)]
        want = (draw.weight.float() * cross_entropy(net(x[draw.idx]), y[draw.idx])).sum()
        grads = torch.autograd.grad(want, list(net.parameters()))
        assert torch.allclose(flat_grad(net), torch.cat([g.flatten() for g in grads]), atol=1e-6)
    assert bound.audit_every is None
    assert said == ([__file__] if audit_every else [])


def test_a_loss_that_is_compiled_is_thinned_or_refused_in_a_sentence():
    net, x, y = regression(n=16)
    loss_fn = torch.compile(cross_entropy, backend="aot_eager")
    thinner = Thinning(net.parameters(), 0.5, generator=0)
    out = net(x)
    try:
        thinner.backward(loss_fn(out, y), out)
    except UnsupportedModel as e:
        assert "compile the model" in str(e)
    out = net(x)
    thinner.backward(loss_fn(out, y), scores=np.ones(16))


def scaled_loop(thinned, steps=8, keep=0.5):
    "(scale at the end, loss) of a float16 loop with torch's GradScaler at its default scale."
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    x, y = torch.randn(64, 5), torch.randint(0, 3, (64,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    scaler = torch.amp.GradScaler("cpu")
    thinner = Thinning(net.parameters(), keep, generator=0)
    for _ in range(steps):
        with torch.autocast("cpu", dtype=torch.float16), skip_zero_rows():
            out = net(x)
            losses = cross_entropy(out, y)
        optimizer.zero_grad()
        if thinned:
            thinner.backward(scaler.scale(losses), out)
        else:
            scaler.scale(losses.mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert thinner.ignored == 0
    return scaler.get_scale(), losses.float().mean().item()


@pytest.mark.parametrize("keep", [0.1, 0.5, VarianceBound(0.1)])
def test_the_default_scale_of_a_grad_scaler_stays_as_in_the_plain_loop(keep):
    plain, loss = scaled_loop(thinned=False)
    scale, thinned_loss = scaled_loop(thinned=True, keep=keep)
    assert plain == scale == 2.0**16
    assert thinned_loss < 1.3 * loss


def test_a_batch_that_is_not_finite_goes_backward_whole_with_one_warning():
    net, x, y = regression(n=8)
    x[3] = np.nan
    bound = VarianceBound(0.1)
    thinner = Thinning(net.parameters(), bound, generator=0)
    out = net(x)
    with pytest.warns(RuntimeWarning, match="not finite") as caught:
        draw = thinner.backward(cross_entropy(out, y), out)
    assert [w.filename for w in caught] == [__file__]
    assert draw.idx.tolist() == list(range(8)) and flat_grad(net).isnan().all()
    assert draw.weight.tolist() == [1 / 8] * 8 and bound.step == 0
    out = net(x)
    thinner.backward(cross_entropy(out, y), out)  # no second warning: they are errors here
    assert thinner.ignored == 2
    with pytest.raises(InvalidScores, match="negative"):
        thinner.backward(cross_entropy(net(x), y), scores=-np.ones(8))


@pytest.mark.parametrize("wrap", [tuple, lambda ts: dict(zip("ab", ts))])
def test_outputs_as_models_return_them(wrap):
    net, x, y = regression(n=16)
    draws = []
    for structured in (False, True):
        out = net(x)
        given = wrap([out, x]) if structured else out
        draws.append(
            Thinning(net.parameters(), 0.5, generator=4).backward(cross_entropy(out, y), given)
        )
    assert draws[0].idx.tolist() == draws[1].idx.tolist()
    assert torch.equal(draws[0].weight, draws[1].weight)


def test_samples_on_the_second_axis_are_scored_as_samples():
    net, x, _ = regression(n=4)
    steps = torch.stack([x, 2 * x, 3 * x, 4 * x])  # (T, n, 3) with T = n
    out = net(steps)
    losses = out.square().sum((0, 2)) * torch.arange(1.0, 5)
    scores = row_scores(losses, out)
    want = (2 * out * torch.arange(1.0, 5)[None, :, None]).detach().square().sum((0, 2)).sqrt()
    assert torch.allclose(scores, want)
    thinner = Thinning(net.parameters(), 0.5, floor=0, generator=0)
    draw = thinner.backward(losses, out)
    pi = torch.minimum(torch.ones(4), 2 * want / want.sum())
    assert torch.allclose(draw.prob, pi[draw.idx].double(), rtol=0.2)


def test_a_name_a_function_and_numbers_are_scores():
    net, x, y = regression(n=16)

    def draw(**kw):
        given = kw.pop("given", None)
        out = net(x)
        losses = cross_entropy(out, y)
        return Thinning(net.parameters(), 0.3, generator=1, **kw).backward(losses, scores=given)

    losses = cross_entropy(net(x), y).detach()
    first = draw(scores="loss")
    assert first.idx.tolist() == draw(scores=lambda losses, output: losses.detach()).idx.tolist()
    assert first.idx.tolist() == draw(given=losses).idx.tolist()
    with pytest.raises(InvalidShape, match="16 losses but 3 scores"):
        draw(given=[1.0, 2.0, 3.0])
    with pytest.raises(InvalidArgument, match="output"):
        draw()


def test_an_empty_batch_steps_by_nothing():
    net, x, y = regression(n=4)
    out = net(x[:0])
    draw = Thinning(net.parameters(), 0.5, generator=0).backward(cross_entropy(out, y[:0]), out)
    assert len(draw.idx) == 0 and (flat_grad(net) == 0).all()


def test_parameters_frozen_on_the_way_do_not_stop_the_audits():
    net, x, y = regression(n=16)
    bound = VarianceBound(0.1, audit_every=1)
    thinner = Thinning(net.parameters(), bound, generator=0)
    for frozen in (False, True, False):
        net[0].requires_grad_(not frozen)
        out = net(x)
        thinner.backward(cross_entropy(out, y), out)
    assert len(bound.ratios) == len(bound.signals) == 3


def test_audits_see_sparse_and_complex_gradients():
    table = nn.Embedding(6, 4, sparse=True)
    turn = nn.Parameter(torch.ones(4, dtype=torch.complex64))
    bound = VarianceBound(0.1, audit_every=1, warm_up=9)
    out = (table(torch.arange(6)) * turn).abs()
    Thinning([*table.parameters(), turn], bound, generator=0).backward(out.square().sum(1), out)
    dense = table.weight.grad.to_dense()
    want = dense.square().sum().item() + turn.grad.abs().square().sum().item()
    norms = (2 * out).detach().norm(dim=1)
    assert bound.signal == pytest.approx(want / norms.square().mean().item(), rel=0.2)


def thinner_at_work(keep, generator, steps=7):
    net, x, y = regression(n=16)
    thinner = Thinning(net.parameters(), keep, generator=generator)
    for _ in range(steps):
        net.zero_grad()
        out = net(x)
        thinner.backward(cross_entropy(out, y), out)
    return thinner


def next_draws(thinner):
    net, x, y = regression(n=16)
    thinner.params = list(net.parameters())
    drawn = []
    for _ in range(5):
        out = net(x)
        drawn.append(thinner.backward(cross_entropy(out, y), out).idx.tolist())
    return drawn


@pytest.mark.parametrize(
    "make", [np.random.default_rng, lambda s: torch.Generator().manual_seed(s)]
)
@pytest.mark.parametrize("keep", [lambda: 0.5, lambda: VarianceBound(0.1, audit_every=2)])
def test_a_thinner_resumes_where_it_stopped(make, keep, tmp_path):
    thinner = thinner_at_work(keep(), make(3))
    torch.save(thinner.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    again = thinner_at_work(keep(), make(8), steps=2)
    again.load_state_dict(saved)
    assert next_draws(again) == next_draws(thinner)


@pytest.mark.parametrize(
    "change",
    [
        dict(generator="{}"),
        dict(generator=torch.Generator().get_state()),
        dict(bound=None),
        dict(bound={"eps": 1}),
        dict(ignored=-1),
        dict(ignored="x"),
        dict(other=1),
    ],
)
def test_a_foreign_state_changes_nothing(change):
    thinner = thinner_at_work(VarianceBound(0.1), np.random.default_rng(0))
    other = thinner_at_work(VarianceBound(0.1), np.random.default_rng(1), steps=9)
    before = copy.deepcopy(thinner.state_dict())
    with pytest.raises(InvalidArgument):
        thinner.load_state_dict(other.state_dict() | change)
    assert thinner.state_dict() == before
    with pytest.raises(InvalidArgument, match="another kind of keep"):
        thinner_at_work(0.5, np.random.default_rng(0)).load_state_dict(before)


def test_a_number_of_rows_above_the_last_batch_means_all_of_them():
    net, x, y = regression(n=16)
    thinner = Thinning(net.parameters(), 12, generator=0)
    for rows in (16, 5):
        out = net(x[:rows])
        draw = thinner.backward(cross_entropy(out, y[:rows]), out)
    assert draw.idx.tolist() == list(range(5))


@pytest.mark.parametrize("kind", ["keywords", "sparse weight", "nested", "one sample"])
def test_layers_called_in_unusual_ways_give_plain_gradients(kind):
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = torch.randn(4, 3)

    def forward():
        if kind == "keywords":
            return nn.functional.linear(input=x, weight=weight, bias=None)
        if kind == "sparse weight":
            return nn.functional.linear(x, weight.to_sparse())
        if kind == "nested":
            rows = torch.nested.nested_tensor([x[:1], x[1:]], layout=torch.jagged)
            return nn.functional.linear(rows, weight).values()
        return nn.functional.linear(x[0], weight)[None]

    grads = []
    for skipping in (False, True):
        with skip_zero_rows() if skipping else ExitStack():
            out = forward()
        grads.append(torch.autograd.grad(out[-1:].exp().sum(), weight)[0].to_dense())
    assert torch.allclose(*grads)
