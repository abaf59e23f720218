"""What a scheme learns from its draws is unbiased although the reports come late: by enumeration of all paths, through the sampler itself."""

import copy
import itertools

import numpy as np
import pytest

import impsamp.samplers.loader
from impsamp.errors import InvalidArgument
from impsamp.samplers import ImportanceBatchSampler
from impsamp.samplers.draws import make_draw
from impsamp.schemes import GradNorm, Loss, Mixture, Stale, SwitchOn, Uniform
from impsamp.theory.convergence import second_moment


class Scripted:
    "Stands in for `InverseCDF`: the draw of step t is item path[t]; `mass` is the probability of the path so far."

    path, mass = (), 1.0

    def __init__(self, p):
        self.p = p

    def draw(self, size, generator, *, step):
        rows = np.array([self.path[step]])
        Scripted.mass *= self.p[rows[0]]
        return make_draw(rows, self.p[rows], n=self.p.size, batch=1, step=step)


def walk(scheme, g, path, lag, monkeypatch):
    "Run the sampler along `path`; reports g[t, i]. Returns (mass, attributes of the scheme before its last `update`, which report that was)."
    monkeypatch.setattr(impsamp.samplers.loader, "InverseCDF", Scripted)
    Scripted.path, Scripted.mass, seen, update = path, 1.0, {}, scheme.update

    def watched(idx, scores, prob=None):
        seen["before"] = (
            copy.deepcopy({k: v for k, v in vars(scheme).items() if k != "update"}),
            len(reports),
        )
        update(idx, scores, prob)
        reports.append(idx)

    reports, scheme.update = [], watched
    sampler = ImportanceBatchSampler(
        scheme, 1, steps=len(path), generator=np.random.default_rng(0), lag=lag
    )
    for batch in sampler:
        sampler.update(batch, g[batch.draw.step, list(batch)], step=batch.draw.step)
    return Scripted.mass, *seen["before"]


@pytest.mark.parametrize("n, lag", [(3, 0), (3, 1), (2, 2)])
def test_the_moments_of_stale_are_unbiased_at_any_lag(n, lag, monkeypatch):
    "E of the last update's sums per bin = (1/n) sum over the items then in the bin of (1, g^2), over all n^T paths of T draws."
    steps = (
        3 + 2 * lag
    )  # so that the last report applied is of a draw from a law that reports had changed
    g = np.random.default_rng(1).lognormal(0, 1.5, (steps, n))
    found, wanted, total, laws = np.zeros((2, 162)), np.zeros((2, 162)), 0.0, set()
    for path in itertools.product(range(n), repeat=steps):
        scheme = Stale("norm", weight=0.9, memory=0.5).init(n)
        mass, before, which = walk(scheme, g, path, lag, monkeypatch)
        assert which == steps - 2 - lag
        total += mass
        found += mass * np.array(
            [scheme.counts - 0.5 * before["counts"], scheme.squares - 0.5 * before["squares"]]
        )
        wanted += mass * np.array(
            [np.bincount(before["bins"], w, 162) for w in (np.full(n, 1 / n), g[which] ** 2 / n)]
        )
        laws.add(tuple(scheme._last.round(12)))
    assert abs(total - 1) < 1e-12 and len(laws) > 2
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n, lag", [(3, 0), (3, 1), (2, 2)])
def test_the_ratio_of_the_switch_is_unbiased_at_any_lag(n, lag, monkeypatch):
    steps = 3 + 2 * lag
    g = np.random.default_rng(2).lognormal(0, 1.5, (steps, n))
    found, wanted = np.zeros(2), np.zeros(2)
    for path in itertools.product(range(n), repeat=steps):
        scheme = SwitchOn(
            Stale("norm", weight=0.9, memory=0.5), every=100, trial=40, memory=0
        ).init(n)
        mass, before, which = walk(scheme, g, path, lag, monkeypatch)
        found += mass * scheme._moments
        wanted += mass * np.array(
            [second_moment(before["_law"], g[which]), second_moment(np.full(n, 1 / n), g[which])]
        )
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_draws_made_while_on_count_also_when_their_report_comes_while_off():
    s = SwitchOn(
        Mixture(GradNorm(), Uniform()), every=9, trial=2, clock=iter(range(99)).__next__
    ).init(4)
    p = s.probabilities(np.array([1.0, 1.0, 1.0, 5.0]))
    learned = s._moments.copy()
    for _ in range(2):
        s.probabilities(np.ones(4))
    assert not s.on
    s.update([0, 1], [1.0, 1.0])  # no word about the draw: nothing to learn while off
    s.update([0, 1], [1.0, 1.0], np.full(2, 0.25))  # a uniform draw, made while off
    off = s._moments.copy()
    s.update([3], [5.0], p[[3]])
    assert s._moments[1] == pytest.approx(0.9 * off[1] + 25 / (4 * p[3])) and (learned > 0).all()


def test_a_report_about_items_that_were_not_drawn():
    rng = np.random.default_rng
    for scheme, word in (
        (Stale("loss"), "Stale weighs"),
        (Mixture(Stale("loss"), Uniform()), "Mixture weighs"),
    ):
        s = ImportanceBatchSampler(scheme.init(9), 2, steps=3, generator=rng(0), lag=1)
        batch = next(iter(s))
        with pytest.raises(InvalidArgument, match=word):
            s.update(np.arange(9), np.ones(9))
        assert s._seen == -1 and not s._reports
        s.update(batch[:1], [1.0])
        assert s.state_dict()["step"] == 0
        again = ImportanceBatchSampler(scheme.init(9), 2, steps=3, generator=rng(0), lag=1)
        again.load_state_dict(s.state_dict())
        with pytest.raises(InvalidArgument, match="reported already"):
            again.update(batch[:1], [1.0], step=0)
    free = ImportanceBatchSampler(Loss().init(9), 2, steps=3, generator=rng(0))
    steps = iter(free)
    next(steps)
    free.update(
        np.arange(9), np.arange(9.0)
    )  # a scheme that only remembers may hear of all items at any time
    assert 0 not in next(steps) and free._source.law.scores.tolist() == list(range(9))


def test_a_scheme_of_ones_own_need_not_know_about_probabilities():
    class Mine:
        n, heard = 5, ()

        def probabilities(self):
            return np.full(5, 0.2)

        def update(self, idx, scores):
            self.heard += (tuple(idx),)

    mine = Mine()
    s = ImportanceBatchSampler(mine, 2, steps=3, generator=np.random.default_rng(0))
    for batch in s:
        s.update(batch, [1.0, 1.0])
    assert len(mine.heard) == 2 and all(len(h) == 2 for h in mine.heard)


def test_the_switch_goes_on_learning_after_a_restart_as_if_nothing_had_happened():
    def make():
        return SwitchOn(
            Mixture(GradNorm(), Uniform()), every=9, trial=2, clock=iter(range(99)).__next__
        ).init(4)

    first, second = make(), make()
    first.probabilities(np.array([1.0, 1.0, 1.0, 5.0]))
    second.load_state_dict(first.state_dict())
    for s in (first, second):
        s.update([3, 0], [4.0, 2.0], [0.3, 0.1])
    assert (first._moments == second._moments).all() and make().load_state_dict(
        make().state_dict()
    ) is None
