"""SwitchOn in a real training run: off costs no scores, and replayed decisions give the same run to the last bit."""

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.data import load_mnist01
from impsamp.schemes import GradNorm, Stale, SwitchOn, Uniform, UpperBound
from impsamp.training import train

SPLIT = load_mnist01()
LOSS = nn.CrossEntropyLoss(reduction="none")
PERIOD = dict(every=12, trial=3)


def mlp():
    g, net = (
        torch.Generator().manual_seed(0),
        nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 2)),
    )
    for p in net.parameters():
        nn.init.normal_(p, std=0.05, generator=g)
    return net


def run(scheme, steps=60):
    "(weights, losses along the way, History)"
    net = mlp()

    def evaluate(m):
        with torch.no_grad():
            return {"loss": LOSS(m(SPLIT.x_train), SPLIT.y_train).double().mean().item()}

    history = train(
        net,
        LOSS,
        SPLIT.x_train,
        SPLIT.y_train,
        torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9),
        scheme,
        batch=5,
        steps=steps,
        seed=3,
        evaluate=evaluate,
    )
    return (
        torch.nn.utils.parameters_to_vector(net.parameters()).detach(),
        history.values["loss"].tolist(),
        history,
    )


MAKE = {
    "stale": lambda: Stale("loss"),
    "stale-upper": lambda: Stale("upper"),
    "pool": lambda: UpperBound(pool_size=20),
    "all": lambda: GradNorm(every=3),
}


@pytest.mark.parametrize("name", MAKE)
def test_a_replayed_log_gives_bit_identical_training(name):
    "The first run decides by a clock that goes as it likes; the second has the true clock, and the log through a table of plain numbers."
    rng, time = np.random.default_rng(5), [0.0]

    def clock():
        time[0] += float(rng.lognormal(0, 2))
        return time[0]

    first = SwitchOn(MAKE[name](), clock=clock, **PERIOD)
    weights, losses, history = run(first)
    assert {d.on for d in first.log} == {True, False} and len(first.log) == 5
    again = SwitchOn(MAKE[name](), replay=[tuple(d) for d in first.log], **PERIOD)
    found, curve, repeated = run(again)
    assert (
        torch.equal(found, weights)
        and curve == losses
        and repeated.score_evals == history.score_evals
    )
    assert [d[:3] for d in again.log] == [d[:3] for d in first.log]
    assert [d[3:] for d in again.log] != [d[3:] for d in first.log]  # the clocks did differ
    other = [d._replace(on=not d.on) if k == 1 else d for k, d in enumerate(first.log)]
    assert not torch.equal(run(SwitchOn(MAKE[name](), replay=other, **PERIOD))[0], weights)


@pytest.mark.parametrize(
    "name, trials, more", [("pool", 5 * 3 * 20, 5 * 6 * 20), ("all", 5 * 100, 10 * 100)]
)
def test_while_off_nothing_is_scored(name, trials, more):
    "Five periods of 3 steps on, 3 off and 6 as decided; a pool of 20 at each step on, or 100 items at every third."

    def log(on):
        return [(6 + 12 * k, on, 1.0, 1.0, 1.0) for k in range(5)]

    always, never = (
        run(SwitchOn(MAKE[name](), replay=log(on), **PERIOD))[2].score_evals for on in (True, False)
    )
    assert never == trials and always == trials + more


def test_the_switch_around_uniform_sampling_changes_no_bit():
    s = SwitchOn(
        Uniform(), every=3, trial=1, replay=[(2 + 3 * k, False, 1.0, 1.0, 1.0) for k in range(20)]
    )
    a, b = run(s), run(Uniform())
    assert torch.equal(a[0], b[0]) and a[1] == b[1]
