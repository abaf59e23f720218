"""Does the package do on a CUDA device what it does on a CPU? Builds nothing, takes minutes.

    python examples/cuda_check.py                   `make cuda` runs this
    python examples/cuda_check.py --device cpu      the same checks where there is no device

Norms against one backward pass per sample, also where a model reorders its batch; samplers with
tensors of the device; a loader with pinned memory; thinning, with float16 and a GradScaler; the
torch optimizers against the CPU; what a step costs. Ends with status 0 if all is well, 1 if a check
failed, 2 if the minutes ran out, 3 if there is no device.
"""

import argparse
import contextlib
import copy
import sys
import time
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from impsamp import (
    SAGA,
    SARAH,
    SVRG,
    AliasTable,
    ImportanceBatchSampler,
    IndependentSampling,
    NiceSampling,
    ScalarAdam,
    ScalarRMSprop,
    Stale,
    SumTree,
    Thinning,
    VarianceBound,
    WithDraw,
    grad_norms,
    importance_weights,
    inverse_cdf,
    loss_scores,
    skip_zero_rows,
    thin,
    upper_bound_scores,
)
from impsamp.errors import UnsupportedModel

NO_DEVICE = 3
OUT_OF_TIME = 2
loss_fn = nn.CrossEntropyLoss(reduction="none")


def require(ok, what):
    if not ok:
        raise AssertionError(what)


def relative(found, right):
    "Largest difference, relative to the largest number."
    found, right = found.double().cpu(), right.double().cpu()
    return ((found - right).abs().max() / right.abs().max().clamp_min(1e-300)).item()


# Models


def mlp(inputs=20):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 4))


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Flatten(),
        nn.Linear(72, 4),
    )


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)).mean(1))


class Reordered(nn.Module):
    "Sorts its batch, runs a layer, and undoes the sorting."

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(20, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        order = x[:, 0].argsort()
        return self.last(self.first(x[order]).relu()[order.argsort()])


def numbers(*shape):
    return partial(torch.randn, *shape)


def words(*shape):
    return partial(torch.randint, 0, 30, shape)


# name -> (model, its input); the last may be refused, but not answered wrongly
MODELS = {
    "mlp": (mlp, numbers(32, 20)),
    "cnn, group norm": (cnn, numbers(32, 3, 8, 8)),
    "transformer": (Transformer, words(32, 6)),
    "reordered": (Reordered, numbers(32, 20)),
}


def case(name, device):
    "(model, x, y) from one seed, on the device."
    torch.manual_seed(0)
    build, draw = MODELS[name]
    model, x = build().to(device), draw().to(device)
    return model, x, torch.randint(0, 4, (len(x),)).to(device)


# Checks: each takes the device, raises AssertionError where something is wrong, returns a remark


def one_by_one(model, x, y):
    "Norms by plain backward passes, one sample at a time."
    norms = []
    for i in range(len(x)):
        model.zero_grad()
        loss_fn(model(x[i : i + 1]), y[i : i + 1]).sum().backward()
        squares = [p.grad.double().square().sum() for p in model.parameters()]
        norms.append(torch.stack(squares).sum().sqrt())
    model.zero_grad()
    return torch.stack(norms)


@contextlib.contextmanager
def exact_products():
    "Without TensorFloat-32, so that two ways of summing differ by rounding alone."
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def norms(device):
    remarks = []
    for name in MODELS:
        model, x, y = case(name, device)
        with exact_products():
            right = one_by_one(model, x, y)
            try:
                found = grad_norms(model, loss_fn, x, y)
            except UnsupportedModel:
                require(name == "reordered", f"{name} is refused")
                remarks.append(f"{name} refused")
                continue
        error = relative(found, right)
        require(error < 1e-4, f"{name}: norms are off by {error:.1e}")
        require(found.device.type == device.type, f"{name}: norms came back on {found.device}")
        as_set = relative(grad_norms(model, loss_fn, x, y), right)
        require(as_set < 1e-2, f"{name}: norms under the machine's settings off by {as_set:.1e}")
        remarks.append(f"{name} {error:.0e}")
    return ", ".join(remarks)


def every_batch_is_proved(device):
    "Twenty batches of one shape through a cached plan, in another order each time."
    model, x, y = case("reordered", device)
    worst = 0.0
    with exact_products():
        for seed in range(20):
            rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(device)
            try:
                found = grad_norms(model, loss_fn, x[rows], y[rows])
            except UnsupportedModel:
                return "refused"
            worst = max(worst, relative(found, one_by_one(model, x[rows], y[rows])))
    require(worst < 1e-4, f"a reordered batch is off by {worst:.1e}")
    return f"worst of 20 reordered batches {worst:.0e}"


def cheap_scores(device):
    model, x, y = case("mlp", device)
    losses = loss_fn(model(x), y).detach()
    require(relative(loss_scores(model, loss_fn, x, y), losses) < 1e-5, "losses differ")
    out = model(x).detach()
    right = (out.softmax(1) - nn.functional.one_hot(y, 4)).norm(dim=1)
    error = relative(upper_bound_scores(model, loss_fn, x, y), right)
    require(error < 1e-4, f"upper bounds are off by {error:.1e}")
    return f"upper bounds {error:.0e}"


def frequencies(idx, p):
    "sqrt of the chi-square statistic over its degrees of freedom: near 1 where idx follows p."
    count = torch.bincount(idx.cpu(), minlength=len(p)).double()
    expected = len(idx) * p.double().cpu()
    return ((count - expected).square() / expected).sum().div(len(p) - 1).sqrt().item()


def samplers(device):
    p = torch.arange(1.0, 101.0, dtype=torch.float64, device=device)
    p = p / p.sum()
    generator = torch.Generator(device).manual_seed(0)
    size = 100_000
    worst = 0.0
    for kind in (AliasTable, SumTree):
        draw = kind(p).draw(size, generator)
        worst = max(worst, frequencies(torch.as_tensor(draw.idx), p))
        mean = float(torch.as_tensor(draw.weight).sum())
        require(abs(mean - 1) < 0.05, f"{kind.__name__}: weights sum to {mean:.3f}, not 1")
    points = torch.rand(size, dtype=torch.float64, device=device, generator=generator)
    idx = torch.as_tensor(inverse_cdf(p, points))
    worst = max(worst, frequencies(idx, p))
    require(worst < 1.5, f"draws do not follow p: {worst:.2f}")
    weight = torch.as_tensor(importance_weights(p, idx.to(device), batch=size))
    require(abs(float(weight.sum()) - 1) < 0.05, "importance weights do not sum to 1")
    for sampling in (NiceSampling(100, 5), IndependentSampling(p * 5)):
        sizes = [len(sampling.draw(generator).idx) for _ in range(400)]
        require(abs(np.mean(sizes) - 5) < 0.5, f"{type(sampling).__name__}: {np.mean(sizes)} items")
    kept = thin(p, 10, generator=generator)
    require(kept.idx.device.type == device.type, "thin left the device")
    return f"sqrt(chi2/df) at most {worst:.2f}"


def loader_run(device, pin, workers):
    "(items of all draws, losses): a training whose loader pins its batches or does not."
    model, _, _ = case("mlp", device)
    g = torch.Generator().manual_seed(1)
    data = WithDraw(TensorDataset(torch.randn(200, 20, generator=g), torch.arange(200) % 4))
    sampler = ImportanceBatchSampler(
        Stale("loss").init(200), 16, steps=30, generator=np.random.default_rng(0), lag=4
    )
    loader = DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=data.collate,
        pin_memory=pin,
        num_workers=workers,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    items = []
    for (x, y), draw in loader:
        require(not pin or x.is_pinned(), "the batch is not pinned")
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        losses = loss_fn(model(x), y)
        optimizer.zero_grad()
        (draw.weight.to(losses) * losses).sum().backward()
        optimizer.step()
        sampler.update(draw.idx, losses.detach())
        items.append(torch.as_tensor(draw.idx).tolist())
    return items


def loader(device):
    plain = loader_run(device, pin=False, workers=0)
    pinned = loader_run(device, pin=device.type == "cuda", workers=2)
    require(len(plain) == len(pinned) == 30, "an epoch is not of 30 steps")
    # scores are made of losses, which a device need not sum in the same order twice
    alike = np.mean([a == b for a, b in zip(plain, pinned)])
    require(plain[:5] == pinned[:5], "the first draws, before any report counts, differ")
    return f"{alike:.0%} of the draws equal, workers and pinning or not"


def flat(model):
    return torch.cat([p.grad.double().flatten() for p in model.parameters()])


def thinning(device):
    "The mean of 600 thinned gradients is the gradient; rows that are skipped change nothing."
    model, x, y = case("cnn, group norm", device)
    loss_fn(model(x), y).mean().backward()
    full = flat(model)
    thinner = Thinning(model.parameters(), 0.5, generator=0)
    found = []
    for _ in range(600):
        model.zero_grad()
        with skip_zero_rows():
            out = model(x)
        thinner.backward(loss_fn(out, y), out)
        found.append(flat(model))
    estimates = torch.stack(found)
    error = (estimates.mean(0) - full).norm()
    expected = (estimates - full).square().sum(1).mean().div(600).sqrt()
    require(error < 2 * expected, f"bias: {error / expected:.2f} standard errors")
    return f"error {error / expected:.2f} of what 600 draws explain"


def half_precision(device):
    "float16 with torch's GradScaler at its default scale, thinned and plain."
    scales = []
    for thinned in (False, True):
        model, x, y = case("mlp", device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler(device.type)
        thinner = Thinning(model.parameters(), VarianceBound(0.1), generator=0)
        for _ in range(20):
            with torch.autocast(device.type, dtype=torch.float16), skip_zero_rows():
                out = model(x)
                losses = loss_fn(out, y)
            optimizer.zero_grad()
            if thinned:
                thinner.backward(scaler.scale(losses), out)
            else:
                scaler.scale(losses.mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        scales.append(scaler.get_scale())
    require(scales[0] == scales[1], f"the scale fell from {scales[0]} to {scales[1]}")
    return f"scale {scales[1]:.0f} in both loops"


def scalar_run(kind, device):
    torch.manual_seed(0)
    model = mlp().to(device)
    x, y = torch.randn(64, 20).to(device), (torch.arange(64) % 4).to(device)
    optimizer = kind(model.parameters(), lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        loss_fn(model(x), y).mean().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def reduced_run(kind, device, resumed=False):
    torch.manual_seed(0)
    model = mlp().to(device)
    x, y = torch.randn(64, 20).to(device), (torch.arange(64) % 4).to(device)

    def closure(idx, weight):
        losses = loss_fn(model(x[idx]), y[idx])
        return (weight.to(losses) * losses).sum()

    optimizer = kind(model.parameters(), NiceSampling(64, 8), lr=0.05, generator=0)
    for t in range(20):
        if resumed and t == 11:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = kind(model.parameters(), NiceSampling(64, 8), lr=0.05, generator=9)
            optimizer.load_state_dict(saved)
        optimizer.step(closure)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def optimizers(device):
    worst = 0.0
    with exact_products():
        for kind in (ScalarRMSprop, ScalarAdam):
            there, here = (scalar_run(kind, d) for d in (device, torch.device("cpu")))
            worst = max(worst, relative(there, here))
        for kind in (SVRG, SARAH, SAGA):
            there, here = (reduced_run(kind, d) for d in (device, torch.device("cpu")))
            worst = max(worst, relative(there, here))
            again = relative(reduced_run(kind, device, resumed=True), there)
            require(again < 1e-4, f"{kind.__name__}: a resumed run is off by {again:.1e}")
    require(worst < 1e-3, f"runs on device and CPU differ by {worst:.1e}")
    return f"device and CPU differ by at most {worst:.0e}"


def seconds(device, run):
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def cost(device, rounds=15):
    "Medians of interleaved rounds, as ratios to a plain forward and backward pass."
    torch.manual_seed(0)
    wide = [nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4)]
    model = nn.Sequential(*wide).to(device)
    x, y = torch.randn(512, 256).to(device), (torch.arange(512) % 4).to(device)
    thinner = Thinning(model.parameters(), 0.2, generator=0)

    def thinned():
        with skip_zero_rows():
            out = model(x)
        thinner.backward(loss_fn(out, y), out)

    runs = {
        "plain": lambda: loss_fn(model(x), y).mean().backward(),
        "norms": lambda: grad_norms(model, loss_fn, x, y),
        "upper bounds": lambda: upper_bound_scores(model, loss_fn, x, y),
        "thinned to a fifth": thinned,
    }
    taken = {name: [] for name in runs}
    for r in range(rounds + 2):
        for name, run in runs.items():
            spent = seconds(device, run)
            if r >= 2:
                taken[name].append(spent)
    plain = median(taken["plain"])
    ratios = [f"{name} {median(t) / plain:.2f}" for name, t in taken.items() if name != "plain"]
    return f"plain {1e3 * plain:.2f} ms; in plain passes: {', '.join(ratios)}"


CHECKS = (
    norms,
    every_batch_is_proved,
    cheap_scores,
    samplers,
    loader,
    thinning,
    half_precision,
    optimizers,
    cost,
)


def run_all(device, minutes):
    "Prints a line per check; the status to end with."
    until = time.perf_counter() + 60 * minutes
    status = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        if time.perf_counter() > until:
            print(f"left out  {name}: {minutes} minutes are over")
            status = status or OUT_OF_TIME
            continue
        start = time.perf_counter()
        try:
            verdict, remark = "ok      ", check(device)
        except Exception as e:  # every check is to be heard
            verdict, remark = "FAILED  ", f"{type(e).__name__}: {e}"
            status = 1
        print(f"{verdict}  {name}: {remark} ({time.perf_counter() - start:.1f} s)", flush=True)
    return status


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing was checked (--device cpu runs the checks without one)")
        return NO_DEVICE
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"torch {torch.__version__} on {name}")
    return run_all(device, options.minutes)


if __name__ == "__main__":
    sys.exit(main())
