"""Samples as a pipeline gives them, for pictures: augmented points, boxes and images, whatever library packed them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData

from perceptkd.visualization.cameras import lidar_to_image
from perceptkd.visualization.frames import Frame, truth_of


@dataclass(frozen=True)
class DrawnSample:
    """What can be drawn of a sample.

    Attributes:
        scene: Points, 3D boxes, camera images and their calibration.
        point_labels: Class of every point [N], or None.
        image: RGB image [H, W, 3] of a 2D detector, or None.
        boxes_2d: Its boxes, with ``bboxes`` (x0, y0, x1, y1) [M, 4] and ``labels``; or None.
    """

    scene: Frame
    point_labels: np.ndarray | None = None
    image: np.ndarray | None = None
    boxes_2d: InstanceData | None = None


def read_sample(sample: Mapping[str, Any], camera_names: Sequence[str] = ()) -> DrawnSample:
    """Reads a packed sample of perceptkd, mmdet3d or mmdet.

    Args:
        sample: ``inputs`` and ``data_samples``, as a data set returns them.
        camera_names: Names of the images, in their order.
    """
    inputs, truth = sample["inputs"], sample["data_samples"]
    if not isinstance(inputs, Mapping):  # mmdet packs the image alone
        boxes = truth.gt_instances if "gt_instances" in truth else None
        return DrawnSample(Frame(None, None, {}, {}), image=as_rgb(inputs), boxes_2d=boxes)
    points = inputs.get("points")
    labels = truth.gt_pts_seg.get("pts_semantic_mask") if "gt_pts_seg" in truth else None
    views = inputs.get("img")
    images: dict[str, np.ndarray] = {}
    calibration: dict[str, np.ndarray] = {}
    if views is not None:
        views = views[None] if views.ndim == 3 else views
        names = list(camera_names) if len(camera_names) == len(views) else [f"camera {i}" for i in range(len(views))]
        images = {name: as_rgb(view) for name, view in zip(names, views)}
        calibration = dict(zip(names, image_matrices(truth.metainfo, len(views))))
    return DrawnSample(
        Frame(None if points is None else torch.as_tensor(points), truth_of(truth), images, calibration),
        point_labels=None if labels is None else np.asarray(labels),
    )


def as_rgb(image: torch.Tensor) -> np.ndarray:
    """RGB uint8 [H, W, 3] of an image [3, H, W] as pipelines load it: BGR, 0 to 255."""
    return image.clamp(0, 255).byte().flip(0).permute(1, 2, 0).contiguous().numpy()


def image_matrices(meta: Mapping[str, Any], count: int) -> list[np.ndarray]:
    """The matrices [4, 4] from the augmented LiDAR frame to the pixels of each augmented image.

    Args:
        meta: Meta information of the sample, by perceptkd's or mmdet3d's packing.
        count: Number of images.

    Raises:
        ValueError: It holds no calibration.
    """
    if "lidar_aug_matrix" in meta:
        undo = np.linalg.inv(meta["lidar_aug_matrix"])
        return [
            lidar_to_image(meta["cam2img"][i], meta["lidar2cam"][i] @ undo, meta["img_aug_matrix"][i])
            for i in range(count)
        ]
    if "lidar2img" not in meta:
        raise ValueError("the sample has images, but its meta information has no lidar2img")
    matrices = np.asarray(meta["lidar2img"], dtype=np.float64).reshape(-1, 4, 4)
    undo, of_image = np.linalg.inv(_lidar_augmentation(meta)), _image_augmentation(meta)
    return [of_image @ matrix @ undo for matrix in matrices[:count]]


def _lidar_augmentation(meta: Mapping[str, Any]) -> np.ndarray:
    """What mmdet3d's transforms did to the points, [4, 4]: read off where the origin and the axes went."""
    from mmdet3d.models.layers.fusion_layers import apply_3d_transformation

    corners = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    moved = apply_3d_transformation(corners, "LIDAR", dict(meta)).numpy()
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = (moved[1:] - moved[0]).T, moved[0]
    return matrix


def _image_augmentation(meta: Mapping[str, Any]) -> np.ndarray:
    """What mmdet3d's transforms did to the image, [4, 4] on (u d, v d, d, 1): resize, crop, flip."""
    scale = np.asarray(meta.get("scale_factor", (1.0, 1.0)), dtype=np.float64)[:2]
    left, top = np.asarray(meta.get("img_crop_offset", (0.0, 0.0)), dtype=np.float64)
    matrix = np.eye(4)
    matrix[:2, :3] = [[scale[0], 0, -left], [0, scale[1], -top]]
    if meta.get("flip", False):
        mirror = np.eye(4)
        mirror[0, [0, 2]] = -1, meta["img_shape"][1]
        matrix = mirror @ matrix
    return matrix
