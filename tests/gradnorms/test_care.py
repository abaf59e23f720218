"""Per-sample gradient norms: refusals with a clear word, and no trace on the model, also on failure."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.errors import InvalidArgument, InvalidShape, UnknownName, UnsupportedModel
from impsamp.gradnorms import (
    choose_method,
    evaluation_statistics,
    grad_norms,
    loss_scores,
    output_gradient_norms,
    per_sample_grads,
    preconditioner_of,
    upper_bound_scores,
)

ALL = ("auto", "ghost", "vmap", "loop")


def squared(out, y):
    return (out.flatten(1) - y).square().sum(1)


def mlp(d=torch.float64):
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).to(d),
        torch.randn(5, 6, dtype=d),
        torch.randn(5, 1, dtype=d),
    )


def state(model):
    "Everything that could have changed, as bytes and plain values."
    hooks = [len(getattr(m, a)) for m in model.modules() for a in vars(m) if a.endswith("_hooks")]
    return (
        {k: v.numpy().tobytes() for k, v in model.state_dict().items()},
        [m.training for m in model.modules()],
        [
            (id(p), p.requires_grad, None if p.grad is None else p.grad.numpy().tobytes())
            for p in model.parameters()
        ],
        [id(b) for b in model.buffers()],
        hooks,
        sorted(map(str, vars(model))),
        torch.get_rng_state().numpy().tobytes(),
    )


class Counter(nn.Module):
    "Changes a buffer in place and replaces another one in every forward pass."

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)
        self.register_buffer("calls", torch.zeros(())), self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        self.calls += 1
        self.last = x.mean() + torch.zeros(4)
        return self.l(x)


def normed():
    return nn.Sequential(
        nn.Unflatten(1, (2, 3)),
        nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(
    "make",
    [lambda: nn.Sequential(nn.Linear(6, 4)), Counter, normed],
    ids=["plain", "counter", "instance-norm"],
)
def test_the_model_is_as_found(make, method):
    torch.manual_seed(1)
    model, x, y = make(), torch.randn(5, 6), torch.randn(5, 1)
    squared(model(x), y).mean().backward()
    before = state(model)
    try:
        grad_norms(model, squared, x, y, method=method)
    except RuntimeError:
        assert method == "vmap" and any(True for _ in model.buffers()), (
            "torch.func refuses in-place changes of buffers"
        )
    assert state(model) == before


class Fails(nn.Module):
    "Raises at the k-th forward pass, after changing a buffer and drawing a random number."

    def __init__(self, k):
        super().__init__()
        self.l = nn.Linear(6, 4)
        self.k = [k]
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += torch.rand(())
        self.k[0] -= 1
        if self.k[0] == 0:
            raise KeyError("on purpose")
        return self.l(x)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("method", ["auto", "ghost", "loop"])
def test_the_model_is_as_found_after_a_failure(method, k):
    model, x, y = Fails(k), torch.randn(5, 6), torch.randn(5, 1)
    squared(model.l(x), y).mean().backward()
    before = state(model)
    with pytest.raises(KeyError, match="on purpose"):
        grad_norms(model, squared, x, y, method=method, chunk_size=2)
    assert state(model) == before


def test_the_model_is_as_found_after_a_failing_loss():
    model, x, y = mlp()
    before = state(model)

    def loss(out, y):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        grad_norms(model, loss, x, y)
    assert state(model) == before


def test_the_random_stream_is_not_disturbed():
    model, x, y = mlp()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    grad_norms(model, squared, x, y)
    assert torch.equal(torch.rand(4), expected)


def test_plans_do_not_keep_the_model_alive():
    model, x, y = mlp()
    grad_norms(model, squared, x, y)
    ref = weakref.ref(model)
    del model
    gc.collect()
    assert ref() is None


def test_a_model_that_changes_between_calls_gets_a_new_plan():
    model, x, y = mlp()
    grad_norms(model, squared, x, y)
    model.append(nn.GRUCell(4, 4).double())
    assert torch.allclose(
        grad_norms(model, squared, x, y), grad_norms(model, squared, x, y, method="loop")
    )
    model[0] = nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9)).double()
    assert torch.allclose(
        grad_norms(model, squared, x, y), grad_norms(model, squared, x, y, method="loop")
    )
    model[2].weight.requires_grad_(False)
    assert torch.allclose(
        grad_norms(model, squared, x, y), grad_norms(model, squared, x, y, method="loop")
    )


class Branches(nn.Module):
    "Control flow that looks at the data: the second half of the batch takes another layer."

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        return self.a(x) if x.mean() < 10 else self.b(x).sin()


def test_control_flow_that_looks_at_the_data_goes_to_the_loop():
    torch.manual_seed(0)
    model, x, y = (
        Branches().double(),
        torch.randn(8, 6, dtype=torch.float64),
        torch.randn(8, 1, dtype=torch.float64),
    )
    x[4:] += 20
    oracle = grad_norms(model, squared, x, y, method="loop")
    plan_first = grad_norms(model, squared, x[:4], y[:4])
    assert torch.allclose(torch.cat([plan_first, grad_norms(model, squared, x[4:], y[4:])]), oracle)


# refusals


@pytest.mark.parametrize("method", ALL)
def test_a_reduced_loss_is_refused(method):
    model, x, y = mlp()
    with pytest.raises(InvalidShape, match="reduction='none'"):
        grad_norms(model, nn.MSELoss(), x, y.expand(5, 4), method=method)
    with pytest.raises(InvalidShape, match="sum over every axis"):
        grad_norms(model, nn.MSELoss(reduction="none"), x, y.expand(5, 4), method=method)
    with pytest.raises(InvalidShape, match="tensor of shape"):
        grad_norms(model, lambda o, t: 1.0, x, y, method=method)


def interacting():
    return {
        "softmax over the batch": (lambda out, y: -out.log_softmax(0)[:, 0]),
        "centred": (lambda out, y: (out - out.mean(0)).square().sum(1)),
        "expanded mean": (lambda out, y: out.square().mean().expand(len(out))),
    }


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("name", interacting())
def test_a_loss_that_mixes_samples_is_refused(name, method):
    model, x, y = mlp()
    with pytest.raises(UnsupportedModel, match="samples interact"):
        grad_norms(model, interacting()[name], x, y, method=method)


class Mixes(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)

    def forward(self, x):
        h = self.l(x)
        return h - h.mean(0)


class FunctionalBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)

    def forward(self, x):
        return F.batch_norm(self.l(x), None, None, training=True)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(
    "make, word",
    [
        (Mixes, "interact"),
        (FunctionalBatchNorm, "batch statistics|interact"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), "evaluation_statistics"),
        (
            lambda: nn.Sequential(
                nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False)
            ).eval(),
            "batch statistics",
        ),
    ],
)
def test_a_model_that_mixes_samples_is_refused(make, word, method):
    torch.manual_seed(0)
    model, x, y = make(), torch.randn(5, 6), torch.randn(5, 1)
    before = state(model)
    with pytest.raises(UnsupportedModel, match=word):
        grad_norms(model, squared, x, y, method=method)
    assert state(model) == before


class FunctionalDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 4)

    def forward(self, x):
        return F.dropout(self.l(x), 0.5)


class Noise(FunctionalDropout):
    def forward(self, x):
        return self.l(x + 1e-6 * torch.randn_like(x))


@pytest.mark.parametrize("method", ["auto", "ghost", "loop"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Dropout(), nn.Linear(6, 4)),
        FunctionalDropout,
        Noise,
        lambda: nn.Sequential(nn.LSTM(6, 4, num_layers=2, dropout=0.5)),
    ],
    ids=["module", "functional", "noise", "lstm"],
)
def test_random_masks_are_refused_by_every_method(make, method):
    model, x, y = make(), torch.randn(5, 6), torch.randn(5, 1)
    before = state(model)
    with pytest.raises(UnsupportedModel, match="random|interact"):
        grad_norms(model, squared, x, y, method=method)
    assert state(model) == before


def test_dropout_of_rate_zero_or_in_evaluation_is_no_mask():
    x, y = torch.randn(5, 6), torch.randn(5, 1)
    assert grad_norms(nn.Sequential(nn.Dropout(0.0), nn.Linear(6, 4)), squared, x, y).shape == (5,)
    assert grad_norms(nn.Sequential(nn.Dropout(), nn.Linear(6, 4)).eval(), squared, x, y).shape == (
        5,
    )


def test_evaluation_statistics_switches_only_what_it_must_and_back():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(),
        nn.InstanceNorm2d(4),
        nn.Flatten(),
        nn.Linear(144, 2),
    )
    model[4].eval()
    x, y = torch.randn(5, 3, 8, 8), torch.randn(5, 1)
    model(x)
    before = state(model)
    with evaluation_statistics(model):
        assert [m.training for m in model] == [True, False, False, True, False, True]
        found = grad_norms(model, squared, x, y)
    assert state(model) == before
    assert torch.allclose(
        found, grad_norms(copy.deepcopy(model).eval(), squared, x, y, method="loop"), rtol=1e-5
    )
    with pytest.raises(KeyError), evaluation_statistics(model):
        raise KeyError
    assert state(model) == before
    with pytest.raises(UnsupportedModel, match="running statistics"):
        with evaluation_statistics(nn.BatchNorm1d(2, track_running_stats=False)):
            pass


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(
    "bad, error, word",
    [
        (lambda x, y: (x[:0], y[:0]), InvalidShape, "empty"),
        (lambda x, y: (x, y[:3]), InvalidShape, "5 samples but y has 3"),
        (lambda x, y: (x.numpy(), y), InvalidArgument, "must be a tensor"),
        (lambda x, y: (x, list(y)), InvalidArgument, "must be a tensor"),
        (lambda x, y: (x[0, 0], y), InvalidShape, "sample axis"),
        (lambda x, y: ((x * 10).long(), y), InvalidArgument, "int64"),
        (lambda x, y: (x.half(), y), InvalidArgument, "float16"),
        (lambda x, y: (x > 0, y), InvalidArgument, "bool"),
    ],
)
def test_bad_batches(bad, error, word, method):
    model, x, y = mlp()
    with pytest.raises(error, match=word):
        grad_norms(model, squared, *bad(x, y), method=method)


def test_integer_images_are_refused_with_advice():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    with pytest.raises(InvalidArgument, match="x.to"):
        grad_norms(model, squared, torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, 1))


def test_bad_options():
    model, x, y = mlp()
    with pytest.raises(UnknownName, match="did you mean 'ghost'"):
        grad_norms(model, squared, x, y, method="gost")
    for chunk in (0, -1, 2.5):
        with pytest.raises(InvalidArgument, match="chunk_size"):
            grad_norms(model, squared, x, y, chunk_size=chunk)
    with pytest.raises(UnknownName, match="method"):
        per_sample_grads(model, squared, x, y, method="ghosts")
    with pytest.raises(InvalidArgument, match="max_bytes"):
        per_sample_grads(model, squared, x, y, max_bytes=100)


def test_nothing_to_differentiate():
    model, x, y = mlp()
    with pytest.raises(UnsupportedModel, match="do not depend"):
        grad_norms(model, lambda o, t: squared(o.detach(), t), x, y)
    model.requires_grad_(False)
    with pytest.raises(UnsupportedModel, match="no parameter"):
        grad_norms(model, squared, x, y)
    with pytest.raises(UnsupportedModel, match="max_norm"):
        grad_norms(nn.Embedding(3, 2, max_norm=1.0), squared, torch.tensor([[1]]), y[:1])
    with pytest.raises(UnsupportedModel, match="not initialised"):
        grad_norms(nn.LazyLinear(3), squared, x, y)


def test_ghost_refuses_what_it_does_not_cover_and_names_it():
    model = nn.Sequential(nn.Linear(6, 6), nn.GRUCell(6, 3))
    with pytest.raises(UnsupportedModel, match="1.weight_ih"):
        grad_norms(model, squared, torch.randn(5, 6), torch.randn(5, 1), method="ghost")
    assert choose_method(model) == {
        "0.weight": "ghost",
        "0.bias": "ghost",
        **{f"1.{a}_{b}": "vmap" for a in ("weight", "bias") for b in ("ih", "hh")},
    }


def test_in_place_change_of_a_layer_input_is_refused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = self.a(x)
            out = self.b(h)
            h.add_(1)
            return out + h

    with pytest.raises(UnsupportedModel, match="in place"):
        grad_norms(Model(), squared, torch.randn(5, 6), torch.randn(5, 1))


def test_parameters_changed_by_the_forward_pass_are_refused():
    class Model(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                self.bias.add_(1)
            return super().forward(x)

    with pytest.raises(UnsupportedModel, match="in place|interact"):
        grad_norms(Model(6, 4), squared, torch.randn(5, 6), torch.randn(5, 1))


def test_non_finite_losses_show_as_non_finite_norms_of_their_own_sample():
    model, x, y = mlp()
    x[3] = float("nan")
    found = grad_norms(model, squared, x, y)
    assert found.isnan().tolist() == [False, False, False, True, False]
    keep = [0, 1, 2, 4]
    assert torch.allclose(found[keep], grad_norms(model, squared, x[keep], y[keep]))


def test_zero_gradients_give_zero_norms():
    model, x, y = mlp()
    assert torch.equal(
        grad_norms(model, lambda o, t: 0 * squared(o, t), x, y), torch.zeros(5, dtype=torch.float64)
    )


# preconditioners


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, eps=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, betas=(0.8, 0.7)),
    "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, alpha=0.5),
    "centered": lambda p: torch.optim.RMSprop(p, centered=True, alpha=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_preconditioner_is_what_the_optimizer_divides_by(name):
    "One step with a gradient d that hardly changes the state moves theta by lr * D d (momentum off), so D can be read off the step."
    model, x, y = mlp()
    opt = OPTIMIZERS[name](model.parameters())
    for _ in range(4):
        opt.zero_grad()
        squared(model(x), y).mean().backward()
        opt.step()
    D, group = preconditioner_of(opt, model), opt.param_groups[0]
    p, s = model[0].weight, opt.state[model[0].weight]
    if "exp_avg" in s:
        t = float(s["step"])
        v = s["max_exp_avg_sq"] if name == "amsgrad" else s["exp_avg_sq"]
        expected = 1 / ((v / (1 - group["betas"][1] ** t)).sqrt() + group["eps"])
    else:
        before = p.detach().clone()
        frozen = copy.deepcopy(opt.state_dict())
        other = OPTIMIZERS[name](model.parameters())
        other.load_state_dict(frozen)
        for q in model.parameters():
            q.grad = 1e-9 * torch.ones_like(q)
        other.param_groups[0]["alpha"] = 1.0
        other.step()
        expected = (before - p.detach()) / (group["lr"] * 1e-9)
        if name == "centered":
            expected = expected.clamp(max=expected.max())
    assert torch.allclose(D["0.weight"], expected, rtol=1e-3)


@pytest.mark.parametrize("method", ALL)
def test_precondition_gives_the_norm_of_D_g(method):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 8), nn.Tanh(), nn.Linear(8, 2)
    ).double()
    x, y = torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    D = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    grads = per_sample_grads(model, squared, x, y)
    expected = torch.cat([(D[name] * g).flatten(1) for name, g in grads.items()], 1).norm(dim=1)
    assert torch.allclose(
        grad_norms(model, squared, x, y, method=method, precondition=D), expected, rtol=1e-10
    )
    assert torch.allclose(
        grad_norms(model, squared, x, y, method=method, precondition=list(D.values())),
        expected,
        rtol=1e-10,
    )
    tripled = grad_norms(model, squared, x, y, method=method, precondition=[3.0] * len(D))
    assert torch.allclose(tripled, 3 * grad_norms(model, squared, x, y), rtol=1e-10)


def test_precondition_on_embeddings_and_tied_weights():
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.f = nn.Embedding(7, 3), nn.Embedding(7, 3)

        def forward(self, t):
            return F.linear(self.e(t) + self.f(t), self.e.weight)

    model, x, y = (
        Model().double(),
        torch.randint(0, 7, (5, 4)),
        torch.randn(5, 1, dtype=torch.float64),
    )
    D = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    assert torch.allclose(
        *(grad_norms(model, squared, x, y, method=m, precondition=D) for m in ("ghost", "loop")),
        rtol=1e-10,
    )


def test_precondition_in_float32_at_the_scale_of_adam():
    "D up to 1e8 on gradients of 1e-8: squares of squares must not leave float32."
    model, x, y = mlp(torch.float32)
    D = {name: 10 ** (16 * torch.rand(p.shape) - 8) for name, p in model.named_parameters()}

    def small(o, t):
        return 1e-8 * squared(o, t)

    found = grad_norms(model, small, x, y, precondition=D)
    wide = grad_norms(
        copy.deepcopy(model).double(),
        small,
        x.double(),
        y.double(),
        precondition={k: v.double() for k, v in D.items()},
        method="loop",
    )
    assert (found - wide).abs().max() <= 1e-5 * wide.max()


def test_bad_preconditioners():
    model, x, y = mlp()
    opt = torch.optim.Adam(model.parameters())
    with pytest.raises(InvalidArgument, match="take a step"):
        preconditioner_of(opt, model)
    with pytest.raises(InvalidArgument, match="not among"):
        preconditioner_of(torch.optim.Adam([nn.Parameter(torch.ones(1))]), model)
    sgd = torch.optim.SGD(model.parameters(), momentum=0.9, lr=0.1)
    squared(model(x), y).mean().backward(), sgd.step(), opt.step()
    with pytest.raises(UnsupportedModel, match="second moment"):
        preconditioner_of(sgd, model)
    good = preconditioner_of(opt, model)
    clipped = preconditioner_of(opt, model, clip=2.0)
    middle = torch.cat([d.flatten() for d in good.values()]).median()
    assert all(torch.equal(clipped[k], good[k].clamp(max=2 * middle)) for k in good)
    for bad, error, word in (
        ({"0.weight": 1.0}, InvalidArgument, "lacks 0.bias"),
        ([1.0], InvalidArgument, "1 entries for 4"),
        ({**good, "0.bias": torch.ones(3)}, InvalidShape, "broadcast"),
        ({**good, "0.bias": float("inf")}, InvalidArgument, "finite"),
    ):
        with pytest.raises(error, match=word):
            grad_norms(model, squared, x, y, precondition=bad)


# cheap scores


def test_upper_bound_is_the_gradient_at_the_last_layer():
    torch.manual_seed(0)
    logits, x, y = (
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)),
        torch.randn(5, 6),
        torch.tensor([0, 1, 2, 0, 1]),
    )

    def ce(o, t):
        return F.cross_entropy(o, t, reduction="none")

    expected = (logits(x).softmax(1) - F.one_hot(y)).norm(dim=1).double()
    assert torch.allclose(upper_bound_scores(logits, ce, x, y), expected) and torch.allclose(
        output_gradient_norms(logits, ce, x, y), expected
    )
    ended = nn.Sequential(*logits, nn.LogSoftmax(1))

    def nll(o, t):
        return F.nll_loss(o, t, reduction="none")

    assert torch.allclose(upper_bound_scores(ended, nll, x, y), expected)
    assert torch.allclose(
        output_gradient_norms(ended, nll, x, y), torch.ones(5, dtype=torch.float64)
    )
    assert torch.allclose(loss_scores(ended, nll, x, y), ce(logits(x), y).double())


def test_the_bound_holds_for_the_last_layer_itself():
    "||d loss / d (W, c)|| = sqrt(|h|^2 + 1) * score, exactly, for the last layer's own parameters."
    torch.manual_seed(0)
    model, x, y = (
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).double(),
        torch.randn(5, 6, dtype=torch.float64),
        torch.randn(5, 1, dtype=torch.float64),
    )
    score = upper_bound_scores(model, squared, x, y)
    h = model[:2](x)
    model[0].requires_grad_(False)
    assert torch.allclose(grad_norms(model, squared, x, y), score * (h.square().sum(1) + 1).sqrt())


def test_cheap_scores_leave_no_trace_and_refuse_two_heads():
    model, x, y = mlp()
    before = state(model)
    for score in (loss_scores, output_gradient_norms, upper_bound_scores):
        assert score(model, squared, x, y).dtype == torch.float64
    assert state(model) == before

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            return self.a(x) * self.b(x)

    with pytest.raises(UnsupportedModel, match="last layer"):
        upper_bound_scores(Heads().double(), squared, x, y)
    with pytest.raises(InvalidShape):
        loss_scores(model, nn.MSELoss(), x, y.expand(5, 4))


def test_numpy_generator_of_the_user_is_not_needed():
    "Scoring takes no randomness at all, so two calls agree to the last bit."
    model, x, y = mlp()
    np.random.seed(0)
    a = grad_norms(model, squared, x, y)
    np.random.seed(1)
    assert torch.equal(a, grad_norms(model, squared, x, y))
