"""The common interface of schemes: laws, hostile input, memory, composites."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from impsamp.errors import InvalidArgument, InvalidProbabilities, InvalidScores, InvalidShape
from impsamp.schemes import (
    Floored,
    GradNorm,
    Lipschitz,
    Loss,
    Mixture,
    Scheme,
    SchemeLike,
    Shuffle,
    Tempered,
    Uniform,
    floor_probabilities,
    mix,
    proportional,
    temper,
)
from impsamp.theory.convergence import optimal_probabilities, second_moment
from impsamp.theory.minibatch import minibatch_probabilities

SIMPLE = {
    "uniform": Uniform,
    "shuffle": Shuffle,
    "gradnorm": GradNorm,
    "half": lambda: Mixture(GradNorm(), Uniform()),
    "tempered": lambda: Tempered(GradNorm(), 0.5),
    "floored": lambda: Floored(GradNorm(), 0.2),
}
sizes = st.integers(1, 30)
norms = hnp.arrays(np.float64, sizes, elements=st.floats(0, 1e12, allow_subnormal=True))
with_zeros = hnp.arrays(np.float64, sizes, elements=st.just(0.0) | st.floats(1e-6, 1e6))


@pytest.fixture(params=SIMPLE, ids=str)
def make(request):
    return SIMPLE[request.param]


@settings(deadline=None, max_examples=60)
@given(norms)
def test_every_scheme_gives_probabilities_for_any_norms(s):
    for make in SIMPLE.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            p = make().init(s.size).probabilities(s)
        assert p.shape == s.shape and p.dtype == np.float64
        assert np.isfinite(p).all() and (p >= 0).all() and abs(p.sum() - 1) < 1e-12


@settings(deadline=None, max_examples=60)
@given(with_zeros.filter(np.any), st.floats(0, 1))
def test_the_floor_holds_and_is_the_best_such_scheme(s, c):
    p = floor_probabilities(proportional(s), c)
    assert (p >= c / s.size * (1 - 1e-12)).all() and abs(p.sum() - 1) < 1e-12
    u = np.full(s.size, 1 / s.size)
    mixed = mix(proportional(s), u, 1 - c)  # respects the same floor
    assert second_moment(p, s) <= second_moment(mixed, s) * (1 + 1e-9)


def test_the_floor_against_a_numerical_optimum():
    from scipy.optimize import minimize

    g = np.array([0.01, 0.1, 0.5, 2.0, 3.0])
    c = 0.4
    best = minimize(
        lambda p: (g**2 / p).sum(),
        np.full(5, 0.2),
        bounds=[(c / 5, 1)] * 5,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert np.allclose(floor_probabilities(proportional(g), c), best.x, atol=1e-5)


def test_gradnorm_is_the_optimum():
    g = np.array([0.5, 0.0, 2.0, 7.0])
    assert np.allclose(GradNorm().init(4).probabilities(g), optimal_probabilities(g), rtol=1e-15)


@pytest.mark.parametrize(
    "bad, error",
    [
        ([1, np.nan, 1], InvalidScores),
        ([1, np.inf, 1], InvalidScores),
        ([1, -1, 1], InvalidScores),
        ([1, 1], InvalidShape),
        ([[1, 1, 1]], InvalidShape),
        (["a", "b", "c"], InvalidShape),
    ],
)
def test_bad_scores_are_refused_and_change_nothing(bad, error):
    s = GradNorm().init(3)
    before = s.probabilities([1, 2, 3])
    with pytest.raises(error):
        s.probabilities(bad)
    assert (s.probabilities() == before).all()


@pytest.mark.parametrize(
    "idx, scores, error",
    [
        ([0, 3], [1, 1], InvalidArgument),
        ([-1], [1], InvalidArgument),
        ([0.5], [1], InvalidArgument),
        ([0], [1, 2], InvalidShape),
        ([0], [-1], InvalidScores),
        ([0], 1.0, InvalidShape),
        ([True, False], [1, 1], InvalidShape),
        (np.array([True, False, True]), [1, 1, 1], InvalidShape),
    ],
)
def test_bad_updates_are_refused_and_change_nothing(idx, scores, error):
    s = GradNorm().init(3)
    before = s.probabilities([1, 2, 3])
    with pytest.raises(error):
        s.update(idx, scores)
    assert (s.probabilities() == before).all()


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_a_number_of_items_that_is_none(n, make):
    with pytest.raises(InvalidArgument):
        make().init(n)


def test_one_item_is_certain(make):
    assert make().init(1).probabilities([0.3]).tolist() == [1.0]


def test_before_init(make):
    with pytest.raises(InvalidArgument, match="init"):
        make().probabilities([1.0])


def test_no_scores_yet():
    with pytest.raises(InvalidScores, match="norm per item"):
        GradNorm().init(3).probabilities()


def test_all_zero_falls_back_to_uniform_and_says_so_once():
    s = GradNorm().init(4)
    with pytest.warns(RuntimeWarning, match="all scores are zero"):
        p = s.probabilities(np.zeros(4))
    assert (p == 0.25).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (s.probabilities(np.zeros(4)) == 0.25).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_tensors_in_tensors_out(dtype):
    s = torch.tensor([1, 3], dtype=dtype)
    p = GradNorm().init(2).probabilities(s)
    assert isinstance(p, torch.Tensor) and p.dtype == torch.float64
    assert p.tolist() == [0.25, 0.75]
    not_contiguous = torch.tensor([[1.0, 9.0], [3.0, 9.0]])[:, 0]
    q = GradNorm().init(2).probabilities(not_contiguous)
    assert q.tolist() == [0.25, 0.75]


def test_refresh_every_third_step_and_resume(make):
    s = GradNorm(every=3).init(2)
    due = []
    for _ in range(7):
        due.append(s.due())
        s.probabilities([1, 3] if due[-1] else None)
    assert due == [True, False, False] * 2 + [True]
    again = GradNorm(every=3).init(2)
    again.load_state_dict(s.state_dict())
    assert again.due() == s.due() and (again.probabilities() == s.probabilities()).all()


def test_state_survives_a_weights_only_file(tmp_path, make):
    s = make().init(3, fingerprint="mnist")
    s.probabilities([1, 2, 3])
    torch.save(s.state_dict(), tmp_path / "state.pt")
    again = make().init(3, fingerprint="mnist")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (again.probabilities() == s.probabilities()).all()


@pytest.mark.parametrize("n, fingerprint", [(4, "mnist"), (3, "cifar")])
def test_a_memory_of_another_data_set_is_refused(n, fingerprint, make):
    old = make().init(3, fingerprint="mnist")
    old.probabilities([1, 2, 3])
    here = make().init(n, fingerprint=fingerprint)
    with pytest.raises(InvalidArgument, match="not for here"):
        here.load_state_dict(old.state_dict())


def test_a_memory_of_another_scheme_is_refused():
    with pytest.raises(InvalidArgument, match="scheme is 'GradNorm'"):
        Uniform().init(3).load_state_dict(GradNorm().init(3).state_dict())


@pytest.mark.parametrize(
    "build",
    [
        lambda: Mixture(GradNorm(), Uniform(), 1.5),
        lambda: Tempered(GradNorm(), -1),
        lambda: Tempered(GradNorm(), np.nan),
        lambda: Floored(GradNorm(), 2),
        lambda: Floored(GradNorm(), np.nan),
        lambda: GradNorm(every=0),
        lambda: Mixture(Shuffle(), GradNorm()),
        lambda: Mixture(Loss(), GradNorm()),
    ],
)
def test_bad_settings(build):
    with pytest.raises(InvalidArgument):
        build()


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: proportional([0, 0]), InvalidScores),
        (lambda: mix([0.5, 0.5], [1.0], 0.5), InvalidShape),
        (lambda: mix([0.5, 0.6], [0.5, 0.5], 0.5), InvalidProbabilities),
        (lambda: temper([0.5, 0.5], np.inf), InvalidArgument),
        (lambda: floor_probabilities([0.5, 0.5], -0.1), InvalidArgument),
        (lambda: proportional([]), InvalidShape),
    ],
)
def test_bad_vectors(call, error):
    with pytest.raises(error):
        call()


def test_a_scheme_of_your_own_is_four_lines():
    class Clipped(Scheme):
        "p proportional to min(norm, 3 x median): an outlier cannot take the batch."

        needs, scope = "norm", "all"

        def shape(self, g):
            return np.minimum(g, 3 * np.median(g))

    p = Clipped().init(4).probabilities([1, 1, 1, 100])
    assert np.allclose(p, [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert repr(Clipped()) == "Clipped()"


def test_unseen_items_count_as_the_largest():
    class Seen(Scheme):
        needs, scope = "loss", "visits"

    s = Seen().init(3)
    assert (s.probabilities() == 1 / 3).all()
    s.update([0, 1, 0], [5.0, 4.0, 1.0])  # duplicates: the last one stays
    assert np.allclose(s.probabilities(), [1 / 9, 4 / 9, 4 / 9])


@pytest.mark.parametrize(
    "wrong, error",
    [
        (lambda s: s * np.nan, InvalidScores),
        (lambda s: -s, InvalidScores),
        (lambda s: s[:-1], InvalidShape),
        (lambda s: s[:, None], InvalidShape),
    ],
)
def test_a_shape_of_ones_own_that_is_wrong_is_refused_by_name(wrong, error):
    "Not taken for 'all scores are zero' and drawn uniformly."

    class Mine(GradNorm):
        def shape(self, scores):
            return wrong(scores)

    with pytest.raises(error, match=r"Mine\.shape returned"):
        Mine().init(4).probabilities(np.arange(4.0))


@pytest.mark.parametrize(
    "make", [GradNorm, lambda: Mixture(GradNorm(), Uniform()), lambda: Floored(GradNorm(), 0.3)]
)
def test_random_subsets_get_the_design_of_lemma_2(make):
    g = np.array([0.2, 1.0, 1.0, 4.0, 9.0])
    pi = make().init(5).inclusion_probabilities(3, g)
    assert np.isclose(pi.sum(), 3) and (pi <= 1).all()
    assert np.allclose(pi, minibatch_probabilities(make().init(5).probabilities(g), 3))


def test_a_subset_larger_than_the_items_with_a_score_is_refused():
    with pytest.raises(InvalidArgument, match="floor"):
        GradNorm().init(3).inclusion_probabilities(3, [0.0, 1.0, 1.0])


def test_the_base_class_is_a_scheme_by_itself():
    assert Scheme().init(2).probabilities([1, 3]).tolist() == [0.25, 0.75]
    assert isinstance(GradNorm(), Scheme) and issubclass(Mixture, Scheme)


class Duck:
    "Everything that a training loop asks for, and nothing of the base class."

    n = None
    needs = "loss"
    scope = "visits"
    unbiased = True
    replacement = True
    beta = 1.0
    pool_size = None

    def init(self, n):
        self.seen = np.ones(n)

    def due(self):
        return False

    def probabilities(self, scores=None):
        return self.seen / self.seen.sum()

    def update(self, idx, scores, prob=None):
        self.seen[idx] = np.asarray(scores) + 1e-3


def test_a_scheme_without_the_base_class_looks_like_one_and_trains():
    from impsamp.training import train

    duck = Duck()
    assert isinstance(duck, SchemeLike) and not isinstance(duck, Scheme)
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    x = torch.randn(12, 3)
    y = (x[:, 0] > 0).long()
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    train(net, loss, x, y, optimizer, duck, batch=4, steps=30, seed=0)
    assert np.ptp(duck.seen) > 0 and loss(net(x), y).mean() < 0.5


@pytest.mark.parametrize("missing", ["needs", "beta", "init", "due", "probabilities", "update"])
def test_what_lacks_a_part_of_the_duck_type_is_none(missing):
    parts = {name: value for name, value in vars(Duck).items() if name != missing}
    assert not isinstance(type("Lame", (), parts)(), SchemeLike)


def test_a_scheme_prints_on_one_line_whatever_it_was_made_of():
    class Judged(GradNorm):
        def __init__(self, model):
            super().__init__()
            self.model = model

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    assert repr(Judged(model)) == "Judged(<Sequential>)"


def test_the_warning_of_zero_scores_points_at_the_caller():
    with pytest.warns(RuntimeWarning) as caught:
        GradNorm().init(2).probabilities([0.0, 0.0])
    assert caught[0].filename == __file__


@pytest.mark.parametrize("make", [Uniform, lambda: Lipschitz([1.0, 3.0, 4.0])])
def test_what_never_changes_is_computed_once(make):
    scheme = make().init(3)
    first = scheme.probabilities()
    assert scheme.probabilities() is first and scheme.step == 2
    assert make().init(3).probabilities() is not first
    scheme.update([0], [9.0])
    scheme.probabilities([5.0, 1.0, 1.0])
    assert scheme.probabilities() is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1.0
    assert scheme.init(3).probabilities() is not first


def test_a_subclass_that_says_how_p_comes_about_is_not_static_unless_it_says_so():
    class Alternating(Uniform):
        def shape(self, scores):
            return np.roll(np.arange(len(scores)), self.step)

    scheme = Alternating().init(3)
    laws = [scheme.probabilities().argmax() for _ in range(3)]
    assert laws == [2, 0, 1] and not Alternating.static and Shuffle.static
    with pytest.raises(ValueError, match="read-only"):
        Lipschitz([1.0, 2.0]).L[0] = 5.0
