"""CameraEncoder."""

import torch

from perceptkd.models.bev.camera_encoder import CameraEncoder
from perceptkd.models.bev.geometry import stack_calibration


def make_encoder(**backbone) -> CameraEncoder:
    return CameraEncoder(
        {"type": "mmdet.ResNet", "depth": 18, "base_channels": 8, "stem_channels": 8, **backbone},
        {
            "type": "mmdet3d.SECONDFPN",
            "in_channels": [8, 16, 32, 64],
            "out_channels": [4, 4, 4, 4],
            "upsample_strides": [0.25, 0.5, 1, 2],
        },
        {
            "type": "perceptkd.LSSViewTransform",
            "in_channels": 16,
            "out_channels": 6,
            "image_size": (64, 128),
            "feature_stride": 16,
            "depth_bins_m": (2.0, 20.0, 1.0),
            "point_cloud_range": (-24.0, -24.0, -5.0, 24.0, 24.0, 3.0),
            "cell_size_m": 1.2,
        },
    )


def test_map_of_a_batch(make_batch) -> None:
    calibration = stack_calibration(make_batch(2)["data_samples"], "cpu")
    assert make_encoder()(torch.randn(2, 6, 3, 64, 128), calibration).bev.shape == (2, 6, 40, 40)


def test_an_image_changes_only_what_its_camera_sees(make_batch) -> None:
    """Camera 0 looks along +x: the half plane behind the vehicle must not change."""
    calibration = stack_calibration(make_batch(1)["data_samples"], "cpu")
    encoder, images = make_encoder().eval(), torch.randn(1, 6, 3, 64, 128)
    other = images.clone()
    other[:, 0] += 1
    with torch.no_grad():
        changed = (encoder(images, calibration).bev - encoder(other, calibration).bev).abs().sum(1)[0]
    columns = changed.sum(0)
    assert columns[20:].sum() > 0
    assert columns[:19].sum() == 0


def test_initialisation_reaches_the_backbone() -> None:
    """MMEngine initialises the children of a BaseModule only: without it, pretrained weights are never loaded."""
    encoder = make_encoder(init_cfg={"type": "Constant", "layer": "Conv2d", "val": 0.25})
    encoder.init_weights()
    assert (encoder.backbone.conv1.weight == 0.25).all()
