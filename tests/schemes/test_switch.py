"""SwitchOn: decisions by measured ratio and time, repeated to the last bit in a training run."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from impsamp.assess.predicting import time_ratio
from impsamp.data import load_mnist01
from impsamp.errors import InvalidArgument
from impsamp.schemes import GradNorm, Loss, Stale, SwitchOn, Uniform, UpperBound
from impsamp.schemes.switch import _price
from impsamp.training import train
from tests.schemes.helpers import uniform_ratio

FEW_LARGE = np.array([0.1] * 90 + [5.0] * 10)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SwitchOn(Loss(), margin=0.5),
        lambda: SwitchOn(Loss(), every=10, trial=5),
        lambda: SwitchOn(Loss(), noise=0),
        lambda: SwitchOn(Loss(), noise=float("nan")),
        lambda: SwitchOn(Loss(), backoff=0),
    ],
)
def test_bad_settings(build):
    with pytest.raises(InvalidArgument):
        build()


def rides(scheme, g, seconds, steps):
    """Run a switch on scores `g`, with `seconds(on)` per step on its clock.

    Returns which steps were on."""
    time = [0.0]
    on = []
    scheme.clock = lambda: time[0]
    scheme.init(len(g))
    for _ in range(steps):
        due = scheme.due()
        time[0] += seconds(scheme.on)
        scheme.probabilities(g if due else None)
        on.append(scheme.on)
    return on


@pytest.mark.parametrize("slower, stays", [(1.5, True), (10.0, False)])
def test_the_switch_weighs_measured_ratio_against_measured_time(slower, stays):
    g = FEW_LARGE
    ratio = uniform_ratio(g / g.sum(), g)
    assert slower * ratio < 1 if stays else slower * ratio > 1
    s = SwitchOn(GradNorm(), every=20, trial=3, noise=np.inf, backoff=1)
    on = rides(s, g, lambda on: slower if on else 1.0, 60)
    assert on[:6] == [True] * 3 + [False] * 3
    assert on[6:20] == [stays] * 14
    assert [d.on for d in s.log] == [stays] * 3
    assert np.isclose(s.log[0].ratio, ratio)
    assert s.log[0].seconds_on == slower
    assert s.log[0].seconds_off == 1.0


# FEW_LARGE has the moments ratio 0.139: the price of noise q at cost c is c (1 + 0.139 q)/(1 + q)
@pytest.mark.parametrize(
    "noise, cost, stays",
    [
        (np.inf, 2.9, True),  # 0.40: noise alone counts
        (1.0, 2.9, False),  # 1.65: a pool at 2.9 times the cost saves at most half of the steps
        (1.0, 1.1, True),  # 0.63: what is nearly free
        (0.01, 1.1, False),  # 1.09: hardly any noise, hardly any step saved
    ],
)
def test_a_scheme_that_saves_fewer_steps_than_it_costs_time_stays_off(noise, cost, stays):
    s = SwitchOn(GradNorm(), every=20, trial=3, noise=noise)
    rides(s, FEW_LARGE, lambda on: cost if on else 1.0, 60)
    assert {d.on for d in s.log} == {stays}
    rho = uniform_ratio(FEW_LARGE / FEW_LARGE.sum(), FEW_LARGE)
    price = time_ratio(rho, cost, noise)
    assert np.isclose(_price(s.log[-1].ratio, cost, 1.0, noise), price)
    assert (price < 1) == stays


def decisions(costs, **settings):
    "What a switch around GradNorm decides where a step on takes `costs[k]` in period k."
    s = SwitchOn(GradNorm(), every=20, trial=3, noise=np.inf, backoff=1, **settings)
    time = [0.0]
    s.clock = lambda: time[0]
    s.init(FEW_LARGE.size)
    for step in range(20 * len(costs)):
        due = s.due()
        time[0] += costs[step // 20] if s.on else 1.0
        s.probabilities(FEW_LARGE if due else None)
    return [d.on for d in s.log]


def test_hysteresis_keeps_a_wavering_price_from_switching():
    "Prices around break-even; of the last five, four must be below .91 to come on, three below 1."
    even = 1 / uniform_ratio(FEW_LARGE / FEW_LARGE.sum(), FEW_LARGE)
    prices = [0.95] + [0.85] * 4 + [0.97] * 2 + [1.2] * 3 + [0.97] * 4
    waver = [even * x for x in prices]
    on = decisions(waver, margin=1.1)
    # on with the fourth .85; stays on at .97 and while 1.2 is not the median; then .97 will not do
    assert on == [False] * 4 + [True] * 5 + [False] * 5
    assert decisions(waver, margin=1.0)[-1] is True  # without a margin .97 would do


def test_a_scheme_that_does_not_pay_is_looked_at_less_and_less():
    s = SwitchOn(GradNorm(), every=20, trial=3, backoff=4)
    on = rides(s, np.ones(10), lambda on: 2.0 if on else 1.0, 20 * 30)
    assert [d.step for d in s.log[:6]] == [6, 46, 126, 206, 286, 366]
    assert sum(on) == 3 * len(s.log)
    s = SwitchOn(GradNorm(), every=20, trial=3, backoff=4)
    rides(s, FEW_LARGE, lambda on: 1.0, 100)
    assert [d.step for d in s.log] == [6, 26, 46, 66, 86]


def test_a_log_with_long_periods_is_replayed_and_resumed():
    def fresh(replay=None):
        return SwitchOn(GradNorm(), every=20, trial=3, backoff=4, replay=replay)

    first = fresh()
    on = rides(first, np.ones(10), lambda on: 2.0 if on else 1.0, 300)
    again = fresh(replay=first.log)
    assert rides(again, np.ones(10), lambda on: 0.1 if on else 1.0, 300) == on
    half = fresh()
    begin = rides(half, np.ones(10), lambda on: 2.0 if on else 1.0, 60)
    state = half.state_dict()
    resumed = fresh().init(10)
    resumed.load_state_dict(state)
    time = [0.0]
    resumed.clock = lambda: time[0]
    for _ in range(240):
        due = resumed.due()
        time[0] += 2.0 if resumed.on else 1.0
        resumed.probabilities(np.ones(10) if due else None)
        begin.append(resumed.on)
    assert begin == on
    foreign = {k: v for k, v in state.items() if k != "period"}
    with pytest.raises(InvalidArgument, match="period"):
        fresh().init(10).load_state_dict(foreign)


def test_the_switch_asks_for_no_scores_while_off_and_draws_uniformly():
    s = SwitchOn(GradNorm(), every=20, trial=2)
    rides(s, np.ones(10), lambda on: 2.0 if on else 1.0, 10)
    asked = []
    for _ in range(5):
        asked.append(s.due())
        assert (s.probabilities() == 0.1).all()
    assert not any(asked)


def test_replayed_decisions_ignore_the_clock():
    g = FEW_LARGE
    rng = np.random.default_rng(0)
    first = SwitchOn(GradNorm(), every=20, trial=3)
    on = rides(first, g, lambda on: rng.random() + on, 100)
    again = SwitchOn(GradNorm(), every=20, trial=3, replay=first.log)
    assert rides(again, g, lambda on: 100.0 * rng.random(), 100) == on
    assert [d.on for d in again.log] == [d.on for d in first.log]
    with pytest.raises(InvalidArgument, match="replayed log"):
        rides(again, g, lambda on: 1.0, 400)


def test_the_switch_estimates_the_ratio_from_its_own_draws():
    n = 500
    rng = np.random.default_rng(0)
    g = rng.lognormal(0, 1, n)
    s = SwitchOn(Stale("norm", weight=0.9), every=2000, trial=900, memory=0.998).init(n)
    for _ in range(900):
        s.due()
        p = s.probabilities()
        idx = rng.choice(n, 20, p=p)
        s.update(idx, g[idx], p[idx])
    true = uniform_ratio(p, g)
    assert abs(s.ratio() - true) < 0.1 * true and true < 0.6


def test_first_scores_before_any_draw_are_remembered_and_prove_nothing():
    s = SwitchOn(Loss()).init(3)
    s.update([0, 1, 2], [1.0, 2.0, 5.0])
    assert np.isnan(s.ratio())
    assert np.allclose(s.probabilities(), [1 / 8, 2 / 8, 5 / 8])


# In a real training run: off costs no scores, and replayed decisions give the same run
SPLIT = load_mnist01()
LOSS = nn.CrossEntropyLoss(reduction="none")
PERIOD = dict(every=12, trial=3)


def mlp():
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 2))
    for p in net.parameters():
        nn.init.normal_(p, std=0.05, generator=g)
    return net


def evaluate(model):
    with torch.no_grad():
        losses = LOSS(model(SPLIT.x_train), SPLIT.y_train)
    return {"loss": losses.double().mean().item()}


def run(scheme, steps=60):
    "(weights, losses along the way, History)"
    net = mlp()
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
    weights = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    return weights, history.values["loss"].tolist(), history


MAKE = {
    "stale": lambda: Stale("loss"),
    "stale-upper": lambda: Stale("upper"),
    "pool": lambda: UpperBound(pool_size=20),
    "all": lambda: GradNorm(every=3),
}


def whimsical():
    "A clock that goes as it likes."
    rng = np.random.default_rng(5)
    time = [0.0]

    def clock():
        time[0] += float(rng.lognormal(0, 2))
        return time[0]

    return clock


@pytest.mark.parametrize("name", MAKE)
def test_a_replayed_log_gives_bit_identical_training(name):
    """The first run decides by a whimsical clock.

    The second has the true clock, and the log through a table of plain numbers."""
    rule = dict(noise=np.inf, margin=1, backoff=1)
    first = SwitchOn(MAKE[name](), clock=whimsical(), **rule, **PERIOD)
    weights, losses, history = run(first)
    assert {d.on for d in first.log} == {True, False} and len(first.log) == 5
    again = SwitchOn(MAKE[name](), replay=[tuple(d) for d in first.log], **PERIOD)
    found, curve, repeated = run(again)
    assert torch.equal(found, weights)
    assert curve == losses
    assert repeated.score_evals == history.score_evals
    assert [d[:3] for d in again.log] == [d[:3] for d in first.log]
    assert [d[3:] for d in again.log] != [d[3:] for d in first.log]  # the clocks did differ
    other = [d._replace(on=not d.on) if k == 1 else d for k, d in enumerate(first.log)]
    assert not torch.equal(run(SwitchOn(MAKE[name](), replay=other, **PERIOD))[0], weights)


def scored(name, on):
    "Items scored in a run whose five decisions are all `on`."
    log = [(6 + 12 * k, on, 1.0, 1.0, 1.0) for k in range(5)]
    return run(SwitchOn(MAKE[name](), replay=log, **PERIOD))[2].score_evals


@pytest.mark.parametrize(
    "name, trials, more", [("pool", 5 * 3 * 20, 5 * 6 * 20), ("all", 5 * 100, 10 * 100)]
)
def test_while_off_nothing_is_scored(name, trials, more):
    """Five periods of 3 steps on, 3 off and 6 as decided.

    A pool of 20 at each step on, or 100 items at every third."""
    assert scored(name, on=False) == trials
    assert scored(name, on=True) == trials + more


def test_the_switch_around_uniform_sampling_changes_no_bit():
    log = [(2 + 3 * k, False, 1.0, 1.0, 1.0) for k in range(20)]
    switched = run(SwitchOn(Uniform(), every=3, trial=1, replay=log))
    plain = run(Uniform())
    assert torch.equal(switched[0], plain[0]) and switched[1] == plain[1]


def test_what_was_measured_on_mnist_would_be_decided_otherwise_now():
    """The committed log of experiments/switch_on: by moments alone the pool stayed on.

    It took 2.9 times the time of a step and saved hardly any; remembered losses stay on."""
    root = Path(__file__).parents[2]
    on = {"remembered loss": [], "bound over a pool": []}
    last = {}
    with (root / "data/timings/switch_on.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            run = row["scheme"], row["seed"]
            measured = [float(row[name]) for name in ("ratio", "seconds_on", "seconds_off")]
            last[run] = _price(*measured, 1.0) < (1 if last.get(run) else 1 / 1.1)
            on[row["scheme"]].append(last[run])
    assert sum(on["bound over a pool"]) == 0 and len(on["bound over a pool"]) == 30
    assert sum(on["remembered loss"]) == 21


@pytest.mark.parametrize("disturbed, comes_on", [(0, True), (1, True), (2, False)])
def test_pairs_that_disagree_leave_it_off(disturbed, comes_on):
    "Five pairs of 1.2, of which some were measured at 60: off stays off, on stays on."
    from impsamp.schemes.switch import SwitchRule

    rule = SwitchRule()
    costs = [60.0] * disturbed + [1.2] * (5 - disturbed)
    assert rule.elects(0.1, costs, was_on=False) is comes_on
    assert rule.elects(0.1, costs, was_on=True)
    assert not rule.elects(0.1, [60.0] * 3 + [1.2] * 2, was_on=True)


def test_an_idle_wait_does_not_count_as_cost():
    "By default the clock is the processor's: a step that sleeps is not dearer."
    import time

    scheme = SwitchOn(GradNorm(), every=20, trial=5).init(4)
    for _ in range(11):
        due = scheme.due()
        if due:
            time.sleep(0.004)
        scheme.probabilities([0.1, 0.1, 0.1, 5.0] if due else None)
    assert scheme.log[0].seconds_on < 0.004
    assert SwitchOn(GradNorm(), clock=time.perf_counter).clock is time.perf_counter
    assert "clock" not in repr(scheme)
