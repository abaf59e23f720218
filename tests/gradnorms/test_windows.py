"""What each offset of a convolution's kernel sees, against `F.unfold` and by hand."""

import pytest
import torch
import torch.nn.functional as F

from impsamp.gradnorms.windows import pad_zeros, shifted_windows


def test_a_row_by_hand():
    "Kernel 2, stride 2: the windows (0, 1) and (2, 3), one column each."
    row = torch.arange(5.0).reshape(1, 1, 5)
    (u,) = shifted_windows(row, kernel=(2,), out=(2,), stride=(2,), dilation=(1,))
    assert u.tolist() == [[[0, 2], [1, 3]]]


def test_each_row_of_the_kernel_sees_its_rows():
    "Dilation 2 along the rows: offset 0 sees row 0, offset 1 sees row 2."
    image = torch.arange(6.0).reshape(1, 1, 3, 2)
    seen = shifted_windows(image, kernel=(2, 1), out=(1, 2), stride=(1, 1), dilation=(2, 1))
    assert [u.flatten().tolist() for u in seen] == [[0, 1], [4, 5]]


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (1, 2)])
def test_together_they_are_the_unfolded_image(stride, dilation):
    kernel = (3, 2)
    image = torch.randn(2, 3, 9, 8)
    expected = F.unfold(image, kernel, dilation=dilation, stride=stride)
    out = [(s - d * (k - 1) - 1) // t + 1 for s, d, k, t in zip((9, 8), dilation, kernel, stride)]
    seen = [*shifted_windows(image, kernel, tuple(out), stride, dilation)]
    # (n, offsets, C, k_last, T) against (n, C, offsets, k_last, T)
    found = torch.stack(seen, 1).unflatten(2, (3, 2)).transpose(1, 2)
    assert torch.equal(found.flatten(1, 3), expected)


def test_views_of_any_memory_layout():
    image = torch.randn(2, 4, 5, 6)
    arguments = dict(kernel=(2, 2), out=(4, 5), stride=(1, 1), dilation=(1, 1))
    expected = [*shifted_windows(image, **arguments)]
    strided = image.repeat_interleave(2, 3)[..., ::2]
    for other in (image.to(memory_format=torch.channels_last), strided):
        assert all(map(torch.equal, shifted_windows(other, **arguments), expected))


@pytest.mark.parametrize("padding", ["same", "valid", (2, 1)])
def test_padding_is_that_of_the_convolution(padding):
    image = torch.randn(1, 1, 5, 6)
    weight = torch.randn(1, 1, 3, 2)
    padded = pad_zeros(image, (3, 2), (1, 1), padding)
    assert torch.allclose(F.conv2d(padded, weight), F.conv2d(image, weight, padding=padding))
    if padding == "valid":
        assert padded is image
