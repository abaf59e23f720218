"""What every scheme promises: probabilities, unbiasedness by enumeration, resumption, refusals."""

import copy
import pickle
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from impsamp import schemes
from impsamp.errors import InvalidArgument, InvalidScores
from impsamp.samplers import importance_weights
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
    PreconditionedGradNorm,
    Prioritized,
    ReducibleLoss,
    Scheme,
    SchemeLike,
    Shuffle,
    Stale,
    SwitchOn,
    Tempered,
    Uniform,
    UpperBound,
)
from tests.schemes.helpers import ALL, MEMORY, law


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=15)
@given(st.lists(hnp.arrays(np.float64, 4, elements=st.floats(0, 1e9)), min_size=1, max_size=8))
def test_probabilities_at_every_step_whatever_was_seen(name, history):
    scheme = ALL[name](4).init(4)
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for scores in history:
            p = law(scheme, scores)
            assert p.shape == (4,)
            assert np.isfinite(p).all() and (p >= 0).all()
            assert abs(p.sum() - 1) < 1e-9
            if scheme.scope == "visits":
                assert (p > 0).all(), "a remembered zero must not hide an item"
                idx = rng.integers(0, 4, 3)
                scheme.update(idx, scores[idx], p[idx])


@pytest.mark.filterwarnings("ignore:.*all scores are zero")
@pytest.mark.parametrize("name", MEMORY)
def test_two_draws_enumerated_mean_is_right_if_and_only_if_unbiased(name):
    """Every pair of items in a first step (its scores remembered) and in a second.

    The second estimate's mean is the mean gradient unless the scheme says otherwise."""
    n = 3
    values = np.array([2.0, -1.0, 5.0])
    scores = np.array([0.5, 2.0, 0.0])
    pairs = [list(pair) for pair in product(range(n), repeat=2)]
    mean = 0.0
    for first in pairs:
        scheme = ALL[name](n).init(n)
        p = law(scheme)
        scheme.update(first, scores[first], p[first])
        q = law(scheme)
        for second in pairs:
            drawn = np.array(second)
            wanted = scheme.target
            weight = importance_weights(q, drawn, batch=2, beta=scheme.beta, target=wanted)
            chance = p[first].prod() * q[second].prod()
            mean += chance * (weight * values[second]).sum()
    assert np.isclose(mean, values.mean(), rtol=1e-9) == scheme.unbiased


def steps(scheme, rng, count):
    "The laws of `count` steps on six items, with made-up reports."
    laws = []
    for _ in range(count):
        p = law(scheme, np.ones(6) if scheme.scope == "all" else None)
        idx = rng.integers(0, 6, 3)
        if isinstance(scheme, Picks):
            idx = scheme.pick(3, rng.random)
        if scheme.scope == "visits":
            scheme.update(idx, rng.random(len(idx)))
        laws.append(p)
    return np.array(laws)


@pytest.mark.parametrize("name", [*MEMORY, "lipschitz", "preconditioned"])
def test_resume_continues_exactly(name, tmp_path):
    full = steps(ALL[name](6).init(6), np.random.default_rng(0), 12)
    one = ALL[name](6).init(6)
    rng = np.random.default_rng(0)
    steps(one, rng, 5)
    torch.save(one.state_dict(), tmp_path / "s.pt")
    two = ALL[name](6).init(6)
    two.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    if name != "switch":
        assert (steps(two, rng, 7) == full[5:]).all()
    else:
        # its clock is not part of a run that must repeat: that is what `replay` is for
        assert two.ratio() == one.ratio()
        assert two.log == one.log


@pytest.mark.parametrize("name", ALL)
def test_a_memory_of_another_data_set_is_refused(name):
    with pytest.raises(InvalidArgument, match="not for here"):
        ALL[name](4).init(4).load_state_dict(ALL[name](5).init(5).state_dict())


@pytest.mark.parametrize("name", [k for k in ALL if k != "lipschitz"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_bad_scores_are_refused(name, bad):
    scheme = ALL[name](3).init(3)
    if scheme.scope == "visits":
        law(scheme)
        with pytest.raises(InvalidScores):
            scheme.update([0, 1], [1.0, -1.0])
    else:
        with pytest.raises(InvalidScores):
            law(scheme, np.array([1.0, bad, 1.0]))


@pytest.mark.parametrize("make", [Loss, Prioritized, Stale, lambda: Stale("norm")])
def test_the_training_loop_feeds_schemes_that_remember(make):
    from impsamp.training import train

    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    x = torch.randn(12, 3)
    y = torch.randint(0, 2, (12,))
    loss = nn.CrossEntropyLoss(reduction="none")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheme = make()
    train(net, loss, x, y, optimizer, scheme, batch=4, steps=20, seed=0)
    assert not np.isnan(scheme.scores).any() and np.ptp(scheme.probabilities()) > 0


@pytest.mark.parametrize("name", ALL)
def test_every_scheme_is_a_scheme_and_looks_like_one(name):
    scheme = ALL[name](4)
    assert isinstance(scheme, Scheme) and isinstance(scheme, SchemeLike)
    assert issubclass(type(scheme), Scheme)


@pytest.mark.filterwarnings("ignore:.*all scores are zero")
@pytest.mark.parametrize("name", [k for k in ALL if k != "switch"])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["deepcopy", "pickle"]
)
def test_a_copy_goes_on_by_itself(name, copied):
    scheme = ALL[name](6).init(6)
    scores = np.arange(6.0)
    law(scheme, scores)
    if scheme.scope == "visits":
        scheme.update([0, 3], [1.0, 2.0])
    twin = copied(scheme)
    assert (law(twin, scores) == law(scheme, scores)).all()
    assert twin.scores is not scheme.scores and repr(twin) == repr(scheme)


@pytest.mark.parametrize(
    "scheme, text",
    [
        (Uniform(), "Uniform()"),
        (Shuffle(), "Shuffle()"),
        (GradNorm(), "GradNorm()"),
        (GradNorm(every=4), "GradNorm(every=4)"),
        (PreconditionedGradNorm(clip=None), "PreconditionedGradNorm(clip=None)"),
        (UpperBound(), "UpperBound()"),
        (UpperBound("visits"), "UpperBound(scope='visits')"),
        (Loss("pool", pool_size=8), "Loss(scope='pool', pool_size=8)"),
        (LossRank(corrected=True, steps=7), "LossRank(steps=7, corrected=True)"),
        (Prioritized(0.5, needs="norm"), "Prioritized(alpha=0.5, needs='norm')"),
        (Lipschitz([1, 2, 3], 0.5), "Lipschitz(<3 values>, weight=0.5)"),
        (Stale("norm", weight=0.5), "Stale(needs='norm', weight=0.5)"),
        (Mixture(GradNorm(), Uniform(), 0.5), "Mixture(GradNorm(), Uniform(), 0.5)"),
        (Tempered(Stale(), 0.5), "Tempered(Stale(), 0.5)"),
        (Floored(Loss(), 0.2), "Floored(Loss(), 0.2)"),
        (SwitchOn(Loss(), every=90, trial=20), "SwitchOn(Loss(), every=90, trial=20)"),
        (GroupMixture([0, 1, 1], [1, 2]), "GroupMixture(<3 values>, <2 values>)"),
        (
            GroupMixture([0, 0, 0], [1], Loss(), corrected=False),
            "GroupMixture(<3 values>, <1 values>, inner=Loss(), corrected=False)",
        ),
        (ReducibleLoss([1.0, 2.0, 3.0]), "ReducibleLoss(<3 values>)"),
        (
            ReducibleLoss([1.0, 2.0, 3.0], "pool", pool_size=2),
            "ReducibleLoss(<3 values>, scope='pool', pool_size=2)",
        ),
        (LaBER(2, "norm"), "LaBER(pool_size=2, needs='norm')"),
        (MultipleImportance(Loss(), Uniform()), "MultipleImportance(Loss(), Uniform())"),
        (
            MultipleImportance(Loss(), Uniform(), shares=[2, 1]),
            "MultipleImportance(Loss(), Uniform(), shares=<2 values>)",
        ),
        (DynamicPruning(), "DynamicPruning()"),
        (DynamicPruning(0.2, until=9), "DynamicPruning(ratio=0.2, until=9)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_scheme_prints_as_the_call_that_makes_it(scheme, text):
    assert repr(scheme) == text
    assert repr(scheme.init(3)) == text


def test_what_is_long_prints_short():
    log = [(6 + 12 * k, True, 1.0, 1.0, 1.0) for k in range(5)]
    scheme = SwitchOn(Uniform(), every=12, trial=3, replay=log, clock=min)
    text = "SwitchOn(Uniform(), every=12, trial=3, replay=<5 values>, clock=min)"
    assert repr(scheme) == text


def test_the_package_shows_all_of_its_families():
    for name in schemes.__all__:
        assert hasattr(schemes, name)
    shown = {getattr(schemes, name) for name in schemes.__all__}
    kinds = {type(make(3)) for make in ALL.values()}
    assert kinds <= shown
