"""Linear, convolution, embedding: gradients and squares by hand and against autograd."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from impsamp.gradnorms import grad_norms
from impsamp.gradnorms.contractions import (
    CONTRACTIONS,
    ConvRule,
    EmbeddingRule,
    LinearRule,
    MatmulRule,
    TransposedConvRule,
    gram_is_cheaper,
    gram_squares,
    grouped_weight_grads,
    scaled_rank_one,
    suits_groups,
)
from tests.gradnorms.cases import case
from tests.gradnorms.helpers import close, squared

# one sample, two positions: the gradient is 2 (1, 0) + 3 (1, 1) = (5, 3)
A = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
B = torch.tensor([[[2.0], [3.0]]])


# linear


def test_linear_by_hand():
    assert LinearRule().grads("weight", A, B).tolist() == [[[5, 3]]]
    assert LinearRule().grads("bias", A, B).tolist() == [[5]]
    assert gram_squares(A, B).item() == 34


def test_one_position_is_a_product_of_two_norms():
    a = torch.tensor([[3.0, 4.0]])
    b = torch.tensor([[2.0]])
    assert LinearRule().squares("weight", a, b).item() == pytest.approx(100)


def test_the_gram_form_is_taken_where_it_multiplies_less():
    "2 (2 + 1) against 2 * 1; 2 (64 + 64) against 64 * 64."
    assert not gram_is_cheaper(2, 2, 1)
    assert LinearRule().squares("weight", A, B) is None
    assert gram_is_cheaper(2, 64, 64)
    a = torch.randn(3, 2, 64)
    b = torch.randn(3, 2, 64)
    direct = LinearRule().grads("weight", a, b).double().square().sum((1, 2))
    assert torch.allclose(LinearRule().squares("weight", a, b), direct, rtol=1e-4)
    assert LinearRule().squares("bias", a, b) is None


def cancelling(n, bad):
    "Output gradients 1 and -1 on nearly the same input in the samples `bad`; (1, 1) elsewhere."
    a = torch.full((n, 2, 1), 1000.0)
    a[bad, 1] += 1.0
    b = torch.ones(n, 2, 1)
    b[bad, 1] = -1.0
    return a, b


def test_a_sample_whose_terms_cancel_is_computed_from_its_gradient():
    a, b = cancelling(8, [3])
    expected = [4e6] * 8
    expected[3] = 1.0
    assert gram_squares(a, b).tolist() == expected


def test_the_gram_form_refuses_where_the_terms_of_many_cancel():
    a, b = cancelling(8, [0, 3, 5])
    assert gram_squares(a, b) is None
    assert gram_squares(a.double(), b.double())[[0, 3, 5]].tolist() == [1, 1, 1]


@pytest.mark.parametrize("size", [1e-20, 1e-30, 1e15])
def test_a_sample_outside_the_range_of_float32_keeps_its_norm(size):
    "Products of four numbers leave the range long before the norm does."
    torch.manual_seed(0)
    a = torch.randn(8, 3, 5)
    b = torch.randn(8, 3, 5)
    b[2] *= size
    exact = torch.bmm(a.double().transpose(1, 2), b.double()).square().sum((1, 2))
    assert torch.allclose(gram_squares(a, b), exact, rtol=1e-4, atol=0)


def test_zero_gradients_are_not_computed_twice():
    a = torch.randn(8, 3, 5)
    found = gram_squares(a, torch.zeros(8, 3, 5))
    assert found.tolist() == [0] * 8


def test_a_diagonal_by_hand():
    "D = ((1, 2), (3, 4)), a = b = (1, 1): 1 + 4 + 9 + 16."
    D = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    one = torch.ones(1, 2)
    assert scaled_rank_one(one, one, D).item() == pytest.approx(30)
    assert LinearRule().squares("weight", one, one, D).item() == pytest.approx(30)
    tiny = 1e-20 * one
    assert scaled_rank_one(tiny, tiny, D).item() == pytest.approx(30e-80)
    assert scaled_rank_one(0 * one, one, D).item() == 0


def test_matmul_is_linear_the_other_way_round():
    assert MatmulRule().grads("weight", A, B).tolist() == [[[5], [3]]]
    x = torch.randn(4, 2)
    assert MatmulRule().bind(x, torch.ones(2, 3)).lead == 1
    assert MatmulRule().bind(x, torch.ones(2)) is None
    assert MatmulRule().bind(x[0], torch.ones(2, 3)) is None


# convolution


def rule_and_setting(layer, x):
    "What `CONTRACTIONS` knows about this layer's call."
    function = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}[type(layer)]
    rule = CONTRACTIONS[function]
    bound = rule.bind(
        x,
        layer.weight,
        layer.bias,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    )
    return rule, bound.setting


LAYERS = {
    "plain": lambda: nn.Conv2d(2, 3, 2),
    "all settings": lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), groups=2),
    "same": lambda: nn.Conv2d(2, 3, (3, 4), padding="same"),
    "gram": lambda: nn.Conv2d(16, 64, 2, stride=7),
    "grouped call": lambda: nn.Conv2d(8, 16, 3, padding=1),
    "one axis": lambda: nn.Conv1d(2, 3, 4, stride=2),
    "three axes": lambda: nn.Conv3d(2, 2, 2, stride=3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_convolution_against_autograd(name):
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    size = [9] * len(layer.kernel_size)
    x = torch.randn(3, layer.in_channels, *size, dtype=torch.float64)
    rule, setting = rule_and_setting(layer, x)
    b = torch.randn_like(layer(x))

    def weight_grad(x, b):
        return torch.autograd.grad((layer(x[None]) * b).sum(), layer.weight)[0]

    expected = torch.stack([*map(weight_grad, x, b)])
    assert torch.allclose(rule.grads("weight", x, b, **setting), expected)
    squares = expected.square().flatten(1).sum(1)
    assert torch.allclose(rule.squares("weight", x, b, **setting), squares)
    assert torch.allclose(rule.grads("bias", x, b, **setting), b.flatten(2).sum(2))
    assert torch.allclose(grouped_weight_grads(x, b, **setting), expected)


def test_convolution_by_hand():
    "A 2 x 2 image under a kernel of 1 x 2: (1 + 3, 2 + 4)."
    setting = dict(kernel=(1, 2), stride=(1, 1), dilation=(1, 1), groups=1, padding=(0, 0))
    a = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    b = torch.ones(1, 1, 2, 1)
    assert ConvRule().grads("weight", a, b, **setting).flatten().tolist() == [4, 6]
    assert ConvRule().squares("weight", a, b, **setting).item() == pytest.approx(52)


def test_several_images_of_a_sample_add_up():
    setting = dict(kernel=(1,), stride=(1,), dilation=(1,), groups=1, padding=(0,))
    a = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # one sample, two images, one channel
    assert ConvRule().grads("weight", a, torch.ones(1, 2, 1, 2), **setting).item() == 10
    assert ConvRule().squares("weight", a, torch.ones(1, 2, 1, 2), **setting) is None


def test_a_setting_has_one_entry_per_axis():
    x = torch.zeros(1, 2, 5, 5)
    bound = ConvRule().bind(x, torch.zeros(3, 1, 2, 3), None, 2, [1], (1, 2), 2)
    assert bound.setting == dict(
        kernel=(2, 3),
        stride=(2, 2),
        padding=(1, 1),
        dilation=(1, 2),
        groups=2,
    )
    assert ConvRule().bind(x[0], torch.zeros(3, 2, 2, 3)) is None


def test_transposed_convolution_exchanges_input_and_output_gradient():
    setting = dict(kernel=(1,), stride=(1,), dilation=(1,), groups=1, padding=(0,))
    a = torch.tensor([[[1.0, 2.0]]])
    b = torch.tensor([[[3.0, 4.0]]])
    assert TransposedConvRule().grads("weight", a, b, **setting).item() == 11
    assert TransposedConvRule().squares("weight", a, b, **setting).item() == pytest.approx(121)
    assert TransposedConvRule().grads("bias", a, b, **setting).item() == 7


def test_groups_of_samples_where_channels_fill_vector_units():
    assert suits_groups(8, 16)
    assert not suits_groups(8, 10)


# embedding


def test_embedding_by_hand():
    "Row 1 is looked up twice with b = 1 and 2, row 0 once with 5: 3^2 + 5^2."
    a = torch.tensor([[1, 0, 1]])
    b = torch.tensor([[[1.0], [5.0], [2.0]]])
    rule = EmbeddingRule()
    assert rule.grads("weight", a, b, 3, None).flatten().tolist() == [5, 3, 0]
    assert rule.squares("weight", a, b, rows=3).item() == pytest.approx(34)
    assert rule.squares("weight", a, b, rows=3, padding_idx=0).item() == pytest.approx(9)
    D = torch.tensor([[1.0], [2.0], [7.0]])
    assert rule.squares("weight", a, b, D, rows=3).item() == pytest.approx(25 + 36)


def test_a_padding_index_may_count_from_the_end():
    x = torch.zeros(1, 1, dtype=torch.long)
    weight = torch.zeros(5, 2)
    assert EmbeddingRule().bind(x, weight, -1).setting == {"rows": 5, "padding_idx": 4}
    assert EmbeddingRule().bind(x, weight, scale_grad_by_freq=True) is None


# through the whole pass


LAYOUTS = {
    "channels-last": lambda x: x.to(memory_format=torch.channels_last),
    "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "offset": lambda x: torch.cat([x[:1], x])[1:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "name",
    ["conv2d", "conv2d-stride", "groupnorm", "conv-transpose2d", "batchnorm-eval"],
)
def test_memory_layouts(name, layout):
    model, x, y = case(name)
    oracle = grad_norms(model, squared, x, y, method="loop")
    z = LAYOUTS[layout](x)
    if layout == "channels-last":
        model = model.to(memory_format=torch.channels_last)
    assert torch.equal(z, x)
    assert close(grad_norms(model, squared, z, y), oracle, 1e-10)


def test_cancelling_positions_keep_their_digits():
    """Output gradients that sum to zero over positions, on inputs with a large common part.

    The Gram form alone would lose five digits."""
    model = nn.Linear(64, 64, bias=False)
    x = 100 + torch.randn(4, 3, 64)
    pull = torch.randn(4, 3, 64)
    pull -= pull.mean(1, keepdim=True)

    def loss(o, y):
        return (o * y).sum((1, 2))

    wide = copy.deepcopy(model).double()
    oracle = grad_norms(wide, loss, x.double(), pull.double(), method="loop")
    assert close(grad_norms(model, loss, x, pull), oracle, 1e-5)
