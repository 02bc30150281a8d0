"""Convolution at masked pixels against torch's convolution, and mmcv's layer."""

import pytest
import torch
import torch.nn.functional as F

from perceptkd.ops.masked_conv import masked_col2im, masked_im2col


@pytest.mark.parametrize(
    ("kernel", "padding"), [((3, 3), (1, 1)), ((2, 3), (0, 2)), ((1, 1), (0, 0)), ((3, 1), (4, 0))]
)
def test_columns_are_what_the_kernel_reads(device: str, kernel: tuple[int, int], padding: tuple[int, int]) -> None:
    features = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    rows, columns = torch.cartesian_prod(torch.arange(-1, 7), torch.arange(7)).unbind(1)
    expected = torch.zeros(3, *kernel, len(rows), dtype=torch.float64)
    for c, i, j, m in torch.cartesian_prod(*map(torch.arange, expected.shape)).tolist():
        y, x = int(rows[m]) - padding[0] + i, int(columns[m]) - padding[1] + j
        if 0 <= y < 4 and 0 <= x < 5:
            expected[c, i, j, m] = features[0, c, y, x]
    arguments = (tensor.to(device) for tensor in (features, rows, columns))
    found = masked_im2col(*arguments, kernel=kernel, padding=padding)
    assert torch.equal(found.cpu(), expected.flatten(0, 2))


def test_columns_have_the_gradient_of_their_pixels(device: str) -> None:
    features = torch.randn(1, 2, 3, 4, dtype=torch.float64, device=device, requires_grad=True)
    rows, columns = torch.tensor([0, 2, 2], device=device), torch.tensor([3, 0, 0], device=device)

    def gather(maps: torch.Tensor) -> torch.Tensor:
        return masked_im2col(maps, rows, columns, kernel=(3, 3), padding=(1, 1))

    assert torch.autograd.gradcheck(gather, features)
    assert torch.equal(gather(features.half()), gather(features).half())


@pytest.mark.parametrize("padding", [1, 0])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mmcv_layer(device: str, share: float, padding: int) -> None:
    """Masked pixels get torch's result, the others 0."""
    from mmcv.ops import MaskedConv2d

    layer = MaskedConv2d(3, 5, 3, padding=padding).to(device).double()
    features = torch.randn(1, 3, 6, 7, device=device, dtype=torch.float64)
    mask = (torch.rand(1, 6, 7, device=device) < share).double()
    if padding == 0:
        mask[:, 4:], mask[:, :, 5:] = 0, 0
    expected = F.conv2d(features, layer.weight, layer.bias, padding=padding)
    expected = expected * mask[:, None, : expected.shape[2], : expected.shape[3]]
    torch.testing.assert_close(layer(features, mask), expected)
    torch.testing.assert_close(layer(features), F.conv2d(features, layer.weight, layer.bias, padding=padding))


def test_pixels_beside_the_mask_are_kept() -> None:
    image = torch.ones(1, 2, 2, 2)
    masked_col2im(torch.tensor([[5.0], [7.0]]), torch.tensor([1]), torch.tensor([0]), image)
    assert image.tolist() == [[[[1, 1], [5, 1]], [[1, 1], [7, 1]]]]


def test_pixel_outside_the_image_is_an_error() -> None:
    """mmcv's kernel writes to memory that is not the image's."""
    with pytest.raises(IndexError, match="out of bounds"):
        masked_col2im(torch.zeros(2, 1), torch.tensor([2]), torch.tensor([0]), torch.ones(1, 2, 2, 2))


def test_no_pixels(device: str) -> None:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    features = torch.ones(1, 3, 2, 2, device=device, requires_grad=True)
    found = masked_im2col(features, none, none, kernel=(3, 3), padding=(1, 1))
    assert found.shape == (27, 0)
    assert not torch.autograd.grad(found.sum(), features)[0].any()
    image = torch.ones(1, 3, 2, 2, device=device)
    masked_col2im(torch.zeros(3, 0, device=device), none, none, image)
    assert image.all()


def test_wrong_arguments_are_named() -> None:
    index = torch.zeros(2, dtype=torch.int64)
    size = {"kernel": (1, 1), "padding": (0, 0)}
    with pytest.raises(ValueError, match=r"features must be .* \[1, C, H, W\], got shape \(2, 3, 4, 4\)"):
        masked_im2col(torch.zeros(2, 3, 4, 4), index, index, **size)
    with pytest.raises(ValueError, match=r"columns must be an integer tensor \[2\], got shape \(3,\)"):
        masked_im2col(torch.zeros(1, 3, 4, 4), index, torch.zeros(3).long(), **size)
    with pytest.raises(ValueError, match=r"rows must be an integer tensor \[M\], got shape \(2,\) and dtype float32"):
        masked_im2col(torch.zeros(1, 3, 4, 4), index.float(), index, **size)
    with pytest.raises(ValueError, match=r"products must be .* \[3, 2\], got shape \(3, 1\)"):
        masked_col2im(torch.zeros(3, 1), index, index, torch.zeros(1, 3, 4, 4))
