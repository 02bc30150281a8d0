"""LSSViewTransform: pooling against a plain loop, gradients, and shape errors."""

import pytest
import torch

from perceptkd.models.bev.geometry import lift_frustum, stack_calibration
from perceptkd.models.bev.view_transform import LSSViewTransform

RANGE = (-16.0, -12.0, -5.0, 16.0, 12.0, 3.0)


def make_transform(**changes) -> LSSViewTransform:
    settings = {
        "image_size": (64, 128),
        "feature_stride": 16,
        "depth_bins_m": (2.0, 12.0, 1.0),
        "point_cloud_range": RANGE,
        "cell_size_m": 0.8,
    }
    return LSSViewTransform(8, 5, **{**settings, **changes})


def lift_and_splat(transform: LSSViewTransform, features: torch.Tensor, calibration) -> torch.Tensor:
    """The textbook form: make the lifted tensor, add every point to its cell."""
    out = transform.depth_net(features)
    depth, context = out[:, :10].softmax(1), out[:, 10:]
    lifted = depth[:, None] * context[:, :, None]  # [BV, C, D, H, W]
    points = lift_frustum(transform.frustum, calibration)
    pooled = torch.zeros(len(points), 5, 30, 40)
    for sample in range(len(points)):
        for view in range(6):
            column = ((points[sample, view, ..., 0] - RANGE[0]) / 0.8).floor()
            row = ((points[sample, view, ..., 1] - RANGE[1]) / 0.8).floor()
            height = points[sample, view, ..., 2]
            for d, h, w in torch.cartesian_prod(torch.arange(10), torch.arange(4), torch.arange(8)).tolist():
                r, c = int(row[d, h, w]), int(column[d, h, w])
                if 0 <= r < 30 and 0 <= c < 40 and -5 <= height[d, h, w] < 3:
                    pooled[sample, :, r, c] += lifted[sample * 6 + view, :, d, h, w]
    return pooled


def test_same_as_lift_and_splat(make_batch) -> None:
    calibration = stack_calibration(make_batch(2)["data_samples"], "cpu")
    transform, features = make_transform(), torch.randn(12, 8, 4, 8)
    with torch.no_grad():
        expected = lift_and_splat(transform, features, calibration)
        assert (expected != 0).any(dim=1).sum() > 200
        torch.testing.assert_close(transform(features, calibration).bev, expected, atol=1e-5, rtol=1e-5)


def test_gradient_reaches_depth_and_context(make_batch) -> None:
    calibration = stack_calibration(make_batch(1)["data_samples"], "cpu")
    transform, features = make_transform(), torch.randn(6, 8, 4, 8, requires_grad=True)
    (transform(features, calibration).bev * torch.randn(1, 5, 30, 40)).sum().backward()
    gradient = transform.depth_net.weight.grad
    assert gradient[:10].abs().sum() > 0
    assert gradient[10:].abs().sum() > 0
    assert features.grad.abs().sum() > 0


def test_pooling_is_fp32_under_autocast(make_batch) -> None:
    calibration = stack_calibration(make_batch(1)["data_samples"], "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert make_transform()(torch.randn(6, 8, 4, 8), calibration).bev.dtype == torch.float32


def test_channels_last_changes_the_layout_only(make_batch) -> None:
    calibration = stack_calibration(make_batch(1)["data_samples"], "cpu")
    transform = make_transform()
    other = make_transform(channels_last=True)
    other.load_state_dict(transform.state_dict())
    features = torch.randn(6, 8, 4, 8)
    pooled = other(features, calibration).bev
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pooled, transform(features, calibration).bev)


def test_a_camera_aware_depth_net_tells_equal_features_apart(make_batch) -> None:
    """Constant features are one road to it seen by rays of different slope: rows differ, columns do not."""
    calibration = stack_calibration(make_batch(1)["data_samples"], "cpu")
    plain = make_transform()(torch.ones(6, 8, 4, 8), calibration).depth_logits
    assert plain.std(dim=(2, 3)).max() < 1e-5
    aware = make_transform(camera_aware=True)(torch.ones(6, 8, 4, 8), calibration).depth_logits
    assert aware.shape == plain.shape
    inner = aware[:, :, 1:-1, 1:-1]  # the border sees the padding
    assert inner.std(dim=2).max() > 0.01
    assert inner.std(dim=3).max() < 1e-4


def test_features_of_another_size_are_refused(make_batch) -> None:
    calibration = stack_calibration(make_batch(1)["data_samples"], "cpu")
    with pytest.raises(ValueError, match="frustum is"):
        make_transform()(torch.randn(6, 8, 8, 16), calibration)
    with pytest.raises(ValueError, match="multiple of feature_stride"):
        make_transform(image_size=(60, 128))
