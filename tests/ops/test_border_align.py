"""Border align against a loop over the points of each side, its gradient, and mmcv's module on top of it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from perceptkd.ops import border_align as module
from perceptkd.ops.border_align import border_align

BOXES = torch.tensor(
    [
        [
            [0.3, 0.7, 4.2, 3.1],
            [1.0, 1.0, 4.0, 3.0],
            [-1.0, -1.0, 6.0, 5.0],  # the limits of what reads the border
            [-9.0, -8.0, -4.0, -3.0],  # off the map
            [2.0, 2.0, 2.0, 2.0],  # a point: all its samples are equal
        ],
        [
            [-3.0, -2.0, 9.0, 8.0],
            [4.0, 3.0, 1.0, 1.0],  # turned over
            [0.0, 0.0, 5.0, 4.0],
            [2.5, 0.5, 2.5, 3.5],
            [1.1, 2.2, 3.3, 4.4],
        ],
    ],
    dtype=torch.float64,
)


def sample(plane: np.ndarray, y: float, x: float) -> float:
    """Bilinear value by definition; a point up to a pixel outside is moved onto the border."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    return sum(
        max(0.0, 1 - abs(y - r)) * max(0.0, 1 - abs(x - c)) * plane[r, c] for r in range(height) for c in range(width)
    )


def align_by_definition(features: Tensor, boxes: Tensor, pool_size: int) -> tuple[Tensor, Tensor]:
    maps = features.double().cpu().numpy()
    channels = maps.shape[1] // 4
    values = np.zeros((len(boxes), channels, boxes.shape[1], 4))
    points = np.zeros(values.shape)
    for n, c, b in np.ndindex(len(boxes), channels, boxes.shape[1]):
        x1, y1, x2, y2 = boxes[n, b].tolist()
        for side in range(4):
            found = []
            for step in range(pool_size + 1):
                part = step / pool_size
                y, x = (
                    (y1, x1 + part * (x2 - x1)),
                    (y1 + part * (y2 - y1), x1),
                    (y2, x2 - part * (x2 - x1)),
                    (y2 - part * (y2 - y1), x2),
                )[side]
                found.append(sample(maps[n, side * channels + c], y, x))
            values[n, c, b, side], points[n, c, b, side] = max(found), int(np.argmax(found))
    return torch.from_numpy(values), torch.from_numpy(points).int()


@pytest.mark.parametrize("pool_size", [1, 4])
def test_equals_a_loop(device: str, pool_size: int) -> None:
    features = torch.randn(2, 6, 5, 12, dtype=torch.float64).permute(0, 3, 2, 1)
    values, points = border_align(features.to(device), BOXES.to(device), pool_size)
    expected, expected_points = align_by_definition(features, BOXES, pool_size)
    torch.testing.assert_close(values.cpu(), expected)
    assert torch.equal(points.cpu(), expected_points)
    assert points[0, :, 4].sum() == 0


def test_first_of_equal_points_counts(device: str) -> None:
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0]]], device=device)
    assert not border_align(torch.ones(1, 4, 5, 5, device=device), boxes, 4)[1].any()


def test_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(2, 8, 5, 6)
    expected = border_align(features, BOXES, 3)
    monkeypatch.setattr(module, "VALUES", 1)
    assert all(torch.equal(*parts) for parts in zip(border_align(features, BOXES, 3), expected))


def test_gradient(device: str) -> None:
    features = torch.randn(2, 8, 5, 6, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda maps: border_align(maps, BOXES.to(device), 3)[0], features)


def test_mmcv_module(device: str) -> None:
    from mmcv.ops import BorderAlign

    maps = torch.randn(2, 12, 5, 6, device=device, requires_grad=True)
    boxes = BOXES.float().to(device)
    found = BorderAlign(5)(maps, boxes)
    expected = border_align(maps, boxes, 5)[0]
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    gradients = [torch.autograd.grad(output, maps, upstream)[0] for output in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


def test_half_precision_none_and_wrong_arguments(device: str) -> None:
    maps, boxes = torch.randn(2, 4, 5, 6, device=device), BOXES.float().to(device)
    coarse = border_align(maps.half(), boxes, 2)[0]
    torch.testing.assert_close(coarse, border_align(maps.half().float(), boxes, 2)[0].half())
    maps.requires_grad_()
    values, points = border_align(maps, boxes[:, :0], 2)
    assert values.shape == points.shape == (2, 1, 0, 4)
    assert not torch.autograd.grad(values.sum(), maps)[0].any()
    assert border_align(maps[:0], boxes[:0], 2)[0].shape == (0, 1, 5, 4)
    with pytest.raises(ValueError, match=r"boxes must be .* \[2, L, 4\], got shape \(1, 5, 4\) and dtype float32"):
        border_align(maps, boxes[:1], 2)
    with pytest.raises(ValueError, match="channels of features must divide by 4, got 3"):
        border_align(maps[:, :3], boxes, 2)
    with pytest.raises(ValueError, match="pool_size must be at least 1, got 0"):
        border_align(maps, boxes, 0)
