"""Per-sample gradient norms against the loop, over layers x settings x losses x precision; no trace on the model."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.gradnorms import NORM_METHODS, choose_method, grad_norms, per_sample_grads
from impsamp.problems import PaperCNN

N = 5
BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}


class Lambda(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


class TimeFirst(nn.Module):
    "Batch second inside, as in torch's own recurrent and attention defaults."

    def __init__(self, *layers):
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x):
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


class SelfAttention(nn.Module):
    def __init__(self, d=8, heads=2, **kw):
        super().__init__()
        self.a = nn.MultiheadAttention(d, heads, **kw)

    def forward(self, x):
        return self.a(x, x, x, need_weights=False)[0]


class CrossAttention(SelfAttention):
    def forward(self, x):
        return self.a(x, x.flip(1), 2 * x)[0]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 6)

    def forward(self, x):
        return self.l(self.l(x).tanh())


class TwiceConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.c(F.relu(self.c(x)))


class TiedLanguage(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(11, 4)
        self.l = nn.Linear(4, 4)

    def forward(self, t):
        return F.linear(self.l(self.e(t)), self.e.weight)


class Learned(nn.Module):
    "Learned positions, a layer scale, a class token, a scalar temperature and a bare matrix."

    def __init__(self):
        super().__init__()
        self.positions, self.scale, self.token = (
            nn.Parameter(torch.randn(1, 5, 8)),
            nn.Parameter(torch.randn(8)),
            nn.Parameter(torch.randn(1, 1, 8)),
        )
        self.temperature, self.matrix = (
            nn.Parameter(torch.tensor(1.5)),
            nn.Parameter(torch.randn(8, 3)),
        )

    def forward(self, x):
        h = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return (self.scale * h) @ self.matrix * self.temperature


class Mosaic(nn.Module):
    "Several images per sample share one convolution and one group norm."

    def __init__(self):
        super().__init__()
        self.c, self.g, self.p = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.PReLU(4)

    def forward(self, x):
        return self.p(
            self.g(self.c(x.unflatten(3, (2, -1)).movedim(3, 1).flatten(0, 1)))
        ).unflatten(0, (len(x), 2))


class MosaicInstance(nn.Module):
    "Several images per sample, each normalised on its own by statistics of its own."

    def __init__(self):
        super().__init__()
        self.c, self.g = nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True)

    def forward(self, x):
        return (
            self.g(self.c(x.unflatten(3, (2, -1)).movedim(3, 1).flatten(0, 1)))
            .tanh()
            .unflatten(0, (len(x), 2))
        )


class Affine(nn.Module):
    "Bare parameters only: positions added from the left, a scale, a matrix on the right; every one has a rule."

    def __init__(self):
        super().__init__()
        self.add, self.scale, self.matrix = (
            nn.Parameter(torch.randn(4, 8)),
            nn.Parameter(torch.randn(8)),
            nn.Parameter(torch.randn(8, 3)),
        )

    def forward(self, x):
        return torch.tanh((self.add + x) * self.scale) @ self.matrix


class BothWays(nn.Module):
    "One matrix from the right and, transposed, as a linear layer: the cross term knows which way round each use is."

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return F.linear(torch.tanh(x @ self.w), self.w)


class Shared(nn.Module):
    "A factor that is the same for all samples: no sample axis to find."

    def __init__(self):
        super().__init__()
        self.w, self.l = nn.Parameter(torch.randn(N, N)), nn.Linear(N, N)

    def forward(self, x):
        return x @ self.l(self.w)


class Weighted(nn.Module):
    "A weight that is itself computed from parameters."

    def __init__(self):
        super().__init__()
        self.l = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))

    def forward(self, x):
        return self.l(x)


def image(n=N):
    return torch.randn(n, 3, 8, 8)


def row(n=N):
    return torch.randn(n, 6)


def sequence(n=N):
    return torch.randn(n, 4, 8)


def words(n=N):
    return torch.randint(0, 11, (n, 6))


seq = nn.Sequential
CASES = {  # name: (model, input, every parameter covered by a ghost rule)
    "linear": (lambda: nn.Linear(6, 3), row, True),
    "linear-nobias": (lambda: nn.Linear(6, 3, bias=False), row, True),
    "linear-positions": (lambda: nn.Linear(8, 3), sequence, True),
    "linear-positions-gram": (
        lambda: seq(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64)),
        lambda: torch.randn(N, 3, 8),
        True,
    ),
    "linear-two-axes": (lambda: nn.Linear(8, 3), lambda: torch.randn(N, 2, 4, 8), True),
    "linear-square-positions": (lambda: nn.Linear(8, 8), lambda: torch.randn(N, N, 8), True),
    "mlp": (lambda: seq(nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 4)), row, True),
    "batch-second": (lambda: TimeFirst(nn.Linear(8, 5), nn.LayerNorm(5)), sequence, True),
    "batch-second-square": (
        lambda: TimeFirst(nn.Linear(8, 5), nn.LayerNorm(5)),
        lambda: torch.randn(3, 3, 8),
        True,
    ),
    "merged": (
        lambda: seq(
            Lambda(lambda x: x.flatten(0, 1)),
            nn.Linear(8, 3),
            Lambda(lambda x: x.unflatten(0, (-1, 4))),
        ),
        sequence,
        True,
    ),
    "conv1d": (lambda: nn.Conv1d(4, 3, 3), sequence, True),
    "conv1d-stride-dilation": (
        lambda: nn.Conv1d(4, 6, 2, stride=2, dilation=3, padding=2, groups=2),
        sequence,
        True,
    ),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3), image, True),
    "conv2d-stride": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), image, True),
    "conv2d-odd": (
        lambda: nn.Conv2d(3, 4, (3, 2), stride=(1, 3), padding=(2, 0), dilation=(1, 2)),
        image,
        True,
    ),
    "conv2d-rest": (lambda: nn.Conv2d(3, 4, 3, stride=3), image, True),
    "conv2d-groups": (lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False), image, True),
    "conv2d-pointwise": (lambda: nn.Conv2d(3, 6, 1), image, True),
    "conv2d-gram": (lambda: seq(nn.Conv2d(3, 64, 3, stride=4), nn.Conv2d(64, 64, 2)), image, True),
    "conv2d-wide": (
        lambda: seq(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 16, 3, stride=3, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 16, 2, groups=2),
        ),
        image,
        True,
    ),
    "conv2d-wide-odd": (
        lambda: seq(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, (3, 2), padding="same", dilation=(1, 2))),
        image,
        True,
    ),
    "conv1d-wide": (
        lambda: seq(nn.Conv1d(4, 16, 1), nn.Conv1d(16, 8, 3, stride=2, padding=1)),
        sequence,
        True,
    ),
    "conv3d-wide": (
        lambda: nn.Conv3d(8, 8, 2, padding=(0, 1, 0)),
        lambda: torch.randn(N, 8, 3, 3, 4),
        True,
    ),
    "conv-transpose2d-wide": (
        lambda: seq(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 16, 3, stride=2, output_padding=1)),
        image,
        True,
    ),
    "conv2d-same": (lambda: nn.Conv2d(3, 4, (3, 4), padding="same"), image, True),
    "conv2d-valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), image, True),
    "conv2d-circular": (
        lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
        image,
        True,
    ),
    "conv2d-reflect": (lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect"), image, True),
    "conv2d-replicate": (
        lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"),
        image,
        True,
    ),
    "conv3d": (
        lambda: nn.Conv3d(1, 2, (2, 3, 2), stride=(1, 2, 1), padding=1),
        lambda: torch.randn(N, 1, 4, 5, 4),
        True,
    ),
    "conv3d-dilation": (
        lambda: nn.Conv3d(2, 2, 2, dilation=2, groups=2),
        lambda: torch.randn(N, 2, 4, 5, 4),
        True,
    ),
    "conv-transpose1d": (lambda: nn.ConvTranspose1d(4, 3, 3, stride=2), sequence, True),
    "conv-transpose2d": (
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
        image,
        True,
    ),
    "conv-transpose2d-groups": (
        lambda: nn.ConvTranspose2d(3, 6, 2, groups=3, dilation=2),
        image,
        True,
    ),
    "embedding": (lambda: nn.Embedding(11, 4), words, True),
    "embedding-padding": (lambda: nn.Embedding(11, 4, padding_idx=3), words, True),
    "embedding-sparse": (lambda: nn.Embedding(11, 4, sparse=True), words, True),
    "embedding-frequency": (lambda: nn.Embedding(11, 4, scale_grad_by_freq=True), words, False),
    "embedding-batch-second": (lambda: TimeFirst(nn.Embedding(11, 4)), words, True),
    "embedding-bag": (lambda: nn.EmbeddingBag(11, 4), words, False),
    "layernorm": (lambda: seq(nn.LayerNorm(8), nn.Linear(8, 2)), sequence, True),
    "layernorm-two-axes": (lambda: nn.LayerNorm((4, 8)), sequence, True),
    "layernorm-nobias": (lambda: nn.LayerNorm(8, bias=False), sequence, True),
    "rmsnorm": (lambda: nn.RMSNorm(8), sequence, True),
    "groupnorm": (lambda: seq(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()), image, True),
    "groupnorm-flat": (lambda: nn.GroupNorm(3, 6), row, True),
    "instancenorm": (lambda: nn.InstanceNorm2d(3, affine=True), image, True),
    "instancenorm-running": (
        lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True).eval(),
        image,
        True,
    ),
    "instancenorm-tracking": (
        lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        image,
        True,
    ),
    "instancenorm1d": (
        lambda: seq(nn.Conv1d(4, 3, 1), nn.InstanceNorm1d(3, affine=True), nn.Tanh()),
        sequence,
        True,
    ),
    "instancenorm3d": (
        lambda: seq(nn.InstanceNorm3d(2, affine=True), nn.Tanh()),
        lambda: torch.randn(N, 2, 3, 2, 2),
        True,
    ),
    "instancenorm-conv": (
        lambda: seq(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.InstanceNorm2d(4, affine=True),
            nn.ReLU(),
            nn.Conv2d(4, 2, 3),
        ),
        image,
        True,
    ),
    "instancenorm-mosaic": (MosaicInstance, image, True),
    "instancenorm-eps": (lambda: nn.InstanceNorm2d(3, affine=True, eps=0.5), image, True),
    "groupnorm-eps": (lambda: nn.GroupNorm(1, 3, eps=0.5), image, True),
    "layernorm-eps": (lambda: nn.LayerNorm(8, eps=0.5), sequence, True),
    "rmsnorm-eps": (lambda: nn.RMSNorm(8, eps=0.5), sequence, True),
    "batchnorm-eps": (lambda: nn.BatchNorm2d(3, eps=0.5).eval(), image, True),
    "affine": (Affine, sequence, True),
    "both-ways": (BothWays, sequence, True),
    "batchnorm-eval": (
        lambda: seq(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        ).eval(),
        image,
        True,
    ),
    "batchnorm1d-eval": (lambda: nn.BatchNorm1d(6).eval(), row, True),
    "prelu": (lambda: seq(nn.Linear(6, 4), nn.PReLU(), nn.PReLU(4)), row, True),
    "prelu-image": (lambda: seq(nn.PReLU(3), nn.PReLU()), image, True),
    "attention": (lambda: SelfAttention(batch_first=True), sequence, True),
    "attention-batch-second": (lambda: TimeFirst(SelfAttention()), sequence, True),
    "attention-nobias": (lambda: SelfAttention(batch_first=True, bias=False), sequence, True),
    "attention-bias-kv": (
        lambda: SelfAttention(batch_first=True, add_bias_kv=True),
        sequence,
        False,
    ),
    "attention-cross": (lambda: CrossAttention(batch_first=True), sequence, False),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        sequence,
        True,
    ),
    "encoder-eval": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True).eval(),
        sequence,
        True,
    ),
    "decoder": (
        lambda: type(
            "D",
            (nn.TransformerDecoderLayer,),
            {"forward": lambda s, x: nn.TransformerDecoderLayer.forward(s, x, x.sin())},
        )(8, 2, 16, dropout=0.0, batch_first=True),
        sequence,
        False,
    ),
    "lstm": (lambda: seq(nn.LSTM(8, 3, batch_first=True), Lambda(lambda o: o[0])), sequence, False),
    "gru-cell": (lambda: nn.GRUCell(6, 3), row, False),
    "bilinear": (
        lambda: type(
            "B", (nn.Bilinear,), {"forward": lambda s, x: nn.Bilinear.forward(s, x, x.cos())}
        )(6, 6, 2),
        row,
        False,
    ),
    "twice": (Twice, row, True),
    "twice-conv": (TwiceConv, image, True),
    "tied-language": (TiedLanguage, words, True),
    "learned": (Learned, sequence, False),
    "mosaic": (Mosaic, image, True),
    "shared": (Shared, lambda: torch.randn(N, N), False),
    "weight-norm": (Weighted, row, False),
    "paper": (PaperCNN, lambda: torch.rand(N, 1, 28, 28), True),
}


def squared(out, y):
    return (out.flatten(1) - y).square().sum(1)


def logistic(out, y):
    return F.softplus(out.flatten(1) * y).mean(1)


def classes(out, y):
    return F.cross_entropy(out.flatten(1), (y[:, 0] > 0).long(), reduction="none")


LOSSES = {"squared": squared, "logistic": logistic, "cross-entropy": classes}


def close(found, oracle, bound):
    worst = (found - oracle).abs().max().item()
    return worst <= bound * oracle.max().item()


def case(name, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    make, data, ghost = CASES[name]
    model, x = make().to(dtype), data()
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    return (
        model,
        (x.to(dtype) if x.is_floating_point() else x),
        torch.randn(len(x), 1, dtype=dtype),
        ghost,
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_loop(name, loss):
    model, x, y, ghost = case(name)
    oracle = grad_norms(model, LOSSES[loss], x, y, method="loop")
    assert oracle.min() > 0, "a test that compares zeros proves nothing"
    assert close(grad_norms(model, LOSSES[loss], x, y), oracle, BOUND[torch.float64])
    methods = choose_method(model, LOSSES[loss], x, y)
    assert (set(methods.values()) == {"ghost"}) == ghost, methods


@pytest.mark.parametrize("name", CASES)
def test_equals_the_float64_loop_in_float32(name):
    model, x, y, _ = case(name, torch.float32)
    wide = copy.deepcopy(model).double()
    oracle = grad_norms(
        wide, squared, x.double() if x.is_floating_point() else x, y.double(), method="loop"
    )
    assert close(grad_norms(model, squared, x, y), oracle, BOUND[torch.float32])


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in CASES
        if n not in ("embedding-bag", "lstm", "embedding-frequency", "embedding-sparse")
    ],
)
def test_vmap_equals_the_loop(name):
    model, x, y, _ = case(name)
    try:
        found = grad_norms(model, squared, x, y, method="vmap")
    except (RuntimeError, ValueError) as e:
        pytest.skip(f"torch.func cannot: {str(e)[:60]}")
    assert close(found, grad_norms(model, squared, x, y, method="loop"), 1e-10)


def test_vmap_really_runs_on_the_paper_network():
    model, x, y, _ = case("paper")
    assert close(
        grad_norms(model, squared, x, y, method="vmap"),
        grad_norms(model, squared, x, y, method="loop"),
        1e-10,
    )
    grads = per_sample_grads(model, squared, x, y)
    assert grads["0.weight"].shape == (N, 5, 1, 5, 5)
    assert close(
        torch.cat([g.flatten(1) for g in grads.values()], 1).norm(dim=1),
        grad_norms(model, squared, x, y),
        1e-10,
    )


@pytest.mark.parametrize(
    "name", ["mlp", "conv2d", "encoder", "learned", "tied-language", "attention-cross"]
)
@pytest.mark.parametrize("chunk", [1, 2, 5, 7])
def test_chunks_do_not_matter(name, chunk):
    model, x, y, _ = case(name)
    whole = grad_norms(model, squared, x, y, method="loop")
    for method in ("auto", "loop"):
        assert close(
            grad_norms(model, squared, x, y, method=method, chunk_size=chunk), whole, 1e-12
        )


@pytest.mark.parametrize("name", ["paper", "encoder", "batch-second", "learned", "embedding"])
def test_one_sample(name):
    model, x, y, _ = case(name)
    whole = grad_norms(model, squared, x, y, method="loop")
    for i in range(2):
        assert close(
            grad_norms(model, squared, x[i : i + 1], y[i : i + 1]), whole[i : i + 1], 1e-10
        )


def test_norms_are_of_the_loss_not_of_the_mean_and_scale_with_it():
    model, x, y, _ = case("mlp")
    base = grad_norms(model, squared, x, y)
    assert torch.allclose(grad_norms(model, lambda o, t: 3 * squared(o, t), x, y), 3 * base)
    repeated = grad_norms(model, squared, x.repeat(7, 1), y.repeat(7, 1))
    assert torch.allclose(repeated, base.repeat(7))


def test_frozen_parameters_are_left_out():
    model, x, y, _ = case("mlp")
    model[0].requires_grad_(False)
    grads = per_sample_grads(model, squared, x, y)
    assert set(grads) == {"2.weight", "2.bias"} == set(choose_method(model, squared, x, y))
    expected = torch.cat([g.flatten(1) for g in grads.values()], 1).norm(dim=1)
    assert close(grad_norms(model, squared, x, y), expected, 1e-12)


def test_a_parameter_without_gradient_counts_zero():
    model, x, y, _ = case("mlp")
    whole = grad_norms(model, squared, x, y)
    model.unused = nn.Linear(3, 3)
    model.forward = lambda x: nn.Sequential.forward(model[:3], x)
    assert torch.equal(grad_norms(model, squared, x, y), whole)


@pytest.mark.parametrize("layout", ["channels-last", "strided", "transposed", "offset"])
@pytest.mark.parametrize(
    "name", ["conv2d", "conv2d-stride", "groupnorm", "conv-transpose2d", "batchnorm-eval"]
)
def test_memory_layouts(name, layout):
    model, x, y, _ = case(name)
    oracle = grad_norms(model, squared, x, y, method="loop")
    z = {
        "channels-last": lambda: x.to(memory_format=torch.channels_last),
        "strided": lambda: x.repeat_interleave(2, 3)[..., ::2],
        "transposed": lambda: x.transpose(2, 3).contiguous().transpose(2, 3),
        "offset": lambda: torch.cat([x[:1], x])[1:],
    }[layout]()
    if layout == "channels-last":
        model = model.to(memory_format=torch.channels_last)
    assert torch.equal(z, x)
    assert close(grad_norms(model, squared, z, y), oracle, 1e-10)


@pytest.mark.parametrize("name", ["mlp", "paper", "encoder", "groupnorm"])
def test_bfloat16_autocast_on_cpu(name):
    model, x, y, _ = case(name, torch.float32)
    exact = grad_norms(model, squared, x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, loop = (
            grad_norms(model, squared, x, y),
            grad_norms(model, squared, x, y, method="loop"),
        )
    assert close(found, loop, 0.03) and close(found, exact, 0.1) and not torch.equal(found, exact)


def test_bfloat16_model():
    model, x, y, _ = case("mlp", torch.bfloat16)
    assert close(
        grad_norms(model, squared, x, y),
        grad_norms(copy.deepcopy(model).double(), squared, x.double(), y.double()),
        0.1,
    )


@pytest.mark.parametrize("scale", [1e-22, 1e18])
def test_extreme_gradients_neither_underflow_nor_overflow(scale):
    model, x, y, _ = case("mlp", torch.float32)
    base = grad_norms(model, squared, x, y)
    assert close(grad_norms(model, lambda o, t: scale * squared(o, t), x, y) / scale, base, 1e-5)


def test_cancelling_positions_keep_their_digits():
    "Output gradients that sum to zero over positions, on inputs with a large common part: the Gram form alone would lose five digits."
    model, x = nn.Linear(64, 64, bias=False), 100 + torch.randn(4, 3, 64)
    pull = torch.randn(4, 3, 64)
    pull -= pull.mean(1, keepdim=True)

    def loss(o, y):
        return (o * y).sum((1, 2))

    oracle = grad_norms(
        copy.deepcopy(model).double(), loss, x.double(), pull.double(), method="loop"
    )
    assert close(grad_norms(model, loss, x, pull), oracle, 1e-5)


def test_inside_no_grad_and_inference_mode():
    model, x, y, _ = case("mlp")
    base = grad_norms(model, squared, x, y)
    with torch.no_grad():
        assert torch.equal(grad_norms(model, squared, x, y), base) and not torch.is_grad_enabled()
    with torch.inference_mode():
        assert torch.allclose(grad_norms(model, squared, x * 1, y * 1), base)


def test_results_are_detached_float64_and_deterministic():
    model, x, y, _ = case("encoder", torch.float32)
    a, b = (grad_norms(model, squared, x.clone().requires_grad_(), y) for _ in range(2))
    assert (
        a.dtype == torch.float64 and not a.requires_grad and torch.equal(a, b) and a.shape == (N,)
    )


@pytest.mark.parametrize("method", NORM_METHODS)
def test_every_method_is_reachable_by_name(method):
    model, x, y, _ = case("paper")
    assert close(
        grad_norms(model, squared, x, y, method=method),
        grad_norms(model, squared, x, y, method="loop"),
        1e-10,
    )


# ---- the plan: what it must not believe ----------------------------------------------------------------------------
def test_a_weight_made_of_parameters_leaves_the_bias_to_the_rule():
    model, x, y, _ = case("weight-norm")
    methods = choose_method(model, squared, x, y)
    assert methods.pop("l.bias") == "ghost" and set(methods.values()) == {"vmap"}


def test_a_gradient_that_something_changes_on_its_way_is_noticed():
    "A hook on the weight: autograd's gradient is three times what the layer's input and output gradient give."
    model, x, y, _ = case("mlp")
    model[0].weight.register_hook(lambda g: 3 * g)
    assert close(
        grad_norms(model, squared, x, y), grad_norms(model, squared, x, y, method="loop"), 1e-10
    )
    assert set(choose_method(model, squared, x, y).values()) == {"loop"}


class PositionsFirst(nn.Module):
    "(n, 4, 8) -> rows ordered by position, then sample."

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(8, 3)

    def forward(self, x):
        return self.l(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (4, -1)).transpose(0, 1)


def test_samples_that_prove_nothing_about_the_layout_are_not_believed():
    "First, middle and last sample are equal, at all positions: both orders of the rows fit them, only one fits the rest."
    torch.manual_seed(0)
    model, x, y = (
        PositionsFirst().double(),
        torch.randn(7, 4, 8, dtype=torch.float64),
        torch.randn(7, 1, dtype=torch.float64),
    )
    x[[0, 3, 6]], y[[0, 3, 6]] = 1.0, 1.0
    oracle = grad_norms(model, squared, x, y, method="loop")
    assert close(grad_norms(model, squared, x, y), oracle, 1e-10)
    other = torch.randn_like(x)  # and nothing was remembered
    assert close(
        grad_norms(model, squared, other, y),
        grad_norms(model, squared, other, y, method="loop"),
        1e-10,
    )


class Deepens(Twice):
    often = 1

    def forward(self, x):
        for _ in range(self.often):
            x = self.l(x).tanh()
        return x


@pytest.mark.parametrize("before, after", [(1, 2), (2, 1), (2, 3)])
def test_a_pass_that_differs_from_the_plan_goes_to_the_loop(before, after):
    model, x, y = (
        Deepens().double(),
        torch.randn(6, 6, dtype=torch.float64),
        torch.randn(6, 1, dtype=torch.float64),
    )
    model.often = before
    grad_norms(model, squared, x, y)
    model.often = after
    assert close(
        grad_norms(model, squared, x, y), grad_norms(model, squared, x, y, method="loop"), 1e-10
    )
