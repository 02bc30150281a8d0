"""Grid indices and the frustum in the augmented frame."""

import numpy as np
import pytest
import torch

from perceptkd.core.errors import InputError
from perceptkd.datasets.transforms.bev_augmentation import bev_augmentation_matrix
from perceptkd.datasets.transforms.image_augmentation import image_augmentation_matrix
from perceptkd.models.bev.geometry import BEVGrid, Calibration, build_frustum, lift_frustum, stack_calibration

FULL_RANGE = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)


def test_full_grid() -> None:
    grid = BEVGrid(FULL_RANGE, 0.6)
    assert grid.shape == (180, 180)
    assert grid.extent == (-54.0, -54.0, 54.0, 54.0)


def test_a_range_of_a_fraction_of_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number of cells"):
        BEVGrid(FULL_RANGE, 0.7)


def test_rows_run_along_y() -> None:
    grid = BEVGrid((-10.0, -20.0, -5.0, 10.0, 20.0, 3.0), 1.0)
    index, inside = grid.cell_index(torch.tensor([[-9.5, -18.5, 0.0]]))
    assert grid.shape == (40, 20)
    assert inside.all()
    assert index.tolist() == [1 * 20 + 0]


def test_points_below_the_low_edge_are_outside() -> None:
    """Truncation toward zero would put them into cell 0."""
    grid = BEVGrid(FULL_RANGE, 0.6)
    points = torch.tensor([[-54.3, 0, 0], [0, -54.3, 0], [0, 0, -5.1], [0, 0, 3.1], [54.1, 0, 0], [-53.9, 0, -4.9]])
    assert grid.cell_index(points)[1].tolist() == [False, False, False, False, False, True]


def test_full_frustum_shape_and_lss_pixels() -> None:
    depths = torch.arange(2, 58, 0.5)
    frustum = build_frustum((256, 704), (16, 44), depth_bins_m=depths, align_corners=True)
    assert frustum.shape == (112, 16, 44, 3)
    assert 6 * frustum[..., 0].numel() == 473_088
    assert frustum[0, 0, 0].tolist() == [0.0, 0.0, 2.0]
    assert frustum[-1, -1, -1].tolist() == [703.0, 255.0, 57.5]


def test_frustum_of_pixel_centres() -> None:
    frustum = build_frustum((32, 64), (2, 4), depth_bins_m=torch.tensor([3.0]))
    assert frustum[0, :, 0, 1].tolist() == [8.0, 24.0]
    assert frustum[0, 0, :, 0].tolist() == [8.0, 24.0, 40.0, 56.0]


def calibration(make_batch) -> Calibration:
    return stack_calibration(make_batch(1, size=(90, 160))["data_samples"], "cpu")


def test_frustum_projects_back_to_its_pixels(make_batch) -> None:
    matrices = calibration(make_batch)
    frustum = build_frustum((90, 160), (9, 16), depth_bins_m=torch.tensor([2.0, 20.0, 50.0]))
    points = lift_frustum(frustum, matrices)
    homogeneous = torch.nn.functional.pad(points, (0, 1), value=1.0).reshape(1, 6, -1, 4)
    camera = homogeneous @ (matrices.cam2img @ matrices.lidar2cam).transpose(-1, -2)
    pixels = torch.cat([camera[..., :2] / camera[..., 2:3], camera[..., 2:3]], dim=-1)
    torch.testing.assert_close(pixels.reshape_as(points), frustum.expand_as(points), atol=2e-3, rtol=1e-4)


def test_augmented_frustum_is_the_augmented_original(make_batch) -> None:
    """F16: with (image aug, K, extrinsics, BEV aug) = BEV aug @ un-augmented geometry of the same original pixel."""
    plain = calibration(make_batch)
    image = np.eye(4)
    affine = image_augmentation_matrix((0.5, 0.5), (8, 13, 72, 45), flip=True, rotate_deg=5.0)
    image[:2, :2], image[:2, 3] = affine[:2, :2], affine[:2, 2]
    bev = bev_augmentation_matrix(0.5, 1.05, translate_m=np.array([0.3, -0.2, 0.1]), flip_x=True, flip_y=False)
    augmented = plain._replace(
        img_aug_matrix=torch.tensor(image).float().expand(1, 6, 4, 4), lidar_aug_matrix=torch.tensor(bev).float()[None]
    )
    frustum = build_frustum((32, 64), (4, 8), depth_bins_m=torch.tensor([4.0, 30.0]))
    original = frustum.double().numpy().reshape(-1, 3)
    undo = np.linalg.inv(image)
    original = original @ undo[:3, :3].T + undo[:3, 3]
    unaugmented = lift_frustum(torch.tensor(original).float().reshape(2, 4, 8, 3), plain)
    expected = unaugmented.double() @ torch.tensor(bev[:3, :3]).T + torch.tensor(bev[:3, 3])
    torch.testing.assert_close(lift_frustum(frustum, augmented).double(), expected, atol=1e-3, rtol=1e-4)


def test_missing_calibration_is_named(make_batch) -> None:
    samples = make_batch(2)["data_samples"]
    samples[1].set_metainfo({"unused": 0})
    del samples[1].lidar2cam
    with pytest.raises(InputError, match=r"sample 1.*lidar2cam"):
        stack_calibration(samples, "cpu")
