"""Packed samples are drawn where their augmented points, boxes and images are."""

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from perceptkd.visualization.cameras import project
from perceptkd.visualization.samples import as_rgb, image_matrices, read_sample

HEIGHT, WIDTH = 80, 200
#: LiDAR x forward, y left, z up to a camera looking along +x, and its pixels.
LIDAR2CAM = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
CAM2IMG = np.array([[100.0, 0, 100, 0], [0, 100, 40, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
PLACE = np.array([10.0, 2.0, 1.0])  # at pixel (80, 30)


def marked_image() -> np.ndarray:
    """Black, with a white patch where PLACE is."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[26:35, 76:85] = 255
    return image


def mmdet3d_sample(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """PLACE as the only point, under mmdet3d's own transforms."""
    from mmdet3d.registry import TRANSFORMS
    from mmdet3d.structures import LiDARInstance3DBoxes, LiDARPoints
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet3d")
    results: dict[str, Any] = {
        "img": marked_image(),
        "img_shape": (HEIGHT, WIDTH),
        "ori_shape": (HEIGHT, WIDTH),
        "scale_factor": np.ones(2),
        "points": LiDARPoints(torch.tensor([[*PLACE, 0.0]], dtype=torch.float32), points_dim=4),
        "gt_bboxes_3d": LiDARInstance3DBoxes(torch.tensor([[*PLACE, 1, 1, 1, 0]], dtype=torch.float32)),
        "gt_labels_3d": np.zeros(1, dtype=np.int64),
        "lidar2img": CAM2IMG @ LIDAR2CAM,
        "img_fields": [], "bbox3d_fields": ["gt_bboxes_3d"], "pts_mask_fields": [], "pts_seg_fields": [],
        "bbox_fields": [], "mask_fields": [], "seg_fields": [],
    }  # fmt: skip
    for step in steps:
        results = TRANSFORMS.build(step)(results)
    return TRANSFORMS.build({"type": "Pack3DDetInputs", "keys": ["points", "img", "gt_bboxes_3d", "gt_labels_3d"]})(
        results
    )


FLIP = {"type": "RandomFlip3D", "sync_2d": True, "flip_ratio_bev_horizontal": 1.0}
TURN = {
    "type": "GlobalRotScaleTrans",
    "rot_range": [0.3, 0.4],
    "scale_ratio_range": [1.1, 1.2],
    "translation_std": [0.5, 0.5, 0.2],
}
RESIZE = {"type": "Resize", "scale": (300, 240), "keep_ratio": True}


@pytest.mark.parametrize(
    "steps", [[], [RESIZE], [TURN], [FLIP], [RESIZE, FLIP], [TURN, RESIZE], [RESIZE, FLIP, TURN], [RESIZE, TURN, FLIP]]
)
def test_a_point_of_mmdet3d_lies_on_its_patch_after_all_transforms(steps: list[dict]) -> None:
    drawn = read_sample(mmdet3d_sample(steps), ["CAM2"]).scene
    pixel, depth = project(drawn.points[:, :3].double().numpy(), drawn.calibration["CAM2"])
    column, row = pixel[0].round().astype(int)
    assert depth[0] > 0
    assert drawn.images["CAM2"][row, column].min() > 200
    assert drawn.images["CAM2"].mean() < 30


@pytest.mark.parametrize("seed", range(4))
def test_a_point_of_ours_lies_where_the_image_was_moved_to(seed: int) -> None:
    from perceptkd.datasets.transforms.bev_augmentation import bev_augmentation_matrix
    from perceptkd.datasets.transforms.image_augmentation import image_augmentation_matrix

    rng = np.random.default_rng(seed)
    scene = bev_augmentation_matrix(rng.uniform(-3, 3), 1.1, translate_m=rng.normal(size=3), flip_x=True, flip_y=False)
    image = image_augmentation_matrix((0.5, 0.6), (5, 3, 95, 45), flip=bool(seed % 2), rotate_deg=5.0)
    lifted = np.eye(4)
    lifted[:2, :2], lifted[:2, 3] = image[:2, :2], image[:2, 2]
    meta = {
        "cam2img": CAM2IMG[None],
        "lidar2cam": LIDAR2CAM[None],
        "img_aug_matrix": lifted[None],
        "lidar_aug_matrix": scene,
    }
    (matrix,) = image_matrices(meta, 1)
    pixel, _ = project((scene @ [*PLACE, 1])[None, :3], matrix)
    assert np.allclose(pixel[0], (image @ [80, 30, 1])[:2])


def test_images_without_calibration_are_an_error() -> None:
    with pytest.raises(ValueError, match="has no lidar2img"):
        image_matrices({}, 1)


def test_an_image_comes_as_rgb() -> None:
    blue_first = torch.zeros(3, 2, 2)
    blue_first[0] = 300.0
    assert as_rgb(blue_first).tolist() == [[[0, 0, 255]] * 2] * 2


def test_a_labelled_cloud() -> None:
    from mmdet3d.structures import Det3DDataSample, PointData

    sample = Det3DDataSample()
    sample.gt_pts_seg = PointData()
    sample.gt_pts_seg.pts_semantic_mask = torch.tensor([3, 0, 255])
    drawn = read_sample({"inputs": {"points": torch.zeros(3, 4)}, "data_samples": sample})
    assert drawn.point_labels.tolist() == [3, 0, 255]
    assert drawn.scene.truth is None
    assert drawn.scene.images == {}


def test_a_sample_of_mmdet() -> None:
    from mmdet.structures import DetDataSample

    sample = DetDataSample()
    sample.gt_instances = InstanceData(bboxes=torch.ones(2, 4), labels=torch.tensor([0, 1]))
    drawn = read_sample({"inputs": torch.zeros(3, 4, 5, dtype=torch.uint8), "data_samples": sample})
    assert drawn.image.shape == (4, 5, 3)
    assert drawn.boxes_2d.labels.tolist() == [0, 1]
    assert drawn.scene.points is None
