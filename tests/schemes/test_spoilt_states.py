"""A state that is not a scheme's own, or spoilt, is refused, and nothing changes then.

And a batch whose scores are not finite teaches nothing and stops nothing."""

import copy

import numpy as np
import pytest
import torch

from impsamp.errors import ImpsampError, InvalidArgument
from impsamp.schemes import (
    DynamicPruning,
    Floored,
    GradNorm,
    GroupMixture,
    LaBER,
    Lipschitz,
    Loss,
    LossRank,
    Mixture,
    MultipleImportance,
    Picks,
    Prioritized,
    ReducibleLoss,
    Stale,
    SwitchOn,
    Tempered,
    Uniform,
    UpperBound,
)
from tests.schemes.helpers import ALL, MEMORY, law
from tests.states import same, spoilt

N = 6


def used(name, seed=0):
    "A scheme of that name that has seen a few reports."
    g = np.random.default_rng(seed)
    scheme = ALL[name](N).init(N, fingerprint="mnist")
    for _ in range(3):
        p = law(scheme, 1 + g.random(N))
        if scheme.scope == "visits":
            idx = g.integers(0, N, 4)
            if isinstance(scheme, Picks):
                scheme.pick(2, g.random)
            scheme.update(idx, 1 + g.random(4), p[idx])
    return scheme


def harmless(path):
    "NaN is a score never seen; what was decided long ago is only written down."
    words = path.split()
    told = words[0] == "log" and len(words) > 3 and words[2] != "0"
    return told or path.endswith("scores nan")


@pytest.mark.parametrize("name", ALL)
def test_every_spoilt_state_is_refused_and_changes_nothing(name):
    state = used(name).state_dict()
    scheme = used(name, seed=1)
    before = copy.deepcopy(scheme.state_dict())
    tried = 0
    for path, bad in spoilt(state):
        if harmless(path):
            continue
        with pytest.raises(ImpsampError):
            scheme.load_state_dict(bad)
            pytest.fail(f"{path} was accepted")
        assert same(scheme.state_dict(), before), path
        tried += 1
    assert tried > 15
    scheme.load_state_dict(state)
    assert same(scheme.state_dict(), state)


def tuned():
    "(saved, loading): pairs that differ in one setting."
    u = Uniform()
    return [
        (Stale("loss"), Stale("norm")),
        (Stale(weight=0.8), Stale(weight=0.7)),
        (Stale(), Stale(calibrate=False)),
        (Mixture(Loss(), u, 0.5), Mixture(Loss(), u, 0.9)),
        (Mixture(Stale("norm"), u), Mixture(Stale("norm", memory=0.5), u)),
        (Tempered(Loss(), 0.5), Tempered(Loss(), 0.6)),
        (Floored(Loss(), 0.5), Floored(Loss(), 0.6)),
        (GradNorm(), GradNorm(every=2)),
        (UpperBound("visits"), UpperBound("all")),
        (UpperBound(pool_size=4), UpperBound(pool_size=5)),
        (Prioritized(), Prioritized(needs="norm")),
        (LossRank(), LossRank(corrected=True)),
        (Lipschitz([1.0, 2.0]), Lipschitz([1.0, 3.0])),
        (SwitchOn(Loss()), SwitchOn(Loss(), margin=2.0)),
        (GroupMixture([0, 1], [1, 2]), GroupMixture([1, 0], [1, 2])),
        (GroupMixture([0, 1], [1, 2]), GroupMixture([0, 1], [1, 2], corrected=False)),
        (ReducibleLoss([0, 1]), ReducibleLoss([0, 2])),
        (LaBER(4), LaBER(5)),
        (MultipleImportance(Loss(), u), MultipleImportance(Loss(), u, shares=[1, 2])),
        (DynamicPruning(), DynamicPruning(0.6)),
    ]


@pytest.mark.parametrize("saved, here", tuned(), ids=lambda s: repr(s))
def test_a_state_of_other_settings_is_refused(saved, here):
    saved.init(2)
    here.init(2)
    with pytest.raises(InvalidArgument, match="its settings is"):
        here.load_state_dict(saved.state_dict())


def test_the_same_setting_may_be_an_int_or_a_float():
    saved = Mixture(Loss(), Uniform(), 1).init(3)
    Mixture(Loss(), Uniform(), 1.0).init(3).load_state_dict(saved.state_dict())


def test_ranks_sorted_long_ago_are_part_of_a_state():
    "Sorted every 4 steps: a restart between two sorts goes on with the old order."

    def scheme():
        return LossRank(sort_every=4).init(3)

    whole = scheme()
    whole.update([0, 1, 2], [1.0, 2.0, 3.0])
    whole.probabilities()
    whole.update([0, 1, 2], [3.0, 2.0, 1.0])
    resumed = scheme()
    resumed.load_state_dict(whole.state_dict())
    laws = [(whole.probabilities(), resumed.probabilities()) for _ in range(4)]
    assert all((p == q).all() for p, q in laws)
    assert (laws[0][0] != laws[3][0]).any()


# ---- scores that are not finite --------------------------------------------------------------
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", MEMORY)
def test_a_batch_of_scores_that_are_not_finite_teaches_nothing(name, bad):
    scheme = used(name)
    twin = copy.deepcopy(scheme)
    with pytest.warns(RuntimeWarning, match="are not finite") as said:
        for _ in range(3):
            scheme.update([0, 1, 1], [1.0, 2.0, bad], [0.1, 0.2, 0.3])
    assert len(said) == 1
    assert scheme.ignored == 3
    after = {**scheme.state_dict(), "ignored": 0}
    assert same(after, twin.state_dict())
    assert (law(scheme) == law(twin)).all()


@pytest.mark.parametrize("name", MEMORY)
def test_an_empty_batch_teaches_nothing(name):
    scheme = used(name)
    before = copy.deepcopy(scheme.state_dict())
    scheme.update([], [], [])
    assert same(scheme.state_dict(), before)


@pytest.mark.parametrize("name", MEMORY)
def test_a_mean_loss_is_named(name):
    with pytest.raises(ImpsampError, match='reduction="none"'):
        used(name).update([0, 1], torch.tensor(0.7))


@pytest.mark.parametrize("prob", [[0.5], [0.5, 0.0], [0.5, np.nan], [0.5, -1.0]])
@pytest.mark.parametrize("name", MEMORY)
def test_probabilities_that_are_none_are_refused_by_all_parts_or_by_none(name, prob):
    scheme = used(name)
    before = copy.deepcopy(scheme.state_dict())
    with pytest.raises(ImpsampError):
        scheme.update([0, 1], [1.0, 2.0], prob)
    assert same(scheme.state_dict(), before)


@pytest.mark.parametrize("name", ["half of norms", "switched norms"])
def test_scores_that_are_refused_do_not_count_as_a_step(name):
    norms = Mixture(GradNorm(), Uniform())
    scheme = (norms if name.startswith("half") else SwitchOn(norms)).init(3)
    with pytest.raises(ImpsampError):
        scheme.probabilities([1.0, np.nan, 2.0])
    assert scheme.step == 0
