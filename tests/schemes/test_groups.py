"""Mixtures of groups: numbers by hand, what the estimate is of, weights that change, refusals."""

from itertools import product

import numpy as np
import pytest

from impsamp.errors import ImpsampError, InvalidArgument, InvalidScores, InvalidShape
from impsamp.samplers import ImportanceBatchSampler
from impsamp.schemes import GradNorm, GroupMixture, LaBER, Lipschitz, Loss, Mixture, Uniform
from impsamp.training import picked_batch
from tests.schemes.helpers import law

GROUPS = np.array([0, 1, 0, 2, 0])
VALUES = np.array([2.0, -1.0, 5.0, 7.0, 0.5])


def enumerated_mean(scheme):
    "E of the estimate of the mean of VALUES from two draws, as a training step weighs them."
    p = law(scheme, 1.0 + np.arange(5))
    ends = np.cumsum(p)
    middles = ends - p / 2
    mean = 0.0
    for pair in product(range(5), repeat=2):
        u = middles[list(pair)]
        idx, weight, _ = picked_batch(scheme, p, lambda k, u=u: u, 2)
        assert idx.tolist() == list(pair)
        mean += p[idx].prod() * weight @ VALUES[idx]
    return mean


@pytest.mark.parametrize("inner", [None, Lipschitz([1, 2, 3, 4, 5]), GradNorm(), Loss()])
@pytest.mark.parametrize("weights", [[1, 1, 1], [5.0, 0.1, 2.0]])
def test_the_mean_is_the_plain_one_or_that_of_the_mixture(inner, weights):
    corrected = GroupMixture(GROUPS, weights, inner).init(5)
    assert corrected.unbiased
    assert np.isclose(enumerated_mean(corrected), VALUES.mean(), rtol=1e-12)
    wanted = GroupMixture(GROUPS, weights, inner, corrected=False).init(5)
    means = [VALUES[g == GROUPS].mean() for g in range(3)]
    assert not wanted.unbiased
    assert np.isclose(enumerated_mean(wanted), np.average(means, weights=weights), rtol=1e-12)


def test_a_composite_wants_what_its_part_wants():
    wanted = GroupMixture(GROUPS, [1, 2, 3], corrected=False)
    half = Mixture(wanted, Uniform()).init(5)
    means = [VALUES[g == GROUPS].mean() for g in range(3)]
    assert np.isclose(enumerated_mean(half), np.average(means, weights=[1, 2, 3]))
    other = Mixture(wanted, GroupMixture(GROUPS, [3, 2, 1], corrected=False)).init(5)
    with pytest.raises(InvalidArgument, match="different targets"):
        enumerated_mean(other)


def test_the_loader_weighs_for_the_mixture_too():
    scheme = GroupMixture(GROUPS, [1, 2, 3], corrected=False).init(5)
    batches = ImportanceBatchSampler(scheme, 3, steps=20, generator=0)
    for batch in batches:
        draw = batch.draw
        assert np.allclose(
            draw.weight, scheme.target[draw.idx] / (3 * scheme.probabilities()[draw.idx])
        )
        assert np.allclose(draw.weight, 1 / 3)  # uniform within groups


def test_weights_change_from_the_next_draw_on_and_go_with_the_state():
    scheme = GroupMixture([0, 1], [1, 1]).init(2)
    assert scheme.probabilities().tolist() == [0.5, 0.5]
    scheme.set_weights([1, 3])
    assert scheme.probabilities().tolist() == [0.25, 0.75]
    twin = GroupMixture([0, 1], [1, 1]).init(2)
    twin.load_state_dict(scheme.state_dict())
    assert twin.probabilities().tolist() == [0.25, 0.75]
    assert twin.init(2).probabilities().tolist() == [0.5, 0.5]


def test_a_schedule_is_asked_at_each_step():
    scheme = GroupMixture([0, 1], lambda t: [1, 1 + t]).init(2)
    shares = [scheme.probabilities()[1] for _ in range(3)]
    assert np.allclose(shares, [1 / 2, 2 / 3, 3 / 4])


def test_a_group_whose_scores_are_all_zero_is_drawn_uniformly():
    p = GroupMixture([0, 0, 1], [1, 1], GradNorm()).init(3).probabilities([0.0, 0.0, 2.0])
    assert p.tolist() == [0.25, 0.25, 0.5]


@pytest.mark.parametrize(
    "groups, weights, error, words",
    [
        ([0, 0], [1, 1], InvalidArgument, "group 1 has weight 0.5 and no items"),
        ([0, 1], [1, 0], InvalidArgument, "group 1 has 1 items and weight 0"),
        ([0, 1], [1, -1], InvalidScores, "negative"),
        ([0, 1], [1, np.nan], InvalidScores, "not finite"),
        ([0, 1], [0, 0], InvalidScores, "all zero"),
        ([0, 1], [1], InvalidShape, "2 groups"),
        ([0, 1], 3.0, InvalidShape, "dimension"),
        ([0, -1], [1], InvalidArgument, "item 1 is in no group"),
        ([0.5, 1], [1, 1], InvalidArgument, "item 0 is in no group"),
        ([np.nan, 1], [1, 1], InvalidArgument, "item 0 is in no group"),
        ([], [1], InvalidShape, "empty"),
        (["a", "b"], [1, 1], InvalidShape, "numeric"),
        ([True, False], [1, 1], InvalidShape, "boolean mask"),
    ],
)
def test_groups_and_weights_that_do_not_fit_are_refused(groups, weights, error, words):
    with pytest.raises(error, match=words):
        GroupMixture(groups, weights)


def test_a_group_left_out_on_purpose():
    p = GroupMixture([0, 1], [1, 0], corrected=False).init(2).probabilities()
    assert p.tolist() == [1, 0]


def test_refused_weights_change_nothing():
    scheme = GroupMixture([0, 1], [1, 3]).init(2)
    with pytest.raises(ImpsampError):
        scheme.set_weights([0, 1])
    assert scheme.probabilities().tolist() == [0.25, 0.75]


def test_a_pool_and_another_number_of_items_are_refused():
    with pytest.raises(InvalidArgument, match="pool"):
        GroupMixture([0, 1], [1, 1], LaBER(2))
    with pytest.raises(InvalidShape, match="expected 3"):
        GroupMixture([0, 1], [1, 1]).init(3)


def test_among_some_items():
    few = GroupMixture(GROUPS, [1, 2, 3], GradNorm()).init(5).among(np.array([2, 3, 4]))
    assert np.allclose(few.probabilities([1.0, 5.0, 3.0]), [1 / 16, 3 / 4, 3 / 16])


def test_weights_that_change_change_a_law_that_was_kept():
    scheme = GroupMixture(GROUPS, [1, 1, 1]).init(5)
    first = scheme.probabilities()
    assert scheme.probabilities() is first
    state = scheme.state_dict()
    scheme.set_weights([1, 2, 1])
    other = scheme.probabilities()
    assert other[1] == 0.5 and scheme.probabilities() is other
    scheme.load_state_dict(state)
    assert (scheme.probabilities() == first).all()
    assert not GroupMixture(GROUPS, [1, 1, 1], inner=Loss()).static
    assert not GroupMixture(GROUPS, lambda step: [1, 1, 1]).static
