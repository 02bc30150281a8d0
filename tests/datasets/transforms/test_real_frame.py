"""The pipelines on one real nuScenes key frame without sweeps."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes

from perceptkd.models.bev.geometry import lift_frustum, stack_calibration
from perceptkd.registry import TRANSFORMS

FULL_RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
INFO = "n015-2018-07-24-11-22-45+0800.pkl"


def load_frame(folder: Path) -> dict:
    with open(folder / INFO, "rb") as file:
        frame = pickle.load(file)["data_list"][0]
    frame["lidar_points"]["lidar_path"] = str(folder / frame["lidar_points"]["lidar_path"])
    for view in frame["images"].values():
        view["img_path"] = str(folder / view["img_path"])
    values = np.array([[*box["bbox_3d"], *box["velocity"]] for box in frame["instances"]], dtype=np.float32)
    frame["gt_bboxes_3d"] = LiDARInstance3DBoxes(np.nan_to_num(values), box_dim=9, origin=(0.5, 0.5, 0.5))
    frame["gt_labels_3d"] = np.array([box["bbox_label_3d"] for box in frame["instances"]])
    return frame


@pytest.mark.parametrize("training", [False, True])
def test_lidar_points_survive_the_way_through_every_camera(real_data: Path, training: bool) -> None:
    """Points projected into the augmented images and lifted as the frustum is come back to where they were."""
    frame = load_frame(real_data / "mmdet3d_demo" / "nuscenes")
    rotation, probability = ((-45, 45), 0.5) if training else ((0, 0), 0.0)
    for step in (
        {"type": "perceptkd.LoadPoints", "sweeps": 0},
        {"type": "perceptkd.LoadMultiViewImages"},
        {"type": "perceptkd.AugmentBEV", "rotate_range_deg": rotation, "flip_probability": probability},
        {
            "type": "perceptkd.AugmentImages",
            "training": training,
            "image_size": (256, 704),
            "resize_range": (0.386, 0.55),
            "test_resize": 0.44,
            "rotate_range_deg": (-5.4, 5.4),
            "flip": True,
        },
        {"type": "perceptkd.FilterRange", "point_cloud_range": FULL_RANGE},
        {"type": "perceptkd.FilterClasses", "num_classes": 10},
        {"type": "perceptkd.PackBEVInputs"},
    ):
        frame = TRANSFORMS.build(step).transform(frame)
    points, sample = frame["inputs"]["points"], frame["data_samples"]
    assert frame["inputs"]["img"].shape == (6, 3, 256, 704)
    assert len(points) > 30_000
    assert len(sample.gt_instances_3d.labels_3d) > 40

    calibration = stack_calibration([sample], "cpu")
    homogeneous = np.pad(points[:, :3].numpy().astype(np.float64), ((0, 0), (0, 1)), constant_values=1)
    seen = np.zeros(len(points), dtype=bool)
    for view in range(6):
        metas = sample.metainfo
        camera = homogeneous @ (metas["lidar2cam"][view] @ np.linalg.inv(metas["lidar_aug_matrix"])).T
        ahead = camera[:, 2] > 1
        pixels = camera[ahead] @ metas["cam2img"][view].T
        pixels = np.concatenate([pixels[:, :2] / pixels[:, 2:3], pixels[:, 2:]], axis=1)
        pixels = pixels @ metas["img_aug_matrix"][view].T
        frustum = torch.tensor(pixels[:, :3]).float().reshape(-1, 1, 1, 3)
        lifted = lift_frustum(frustum, calibration)[0, view].reshape(-1, 3)
        torch.testing.assert_close(lifted, points[torch.from_numpy(ahead), :3], atol=1e-2, rtol=1e-4)
        inside = ((pixels[:, :2] >= 0) & (pixels[:, :2] < [704, 256])).all(axis=1)
        seen[np.flatnonzero(ahead)[inside]] = True
    assert seen.mean() > 0.3
