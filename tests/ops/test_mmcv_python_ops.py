"""mmcv's ops that are written in Python but lie in ``mmcv.ops``: without compiled ops they import and compute."""

import pytest
import torch
from torch import Tensor


@pytest.mark.parametrize("mode", ["top", "bottom", "left", "right"])
def test_corner_pool_is_the_largest_from_here_on(device: str, mode: str) -> None:
    """The four modes look down, up, right and left from each pixel."""
    from mmcv.ops import CornerPool

    features = torch.randint(0, 9, (2, 3, 4, 5)).float()  # with ties
    expected = torch.empty_like(features)
    for y in range(4):
        for x in range(5):
            seen = {
                "top": features[:, :, y:, x : x + 1],
                "bottom": features[:, :, : y + 1, x : x + 1],
                "left": features[:, :, y : y + 1, x:],
                "right": features[:, :, y : y + 1, : x + 1],
            }[mode]
            expected[:, :, y, x] = seen.amax((2, 3))
    leaf = features.to(device).requires_grad_()
    pooled = CornerPool(mode)(leaf)
    assert torch.equal(pooled.cpu(), expected)
    pooled.sum().backward()
    assert leaf.grad.sum().item() == features.numel()


def read(image: Tensor, y: float, x: float) -> Tensor:
    rows = (1 - (torch.arange(image.shape[1], dtype=torch.float64) - y).abs()).clamp(min=0)
    columns = (1 - (torch.arange(image.shape[2], dtype=torch.float64) - x).abs()).clamp(min=0)
    return torch.einsum("h,chw,w->c", rows, image, columns)


def test_point_sample_is_bilinear(device: str) -> None:
    from mmcv.ops import point_sample

    features = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    points = torch.rand(2, 6, 2, dtype=torch.float64) * 1.4 - 0.2
    points[0, :3] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.125]])
    expected = [
        torch.stack([read(image, y * 4 - 0.5, x * 5 - 0.5) for x, y in of_image.tolist()], dim=1)
        for image, of_image in zip(features, points)
    ]
    found = point_sample(features.to(device), points.to(device))
    torch.testing.assert_close(found.cpu(), torch.stack(expected))


def test_simple_roi_align_reads_the_middle_of_each_bin(device: str) -> None:
    from mmcv.ops import SimpleRoIAlign

    features = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    rois = torch.tensor([[0.0, 2, 0, 8, 6], [1, 0, 2, 10, 8], [1, 3, 3, 5, 5]], dtype=torch.float64)
    found = SimpleRoIAlign((2, 2), spatial_scale=0.5).to(device)(features.float().to(device), rois.float().to(device))
    for roi, pooled in zip(rois.tolist(), found.cpu()):
        sample, x1, y1, x2, y2 = int(roi[0]), *roi[1:]
        for i in range(2):
            for j in range(2):
                y, x = (y1 + (y2 - y1) * (i + 0.5) / 2) / 2, (x1 + (x2 - x1) * (j + 0.5) / 2) / 2
                expected = read(features[sample], y - 0.5, x - 0.5).float()
                torch.testing.assert_close(pooled[:, i, j], expected, rtol=1e-4, atol=1e-5)


def test_criss_cross_attention_attends_to_row_and_column(device: str) -> None:
    from mmcv.ops import CrissCrossAttention

    attention = CrissCrossAttention(16).to(device)
    attention.gamma.scale.data.fill_(0.7)
    features = torch.randn(2, 16, 3, 4, device=device, requires_grad=True)
    found = attention(features)
    queries, keys, values = (f(features) for f in (attention.query_conv, attention.key_conv, attention.value_conv))
    for y in range(3):
        for x in range(4):
            # the pixel itself is in its row only
            seen = [(i, x) for i in range(3) if i != y] + [(y, j) for j in range(4)]
            logits = torch.stack([(queries[:, :, y, x] * keys[:, :, i, j]).sum(1) for i, j in seen], dim=1)
            picked = torch.stack([values[:, :, i, j] for i, j in seen], dim=1)
            expected = 0.7 * (logits.softmax(1)[:, :, None] * picked).sum(1) + features[:, :, y, x]
            torch.testing.assert_close(found[:, :, y, x], expected, rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    gradients = [features.grad, *(parameter.grad for parameter in attention.parameters())]
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)
