"""What people do around a training step, each beside importance weights: exact where it can be."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

from impsamp import grad_norms, importance_loader, output_scores
from impsamp.schemes import proportional
from tests.samplers.helpers import through_a_file

N = 60
BATCH = 8
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)


def data(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    size = 1 + 4 * torch.rand(N, 1, generator=g, dtype=torch.float64) ** 4
    x = size * torch.randn(N, 5, generator=g, dtype=torch.float64)
    return TensorDataset(x.to(dtype), torch.randint(0, 3, (N,), generator=g))


def network(dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def cross_entropy(output, y):
    return F.cross_entropy(output, y, reduction="none")


def train(
    model,
    loader,
    *,
    passes=2,
    stop=None,
    loss_fn=cross_entropy,
    each=lambda model: None,
    step=None,
    optimizer=None,
):
    "The loop of the docs; `step(optimizer, loss)` in place of the plain one."
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05)
    steps = 0
    for _ in range(passes):
        for (x, y), draw in loader:
            output = model(x)
            losses = loss_fn(output, y)
            loader.update(draw, output_scores(losses, output))
            optimizer.zero_grad()
            if step is None:
                draw.estimate(losses).backward()
                optimizer.step()
            else:
                step(optimizer, draw.estimate(losses))
            each(model)
            steps += 1
            if steps == stop:
                return


def loader_of(scheme="stale", dtype=torch.float64, **options):
    options = {"generator": 0, **options}
    return importance_loader(data(dtype), scheme, BATCH, **options)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def mean_gradient(model, loss_fn=cross_entropy):
    x, y = data().tensors
    return gradient(model, loss_fn(model(x), y).mean())


def expected_gradient(model, p, loss_fn=cross_entropy):
    "E[w_i grad_i] over the draw of one item: every outcome, weighed by its probability."
    x, y = data().tensors
    weight = 1 / (N * p)
    return gradient(model, (p * weight * loss_fn(model(x), y)).sum())


def norms(model, loss_fn=cross_entropy):
    return grad_norms(model, loss_fn, *data().tensors)


# ---- clipping ---------------------------------------------------------------------------------
def test_clipping_sees_the_weighted_estimate():
    model = network()
    (x, y), draw = next(iter(loader_of()))
    whole = gradient(model, draw.estimate(cross_entropy(model(x), y)))
    draw.estimate(cross_entropy(model(x), y)).backward()
    total = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    clipped = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.isclose(total, whole.norm())
    assert torch.allclose(clipped, whole * 0.1 / whole.norm())


def test_with_exact_norms_no_estimate_is_longer_than_the_mean_norm():
    "Each of B draws adds g_i / (B N p_i), of length mean(g) / B: clipping there never acts."
    model = network()
    g = norms(model)
    loader = loader_of(proportional(g.numpy()), steps=40)
    for (x, y), draw in loader:
        estimate = gradient(model, draw.estimate(cross_entropy(model(x), y)))
        assert estimate.norm() <= g.mean() * (1 + 1e-6)


# ---- accumulation -----------------------------------------------------------------------------
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_micro_batches_of_one_draw_add_up_without_a_factor(parts):
    model = network()
    (x, y), draw = next(iter(loader_of()))
    whole = gradient(model, draw.estimate(cross_entropy(model(x), y)))
    chunks = zip(x.chunk(parts), y.chunk(parts), draw.weight.chunk(parts))
    for a, b, w in chunks:
        (w * cross_entropy(model(a), b)).sum().backward()
    assert torch.allclose(torch.cat([p.grad.flatten() for p in model.parameters()]), whole)


def test_several_draws_of_one_step_are_averaged_and_reported_each():
    "k draws of B items, each divided by k, at one p: the estimate of one draw of k B items."
    model = network()
    loader = loader_of(np.full(N, 1 / N), steps=4)
    sums = torch.zeros(flat(model).shape, dtype=torch.float64)
    items = []
    for (x, y), draw in loader:
        (draw.estimate(cross_entropy(model(x), y)) / 4).backward()
        loader.update(draw, torch.ones(BATCH))
        items.append(draw.idx)
    sums = torch.cat([p.grad.flatten() for p in model.parameters()])
    x, y = (t[torch.cat(items)] for t in data().tensors)
    assert torch.allclose(sums, gradient(model, cross_entropy(model(x), y).mean()))
    assert loader.batch_sampler.over == 3


# ---- weight decay, schedules ------------------------------------------------------------------
def test_weight_decay_stays_outside_the_sum():
    model = network()
    before = flat(model)
    (x, y), draw = next(iter(loader_of()))
    estimate = gradient(model, draw.estimate(cross_entropy(model(x), y)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    draw.estimate(cross_entropy(model(x), y)).backward()
    optimizer.step()
    assert torch.allclose(flat(model), before - 0.1 * (estimate + 0.5 * before))


def test_a_schedule_counts_the_steps_of_the_loader():
    model = network()
    loader = loader_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = OneCycleLR(optimizer, max_lr=0.1, total_steps=3 * len(loader))
    train(model, loader, passes=3, optimizer=optimizer, each=lambda _: schedule.step())
    assert schedule.last_epoch == 3 * len(loader) == 24
    with pytest.raises(ValueError, match="Tried to step"):
        schedule.step()


# ---- half precision ---------------------------------------------------------------------------
def test_scores_and_estimate_under_autocast_are_those_of_single_precision_to_two_digits():
    model = network(torch.float32)
    (x, y), draw = next(iter(loader_of(dtype=torch.float32)))
    exact = model(x)
    losses = cross_entropy(exact, y)
    wanted = output_scores(losses, exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x)
        half = cross_entropy(output, y)
    assert output.dtype == torch.bfloat16
    assert torch.allclose(output_scores(half, output), wanted, rtol=0.05, atol=0.01)
    assert torch.isclose(draw.estimate(half), draw.estimate(losses), rtol=0.02)


def test_a_gradient_scaler_changes_nothing_but_the_range():
    "Scores come from the unscaled losses; a step that overflows is skipped, its scores unused."
    plain = network(torch.float32)
    train(plain, loader_of(dtype=torch.float32))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def scaled(optimizer, loss):
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    model = network(torch.float32)
    train(model, loader_of(dtype=torch.float32), step=scaled)
    assert torch.allclose(flat(model), flat(plain), atol=1e-6)


def test_a_batch_that_overflows_is_not_remembered_and_the_scaler_skips_it():
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model = network(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = loader_of("loss", dtype=torch.float32)
    before = flat(model)
    (x, y), draw = next(iter(loader))
    losses = cross_entropy(model(x * float("inf")), y)
    with pytest.warns(RuntimeWarning, match="not finite"):
        loader.update(draw, losses)
    scaler.scale(draw.estimate(losses)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(flat(model), before)
    assert scaler.get_scale() == 2.0
    assert loader.batch_sampler.ignored == 1


# ---- torch.compile ----------------------------------------------------------------------------
def test_a_compiled_model_trains_alike():
    plain = network()
    train(plain, loader_of())
    model = network()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    train(compiled, loader_of())
    assert torch.allclose(flat(model), flat(plain))


# ---- class weights, label smoothing -----------------------------------------------------------
def weighted_smooth(output, y):
    return F.cross_entropy(output, y, weight=CLASS_WEIGHTS, label_smoothing=0.1, reduction="none")


def weighted(output, y):
    return F.cross_entropy(output, y, weight=CLASS_WEIGHTS, reduction="none")


def smooth(output, y):
    return F.cross_entropy(output, y, label_smoothing=0.1, reduction="none")


@pytest.mark.parametrize("loss_fn", [weighted, smooth, weighted_smooth])
def test_class_weights_and_label_smoothing_are_part_of_the_loss(loss_fn):
    "Every outcome of a draw, exactly: the mean of the losses as they are, class weights and all."
    model = network()
    p = proportional(norms(model, loss_fn))
    wanted = mean_gradient(model, loss_fn)
    assert torch.allclose(expected_gradient(model, p, loss_fn), wanted)
    (x, y), draw = next(iter(loader_of()))
    output = model(x)
    losses = loss_fn(output, y)
    (g,) = torch.autograd.grad(losses.sum(), output, retain_graph=True)
    assert torch.allclose(output_scores(losses, output), g.norm(dim=1))


def test_torchs_weighted_mean_divides_by_the_class_weights():
    "Class weights of mean 1 over the data set give its objective."
    model = network()
    x, y = data().tensors
    c = CLASS_WEIGHTS / CLASS_WEIGHTS[y].mean()
    theirs = F.cross_entropy(model(x), y, weight=CLASS_WEIGHTS)
    ours = F.cross_entropy(model(x), y, weight=c, reduction="none").mean()
    assert torch.isclose(theirs, ours)


# ---- averages of the weights ------------------------------------------------------------------
def test_an_average_of_the_weights_is_that_of_its_definition():
    model = network()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    by_hand = []

    def each(model):
        average.update_parameters(model)
        now = flat(model)
        by_hand.append(0.9 * by_hand[-1] + 0.1 * now if by_hand else now)

    train(model, loader_of(), each=each)
    assert torch.allclose(flat(average.module), by_hand[-1])


# ---- resume -----------------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", ["stale", "loss", "shuffle"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_in_mid_epoch_a_training_ends_at_the_same_weights(scheme, workers):
    lag = 5
    whole = network()
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.01)
    train(whole, loader_of(scheme, lag=lag), stop=16, optimizer=optimizer)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = loader_of(scheme, lag=lag, num_workers=workers)
    train(model, loader, stop=5, optimizer=optimizer)
    saved = through_a_file(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "loader": loader.state_dict(),
        }
    )
    model = copy.deepcopy(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = loader_of(scheme, lag=lag, generator=77, num_workers=workers)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    loader.load_state_dict(saved["loader"])
    train(model, loader, stop=11, optimizer=optimizer)
    assert torch.equal(flat(model), flat(whole))
