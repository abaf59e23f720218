"""A campaign of random networks against a plain loop of `.backward()`, one sample at a time.

No wrong number; and hardly any network is refused or left to the loop."""

import copy
import warnings
from collections import Counter

import pytest
import torch

from impsamp.errors import UnsupportedModel
from impsamp.gradnorms import choose_method, grad_norms
from tests.gradnorms.random_models import network

# of the largest norm, by dtype
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1}
SIZES = (5, 8, 1, 8, 13)


def loop(net, x, y):
    "Norms (n,) by one backward pass for each sample; nothing of the package."
    model = copy.deepcopy(net.model)
    norms = []
    for i in range(len(x)):
        model.zero_grad()
        net.loss(model(x[i : i + 1]), y[i : i + 1]).sum().backward()
        grads = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
        norms.append(torch.cat(grads).norm())
    return torch.stack(norms)


def compare(net):
    "Scores batches of several sizes; returns 'ghost', 'vmap', 'loop' or 'refused'."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for n in SIZES:
            x, y = net.batch(n)
            try:
                found = grad_norms(net.model, net.loss, x, y)
            except UnsupportedModel:
                return "refused"
            expected = loop(net, x, y)
            worst = (found - expected).abs().max()
            assert worst <= BOUNDS[net.dtype] * expected.max(), (net.name, n, found, expected)
        methods = set(choose_method(net.model, net.loss, x, y).values())
    if any("slower" in str(w.message) for w in said):
        methods.add("loop")
    return next(m for m in ("loop", "vmap", "ghost") if m in methods)


def campaign(seeds):
    "(reordered or not, what covered it) -> how many; and the names of what was not covered."
    counts = Counter()
    uncovered = []
    for seed in seeds:
        net = network(seed)
        outcome = compare(net)
        counts[net.reordered, outcome] += 1
        if outcome in ("loop", "refused"):
            uncovered.append(f"{outcome}: {net.name}")
    return counts, uncovered


def check(seeds):
    counts, uncovered = campaign(seeds)
    print(counts, *uncovered, sep="\n")
    for reordered in (False, True):
        here = {outcome: k for (kind, outcome), k in counts.items() if kind is reordered}
        lost = here.get("loop", 0) + here.get("refused", 0)
        assert 10 * lost <= sum(here.values()), uncovered


def test_a_short_campaign():
    check(range(24))


@pytest.mark.full
def test_a_long_campaign():
    check(range(24, 344))
