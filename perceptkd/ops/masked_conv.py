"""The two halves of a convolution at chosen pixels only: gathering the columns, and writing back their products."""

import torch
from torch import Tensor

from perceptkd.ops.checks import check_same_device, check_tensor


def masked_im2col(
    features: Tensor, rows: Tensor, columns: Tensor, *, kernel: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """What a kernel reads at each of the pixels.

    Args:
        features: [1, C, H, W]; outside the map is 0.
        rows: int64 [M], the row of each pixel of the output of a convolution with stride 1.
        columns: int64 [M], its column.
        kernel: height and width.
        padding: pixels of 0 above and below, left and right.

    Returns:
        [C * kernel height * kernel width, M].

    >>> features = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> masked_im2col(features, torch.tensor([0]), torch.tensor([2]), kernel=(1, 3), padding=(0, 1)).flatten().tolist()
    [2.0, 3.0, 0.0]
    """
    check_tensor("features", features, (1, "C", "H", "W"))
    _check_pixels(rows, columns)
    check_same_device(features=features, rows=rows, columns=columns)
    height, width = features.shape[2:]
    y = rows - padding[0] + torch.arange(kernel[0], device=rows.device)[:, None, None]
    x = columns - padding[1] + torch.arange(kernel[1], device=rows.device)[:, None]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    read = features[0][:, y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return torch.where(inside, read, 0).flatten(0, 2)


def masked_col2im(products: Tensor, rows: Tensor, columns: Tensor, image: Tensor) -> None:
    """Writes ``products`` [C, M] to the pixels (rows, columns), each int64 [M], of ``image`` [1, C, H, W], in place."""
    check_tensor("image", image, (1, "C", "H", "W"))
    _check_pixels(rows, columns)
    check_tensor("products", products, (image.shape[1], len(rows)))
    check_same_device(products=products, rows=rows, columns=columns, image=image)
    image[0][:, rows, columns] = products


def _check_pixels(rows: Tensor, columns: Tensor) -> None:
    check_tensor("rows", rows, ("M",), kind="integer")
    check_tensor("columns", columns, (len(rows),), kind="integer")
