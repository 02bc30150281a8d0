"""What the pictures of a key frame show, read from a data set's record: every sensor, whichever the model reads."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import InstanceData

from perceptkd.datasets.transforms.loading import load_image, load_points
from perceptkd.visualization.cameras import lidar_to_image


@dataclass(frozen=True)
class Frame:
    """One key frame as sensors and annotators saw it.

    Attributes:
        points: LiDAR points [N, >= 3] in metres; None without a LiDAR.
        truth: Annotated boxes, in the LiDAR frame; None without annotations.
        images: Camera name -> RGB image [H, W, 3] at full size.
        calibration: Camera name -> matrix [4, 4] from LiDAR metres to pixels.
    """

    points: torch.Tensor | np.ndarray | None
    truth: InstanceData | None
    images: dict[str, np.ndarray]
    calibration: dict[str, np.ndarray]


def read_points(info: Mapping[str, Any]) -> np.ndarray | None:
    """The points [N, F] of the key frame itself, without sweeps; None, with a warning, where its file is not there."""
    lidar = info.get("lidar_points", {})
    if not _is_there(lidar.get("lidar_path")):
        return None
    return load_points(lidar["lidar_path"], lidar["num_pts_feats"], sample=info["token"])


def read_cameras(info: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images and calibration, as :class:`Frame` holds them; a warning tells of cameras whose files are not there."""
    views = {name: view for name, view in info.get("images", {}).items() if _is_there(view.get("img_path"))}
    images = {name: load_image(view["img_path"], sample=info["token"])[..., ::-1] for name, view in views.items()}
    calibration = {
        name: lidar_to_image(np.asarray(view["cam2img"]), np.asarray(view["lidar2cam"])) for name, view in views.items()
    }
    return images, calibration


def _is_there(path: str | None) -> bool:
    if not path:
        return False
    found = Path(path).is_file()
    if not found:
        print_log(f"{path} is not there: the picture goes without it", logger="current", level=logging.WARNING)
    return found


def truth_of(sample: Any) -> InstanceData | None:
    """The annotated boxes of a data sample, whichever of mmdet3d's two fields they stand in."""
    if "gt_instances_3d" in sample and len(sample.gt_instances_3d):
        return sample.gt_instances_3d
    if "eval_ann_info" not in sample:
        return None
    annotations = sample.eval_ann_info
    return InstanceData(bboxes_3d=annotations["gt_bboxes_3d"], labels_3d=torch.as_tensor(annotations["gt_labels_3d"]))
