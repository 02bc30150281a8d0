"""PackBEVInputs."""

import numpy as np
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints

from perceptkd.datasets.transforms.packing import PackBEVInputs


def raw(views: int = 2) -> dict:
    return {
        "points": LiDARPoints(torch.rand(5, 5), points_dim=5),
        "img": [np.full((4, 6, 3), view, np.uint8) for view in range(views)],
        "cam2img": [np.eye(3) * (view + 2) for view in range(views)],
        "lidar2cam": [np.eye(4)] * views,
        "gt_bboxes_3d": LiDARInstance3DBoxes(torch.rand(3, 9), box_dim=9),
        "gt_labels_3d": np.array([1, 2, 3]),
        "token": "abc",
        "sample_idx": 7,
        "box_type_3d": LiDARInstance3DBoxes,
    }


def test_shapes_and_meta_information() -> None:
    packed = PackBEVInputs().transform(raw())
    sample = packed["data_samples"]
    assert packed["inputs"]["points"].shape == (5, 5)
    assert packed["inputs"]["img"].shape == (2, 3, 4, 6)
    assert packed["inputs"]["img"].dtype == torch.uint8
    assert sample.metainfo["token"] == "abc"
    assert sample.metainfo["cam2img"].shape == (2, 4, 4)
    np.testing.assert_array_equal(sample.metainfo["cam2img"][0], np.diag([2.0, 2.0, 2.0, 1.0]))
    assert sample.gt_instances_3d.labels_3d.tolist() == [1, 2, 3]


def test_augmentations_that_did_not_run_are_identities() -> None:
    metas = PackBEVInputs().transform(raw())["data_samples"].metainfo
    np.testing.assert_array_equal(metas["img_aug_matrix"], np.stack([np.eye(4)] * 2))
    np.testing.assert_array_equal(metas["lidar_aug_matrix"], np.eye(4))


def test_a_sample_without_labels_can_be_packed_for_test() -> None:
    given = raw()
    del given["gt_bboxes_3d"], given["gt_labels_3d"], given["img"]
    packed = PackBEVInputs(with_boxes=False).transform(given)
    assert "gt_instances_3d" not in packed["data_samples"]
    assert "img" not in packed["inputs"]
