"""The training loop: exact draws, weights, failures, and schemes of every scope."""

import math

import numpy as np
import pytest
import torch

from impsamp import schemes, training
from impsamp.errors import Diverged, InvalidArgument
from impsamp.randomness import CounterStream, seeded
from impsamp.reproduce.lahire import nll
from impsamp.training import train, training_step


def tiny(n=12, d=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    return (
        x,
        (x.sum(1) > 0).long(),
        seeded(
            lambda: torch.nn.Sequential(torch.nn.Linear(d, 2).double(), torch.nn.LogSoftmax(1)),
            seed,
        ),
    )


def run(scheme, steps=6, batch=4, seed=0, lr=0.1):
    x, y, model = tiny()
    history = train(
        model,
        nll,
        x,
        y,
        torch.optim.SGD(model.parameters(), lr=lr),
        scheme,
        batch=batch,
        steps=steps,
        seed=seed,
        evaluate=lambda m: {"loss": nll(m(x), y).mean().item()},
        eval_every=2,
    )
    return history, torch.nn.utils.parameters_to_vector(model.parameters())


@pytest.mark.parametrize(
    "make",
    [
        schemes.Uniform,
        schemes.Shuffle,
        schemes.GradNorm,
        lambda: schemes.Mixture(schemes.GradNorm(), schemes.Uniform()),
        lambda: schemes.GradNorm(every=3),
        schemes.Loss,
        schemes.LossRank,
        schemes.Prioritized,
        schemes.UpperBound,
        schemes.Stale,
    ],
)
def test_every_scheme_trains_and_repeats(make):
    (a, wa), (_, wb) = run(make()), run(make())
    assert (
        torch.equal(wa, wb) and a.values["loss"][-1] < a.values["loss"][0] and a.diverged_at is None
    )
    assert not torch.equal(wa, run(make(), seed=1)[1])


def test_schemes_that_remember_do_learn():
    for scheme in (schemes.Loss(), schemes.Prioritized(), schemes.LossRank(), schemes.Stale()):
        run(scheme)
        p = np.asarray(scheme.probabilities())
        assert p.std() > 1e-6, f"{type(scheme).__name__} is still uniform after six steps"


def test_adaptive_schemes_see_the_preconditioned_norms():
    x, y, model = tiny()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    scheme = schemes.PreconditionedGradNorm()
    train(model, nll, x, y, optimizer, scheme, batch=4, steps=8, seed=0)
    from impsamp.gradnorms import grad_norms

    asked = training.scores_for(scheme, model, nll, x, y, optimizer)
    plain = grad_norms(model, nll, x, y)
    assert not torch.allclose(asked / asked.sum(), plain / plain.sum(), rtol=1e-3)


def test_costs_are_counted():
    assert run(schemes.Uniform())[0][3:5] == (24, 0)
    assert run(schemes.GradNorm())[0][3:5] == (24, 72)
    assert run(schemes.GradNorm(every=3))[0][3:5] == (24, 24)


def test_schemes_that_agree_draw_the_same_items():
    x, y, model = tiny()
    uniform = schemes.Uniform().init(12)
    half = schemes.Mixture(schemes.Uniform(), schemes.Uniform()).init(12)
    for t in range(5):
        a, b = (
            training.choose(s, model, nll, x, y, batch=4, stream=CounterStream(3), step=t)
            for s in (uniform, half)
        )
        assert (a.idx == b.idx).all() and np.allclose(a.weight, b.weight)


def test_the_mean_over_all_draws_is_the_full_gradient_step():
    "B = 1: average the step over the uniforms' cells by enumeration; unbiased whatever the scheme."
    x, y, model = tiny(n=6)
    from impsamp.gradnorms import grad_norms

    p = schemes.GradNorm().init(6).probabilities(grad_norms(model, nll, x, y)).numpy()
    total = 0
    for i in range(6):
        _, _, fresh = tiny(n=6)
        opt = torch.optim.SGD(fresh.parameters(), lr=1.0)
        before = torch.nn.utils.parameters_to_vector(fresh.parameters()).detach().clone()
        training.weighted_step(
            fresh, nll, x[i : i + 1], y[i : i + 1], opt, np.array([1 / (6 * p[i])])
        )
        total = total + p[i] * (
            before - torch.nn.utils.parameters_to_vector(fresh.parameters()).detach()
        )
    grads = torch.autograd.grad(nll(model(x), y).mean(), list(model.parameters()))
    torch.testing.assert_close(
        total, torch.cat([g.flatten() for g in grads]), atol=1e-12, rtol=1e-12
    )


def test_weights_carry_no_gradient():
    x, y, model = tiny()
    weight = torch.full((4,), 0.25, requires_grad=True)
    training.weighted_step(
        model, nll, x[:4], y[:4], torch.optim.SGD(model.parameters(), lr=0.1), weight
    )
    assert weight.grad is None


def test_a_diverging_run_says_when_and_pads_with_inf():
    x, y, model = tiny()
    history = train(
        model,
        lambda out, t: nll(out, t) * float("1e200"),
        x,
        y,
        torch.optim.SGD(model.parameters(), lr=1e200),
        schemes.Uniform(),
        batch=4,
        steps=9,
        seed=0,
        evaluate=lambda m: {"loss": 1.0},
        eval_every=3,
    )
    assert history.diverged_at is not None and history.diverged_at < 9
    assert math.isinf(history.values["loss"][-1]) and len(history.values["loss"]) == 4


@pytest.mark.parametrize("batch", [0, -1, 2.5])
def test_bad_batches(batch):
    with pytest.raises(InvalidArgument, match="batch"):
        run(schemes.Uniform(), batch=batch)


def test_a_batch_above_n_only_with_replacement():
    run(schemes.Uniform(), batch=20)
    with pytest.raises(InvalidArgument, match="batch"):
        run(schemes.Shuffle(), batch=20)


def test_all_norms_zero_falls_back_to_uniform_and_says_so():
    x, y, model = tiny()
    with pytest.warns(RuntimeWarning, match="zero"):
        train(
            model,
            lambda out, t: nll(out, t) * 0,
            x,
            y,
            torch.optim.SGD(model.parameters(), lr=0.1),
            schemes.GradNorm(),
            batch=4,
            steps=2,
            seed=0,
        )


def test_a_checkpoint_right_after_the_divergence_holds_inf():
    x, y, model = tiny()
    seen = []

    def loss(out, target):
        seen.append(len(out))
        bad = math.inf if len(seen) == 3 else 1.0
        return nll(out, target) * bad

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = train(
        model,
        loss,
        x,
        y,
        optimizer,
        schemes.Uniform(),
        batch=4,
        steps=6,
        seed=0,
        evaluate=lambda m: {"loss": 1.0},
        eval_every=3,
    )
    assert history.diverged_at == 2 and list(history.values["loss"]) == [1.0, math.inf, math.inf]
    assert history.grad_evals == 12, "the step that failed has cost its gradients"


class Duck:
    "All that a training loop asks of a scheme, and no base class."

    n = None
    unbiased = True
    replacement = True
    beta = 1.0
    pool_size = None

    def __init__(self, needs, scope):
        self.needs = needs
        self.scope = scope
        self.told = []

    def init(self, n):
        self.n = n

    def due(self):
        return self.needs != "none" and self.scope == "all"

    def probabilities(self, scores=None):
        return np.full(self.n, 1 / self.n)

    def update(self, idx, scores, prob=None):
        self.told.append((idx, scores, prob))


@pytest.mark.parametrize("needs", ["none", "norm", "loss", "upper"])
@pytest.mark.parametrize("scope", ["none", "all", "visits"])
def test_a_scheme_of_ones_own_trains_and_hears_of_visits(needs, scope):
    duck = Duck(needs, scope)
    history, _ = run(duck)
    assert history.diverged_at is None and history.grad_evals == 24
    assert len(duck.told) == (6 if scope == "visits" else 0)
    for idx, scores, prob in duck.told:
        assert len(idx) == len(prob) == 4 and (needs == "none") == (scores is None)


def test_values_are_matched_by_name():
    x, y, model = tiny()
    answers = iter([{"a": 1.0, "b": 2.0}, {"b": 4.0, "a": 3.0, "late": 0.0}])
    history = train(
        model,
        nll,
        x,
        y,
        torch.optim.SGD(model.parameters(), lr=0.1),
        schemes.Uniform(),
        batch=4,
        steps=1,
        seed=0,
        evaluate=lambda m: next(answers),
        eval_every=1,
    )
    assert {k: list(v) for k, v in history.values.items()} == {"a": [1, 3], "b": [2, 4]}


def test_an_error_of_the_optimizers_own_is_not_swallowed():
    x, y, model = tiny()

    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            raise Diverged("the second moment is not finite")

    with pytest.raises(Diverged, match="second moment"):
        train(
            model,
            nll,
            x,
            y,
            Broken(model.parameters(), lr=0.1),
            schemes.Uniform(),
            batch=4,
            steps=1,
            seed=0,
        )


def test_a_single_step_is_made_whatever_the_loss_is_unless_it_is_guarded():
    x, y, model = tiny()
    before = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def broken(out, target):
        return nll(out, target) * math.nan

    losses = training.weighted_step(
        model, broken, x[:4], y[:4], optimizer, np.full(4, 0.25), guard=True
    )
    assert losses.isnan().all() and torch.equal(before, model[0].weight)
    training.weighted_step(model, broken, x[:4], y[:4], optimizer, np.full(4, 0.25))
    assert model[0].weight.isnan().any()


class Pairs(torch.nn.Module):
    "Takes its input by name and returns a dict."

    def __init__(self):
        super().__init__()
        self.l = torch.nn.Linear(3, 1)

    def forward(self, left, right):
        return {"out": self.l(left * right)}


def test_dicts_and_tuples_train_as_tensors_do():
    left, right = torch.randn(2, 20, 3)
    y = torch.randn(20)

    def trained(x, targets, loss):
        torch.manual_seed(0)
        model = Pairs()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        done = train(
            model, loss, x, targets, optimizer, schemes.GradNorm(), batch=4, steps=5, seed=0
        )
        assert done.diverged_at is None
        return model.l.weight.detach()

    def by_name(out, y):
        return (out["out"][:, 0] - y["target"]).square()

    def plain(out, y):
        return (out["out"][:, 0] - y).square()

    found = trained({"left": left, "right": right}, {"target": y}, by_name)
    assert torch.equal(found, trained((left, right), y, plain))


@pytest.mark.parametrize(
    "scheme, words",
    [("gn", "got the name 'gn'"), (schemes.GradNorm, r"GradNorm is a class"), (3, "int has not")],
)
def test_what_is_no_scheme_is_refused_in_words(scheme, words):
    with pytest.raises(InvalidArgument, match=words):
        run(scheme)


def test_a_score_of_the_visited_items_that_is_not_finite_ends_the_training_there():
    "The loss is finite, the norm that the scheme asks for is not."
    x = torch.full((4, 1), 1e200, dtype=torch.float64)
    model = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    history = train(
        model,
        lambda out, y: (out[:, 0] - y).square(),
        x,
        torch.full((4,), 1e150, dtype=torch.float64),
        torch.optim.SGD(model.parameters(), lr=0.0),
        schemes.Stale("norm"),
        batch=2,
        steps=3,
        seed=0,
    )
    assert history.diverged_at == 0


def test_a_training_probes_and_shuffles_its_first_epoch():
    "Every item once in the first epoch, then draws; norms of one batch in three are looked at."
    scheme = schemes.Stale("loss", shuffle_first=True, probe_every=3).init(12)
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1).double()
    x = torch.randn(12, 3).double()
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    seen = []
    scored = 0
    for t in range(9):
        done = training_step(
            scheme,
            net,
            lambda out, y: out.square().sum(1),
            x,
            x,
            opt,
            batch=4,
            stream=CounterStream(0),
            step=t,
        )
        seen.append(sorted(done.choice.idx))
        scored += done.scored
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:6])
    assert sorted(first) == list(range(12)) != sorted(second)
    assert scored == 3 * 4
    assert scheme.probed[0].counts.any()


def small_run(**changed):
    model = torch.nn.Linear(2, 1)
    given = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "seed": 0} | changed
    x, y = torch.randn(6, 2), torch.randn(6, 1)
    rest = {"batch": 2, "steps": 2, "eval_every": 1}
    optimizer = given.pop("optimizer")

    def loss_fn(output, y):
        return (output - y).square().sum(1)

    return train(model, loss_fn, x, y, optimizer, schemes.Uniform(), **rest, **given)


def test_an_optimizer_of_another_model_is_refused_and_does_not_train_nothing():
    assert small_run().grad_evals == 4
    other = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)
    with pytest.raises(InvalidArgument, match="no parameter of this model"):
        small_run(optimizer=other)


@pytest.mark.parametrize("seed", [None, "a", 1.5, -1])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InvalidArgument, match="seed"):
        small_run(seed=seed)


def test_an_evaluation_is_a_dict_of_the_same_names():
    names = iter("ab")
    for evaluate in (lambda model: 1.0, lambda model: {next(names): 1.0}):
        with pytest.raises(InvalidArgument, match="names of the first time"):
            small_run(evaluate=evaluate)
