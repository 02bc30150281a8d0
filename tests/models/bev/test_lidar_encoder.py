"""LidarEncoder with pillars: empty clouds, and what is refused. The voxel form is covered by the detector's tests."""

import pytest
import torch

from perceptkd.models.bev.data_preprocessor import BEVDataPreprocessor
from perceptkd.models.bev.lidar_encoder import LidarEncoder

RANGE = [-48.0, -48.0, -5.0, 48.0, 48.0, 3.0]
PILLAR = [2.4, 2.4, 8.0]


def make_encoder(**changes) -> LidarEncoder:
    voxel_encoder = {
        "type": "mmdet3d.PillarFeatureNet",
        "in_channels": 5,
        "feat_channels": [8],
        "voxel_size": PILLAR,
        "point_cloud_range": RANGE,
        "legacy": False,
        **changes,
    }
    return LidarEncoder(
        voxel_encoder, {"type": "mmdet3d.PointPillarsScatter", "in_channels": 8, "output_shape": [40, 40]}
    )


def voxelize(points: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    limits = {"voxel_size": PILLAR, "point_cloud_range": RANGE, "max_points": 10, "max_voxels": (2000, 2000)}
    return BEVDataPreprocessor(voxelize=limits)({"inputs": {"points": points}})["inputs"]["voxels"]


def test_map_lies_as_row_y_column_x() -> None:
    points = torch.tensor([[-47.0, 20.0, 0.0, 5.0, 0.0]])
    occupied = make_encoder().eval()(voxelize([points]), 1).abs().sum(1)[0].nonzero()
    assert occupied.tolist() == [[int((20 + 48) / 2.4), 0]]


def test_an_empty_last_cloud_keeps_its_place() -> None:
    """The batch size cannot come from the coordinates."""
    cloud = torch.rand(100, 5) * 20
    encoder = make_encoder().train()
    maps = encoder(voxelize([cloud, torch.zeros(0, 5)]), 2)
    assert maps.shape == (2, 8, 40, 40)
    assert maps[1].abs().sum() == 0
    assert maps[0].abs().sum() > 0


def test_a_batch_without_any_point_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of the 2 clouds"):
        make_encoder()(voxelize([torch.zeros(0, 5), torch.full((3, 5), 90.0)]), 2)


def test_the_voxels_are_not_written_to() -> None:
    voxels = voxelize([torch.rand(100, 5) * 20])
    before = voxels["voxels"].clone()
    make_encoder()(voxels, 1)
    torch.testing.assert_close(voxels["voxels"], before)


def test_the_legacy_mode_that_writes_into_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="legacy"):
        make_encoder(legacy=True)
