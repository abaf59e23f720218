"""What a scheme learns from its draws is unbiased although reports come late.

By enumeration of all paths, through the sampler itself."""

import copy
import itertools

import numpy as np
import pytest

import impsamp.samplers.sources
from impsamp.errors import InvalidArgument
from impsamp.samplers import ImportanceBatchSampler
from impsamp.samplers.draws import make_draw
from impsamp.schemes import GradNorm, Loss, Mixture, Stale, SwitchOn, Uniform
from impsamp.theory.convergence import second_moment
from tests.samplers.helpers import rng


class Scripted:
    "Stands in for `InverseCDF`: the draw of step t is item path[t]."

    path = ()
    mass = 1.0  # the probability of the path so far

    def __init__(self, p):
        self.p = p

    def draw(self, size, generator, *, step):
        rows = np.array([self.path[step]])
        Scripted.mass *= self.p[rows[0]]
        return make_draw(rows, self.p[rows], n=self.p.size, batch=1, step=step)


class Watched:
    "Notes what a scheme knew before its last `update`, and which report that was."

    def __init__(self, scheme):
        self.scheme = scheme
        self.learn = scheme.update
        self.before = None
        self.which = None
        self.reports = 0
        scheme.update = self.update

    def update(self, idx, scores, prob=None):
        known = {k: v for k, v in vars(self.scheme).items() if k not in ("update", "draw")}
        self.before = copy.deepcopy(known)
        self.which = self.reports
        self.learn(idx, scores, prob)
        self.reports += 1


def scripted_draws(scheme):
    "In place of `scheme.draw`, from the law by bins that it draws from: item path[t] at step t."
    steps = itertools.count()

    def draw(size, generator):
        p = scheme.bin_probabilities()[scheme.bins]
        drawn = Scripted(p).draw(size, generator, step=next(steps))
        return drawn.idx.numpy(), drawn.prob.numpy()

    scheme.draw = draw


def walk(scheme, g, path, lag, monkeypatch):
    "Run the sampler along `path`, reporting g[t, i]: (mass, what was known before, which report)."
    monkeypatch.setattr(impsamp.samplers.sources, "InverseCDF", Scripted)
    Scripted.path = path
    Scripted.mass = 1.0
    if isinstance(scheme, Stale):
        scripted_draws(scheme)
    watched = Watched(scheme)
    sampler = ImportanceBatchSampler(scheme, 1, steps=len(path), generator=rng(), lag=lag)
    for batch in sampler:
        step = batch.draw.step
        sampler.update(batch, g[step, list(batch)], step=step)
    return Scripted.mass, watched.before, watched.which


def steps_for(lag):
    "So many that the last report applied is of a draw from a law that reports had changed."
    return 3 + 2 * lag


some_lags = pytest.mark.parametrize("n, lag", [(3, 0), (3, 1), (2, 2)])


@some_lags
def test_the_moments_of_stale_are_unbiased_at_any_lag(n, lag, monkeypatch):
    """E of the last update's sums per bin = (1/n) sum over the items then in the bin of (1, g^2).

    Over all n^T paths of T draws."""
    steps = steps_for(lag)
    g = rng(1).lognormal(0, 1.5, (steps, n))
    found = np.zeros((2, 162))
    wanted = np.zeros((2, 162))
    total = 0.0
    laws = set()
    for path in itertools.product(range(n), repeat=steps):
        scheme = Stale("norm", weight=0.9, memory=0.5).init(n)
        mass, before, which = walk(scheme, g, path, lag, monkeypatch)
        assert which == steps - 2 - lag
        total += mass
        found[0] += mass * (scheme.counts - 0.5 * before["evidence"].counts)
        found[1] += mass * (scheme.squares - 0.5 * before["evidence"].squares)
        wanted[0] += mass * np.bincount(before["items"].bins, np.full(n, 1 / n), 162)
        wanted[1] += mass * np.bincount(before["items"].bins, g[which] ** 2 / n, 162)
        laws.add(tuple(scheme.probabilities().round(12)))
    assert abs(total - 1) < 1e-12
    assert len(laws) > 2
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


@some_lags
def test_the_ratio_of_the_switch_is_unbiased_at_any_lag(n, lag, monkeypatch):
    steps = steps_for(lag)
    g = rng(2).lognormal(0, 1.5, (steps, n))
    found = np.zeros(2)
    wanted = np.zeros(2)
    for path in itertools.product(range(n), repeat=steps):
        stale = Stale("norm", weight=0.9, memory=0.5)
        scheme = SwitchOn(stale, every=100, trial=40, memory=0).init(n)
        mass, before, which = walk(scheme, g, path, lag, monkeypatch)
        found += mass * scheme._moments.sums
        wanted[0] += mass * second_moment(before["_moments"].law, g[which])
        wanted[1] += mass * second_moment(np.full(n, 1 / n), g[which])
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def switch_by_trials():
    "On for two calls, then off, by a clock that only counts."
    clock = iter(range(99)).__next__
    return SwitchOn(Mixture(GradNorm(), Uniform()), every=9, trial=2, clock=clock).init(4)


def test_draws_made_while_on_count_also_when_their_report_comes_while_off():
    s = switch_by_trials()
    p = s.probabilities(np.array([1.0, 1.0, 1.0, 5.0]))
    learned = s._moments.sums.copy()
    for _ in range(2):
        s.probabilities(np.ones(4))
    assert not s.on
    s.update([0, 1], [1.0, 1.0])  # no word about the draw: nothing to learn while off
    s.update([0, 1], [1.0, 1.0], np.full(2, 0.25))  # a uniform draw, made while off
    off = s._moments.sums.copy()
    s.update([3], [5.0], p[[3]])
    assert s._moments.sums[1] == pytest.approx(0.9 * off[1] + 25 / (4 * p[3]))
    assert (learned > 0).all()


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda: Stale("loss"), "Stale weighs"),
        (lambda: Mixture(Stale("loss"), Uniform()), "Mixture weighs"),
    ],
    ids=["Stale", "Mixture"],
)
def test_a_report_about_items_that_were_not_drawn(make, word):
    def sampler():
        return ImportanceBatchSampler(make().init(9), 2, steps=3, generator=rng(), lag=1)

    s = sampler()
    batch = next(iter(s))
    with pytest.raises(InvalidArgument, match=word):
        s.update(np.arange(9), np.ones(9))
    assert s._stream.account.seen == -1
    assert not s._stream.account.reports
    s.update(batch[:1], [1.0])
    assert s.state_dict()["step"] == 0
    again = sampler()
    again.load_state_dict(s.state_dict())
    with pytest.warns(RuntimeWarning, match="comes twice, or too late"):
        again.update(batch[:1], [1.0], step=0)
    assert len(again._stream.account.reports) == 1


def test_a_scheme_that_only_remembers_may_hear_of_all_items_at_any_time():
    free = ImportanceBatchSampler(Loss().init(9), 2, steps=3, generator=rng())
    steps = iter(free)
    next(steps)
    free.update(np.arange(9), np.arange(9.0))
    assert 0 not in next(steps)
    assert free._stream.source.law.scores.tolist() == list(range(9))


def test_a_scheme_of_ones_own_need_not_know_about_probabilities():
    class Mine:
        n = 5
        heard = ()

        def probabilities(self):
            return np.full(5, 0.2)

        def update(self, idx, scores):
            self.heard += (tuple(idx),)

    mine = Mine()
    s = ImportanceBatchSampler(mine, 2, steps=3, generator=rng())
    for batch in s:
        s.update(batch, [1.0, 1.0])
    assert len(mine.heard) == 2
    assert all(len(h) == 2 for h in mine.heard)


def test_the_switch_goes_on_learning_after_a_restart_as_if_nothing_had_happened():
    first = switch_by_trials()
    second = switch_by_trials()
    first.probabilities(np.array([1.0, 1.0, 1.0, 5.0]))
    second.load_state_dict(first.state_dict())
    for s in (first, second):
        s.update([3, 0], [4.0, 2.0], [0.3, 0.1])
    assert (first._moments.sums == second._moments.sums).all()
    fresh = switch_by_trials()
    assert fresh.load_state_dict(switch_by_trials().state_dict()) is None
