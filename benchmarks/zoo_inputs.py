"""Small batches for upstream models of every kind, made from what their configs say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

IMAGE = (128, 160)
POINTS = 4000


def values_of(node: Any, key: str) -> Iterator[Any]:
    """Every value stored under ``key`` anywhere in a nested config."""
    if isinstance(node, Mapping):
        if key in node:
            yield node[key]
        node = list(node.values())
    if isinstance(node, list | tuple):
        for item in node:
            yield from values_of(item, key)


def class_count(model: Mapping[str, Any]) -> int:
    """Classes that all heads of a model have in common."""
    return min((count for count in values_of(model, "num_classes") if isinstance(count, int)), default=80)


def batch_2d(model: Mapping[str, Any], size: tuple[int, int] = IMAGE, samples: int = 2) -> dict[str, Any]:
    """Images with boxes, proposals and a semantic map, as mmdet's loader collates them; with masks for who asks."""
    from mmdet.testing import demo_mm_inputs
    from mmengine.structures import InstanceData, PixelData

    classes = class_count(model)
    stuff = max((count for count in values_of(model, "num_stuff_classes") if isinstance(count, int)), default=0)
    masks = any(True for key in ("mask_head", "panoptic_head") for _ in values_of(model, key))
    batch = demo_mm_inputs(
        samples, (3, *size), num_items=[3, 4][:samples], num_classes=max(2, classes), with_mask=masks
    )
    for sample in batch["data_samples"]:
        sample.gt_instances.labels %= classes
        sample.gt_sem_seg = PixelData(sem_seg=torch.randint(0, classes + stuff, (1, *size)))
        if "rpn_head" not in model:
            boxes = sample.gt_instances.bboxes
            sample.proposals = InstanceData(bboxes=boxes + 2, scores=torch.ones(len(boxes)))
        sample.set_metainfo({"batch_input_shape": size, "text": "a thing. another thing.", "custom_entities": False})
    return batch


def batch_segmentation(model: Mapping[str, Any], size: tuple[int, int] = IMAGE, samples: int = 2) -> dict[str, Any]:
    """Images with a class per pixel, as mmseg's loader collates them."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    truths, images = [], []
    for _ in range(samples):
        images.append(torch.randint(0, 256, (3, *size), dtype=torch.uint8))
        sample = SegDataSample(metainfo={"img_shape": size, "ori_shape": size, "pad_shape": size, "flip": False})
        labels = torch.randint(0, class_count(model), (1, *size))
        sample.gt_sem_seg = PixelData(data=labels)
        sample.gt_edge_map = PixelData(data=(labels == 0).long())
        truths.append(sample)
    return {"inputs": images, "data_samples": truths}


def batch_3d(model: Mapping[str, Any], kind: str, *, columns: int = 4, images: int = 0, samples: int = 2) -> dict:
    """Point clouds, images or both, with 3D boxes and a class per point.

    Args:
        model: the model's config, whose point cloud range and classes are kept.
        kind: of the boxes: 'lidar', 'depth' (indoor) or 'camera'.
        columns: of the points; 0 for none.
        images: per sample; 0 for none.
        samples: in the batch.
    """
    inputs: dict[str, list] = {}
    everything = [sample_3d(model, kind, columns=columns, images=images) for _ in range(samples)]
    for name in ("points", "img"):
        if name in everything[0]:
            inputs[name] = [sample[name] for sample in everything]
    return {"inputs": inputs, "data_samples": [sample["data_sample"] for sample in everything]}


def sample_3d(model: Mapping[str, Any], kind: str, *, columns: int, images: int) -> dict[str, Any]:
    """One sample of :func:`batch_3d`."""
    from mmdet3d.structures import (
        CameraInstance3DBoxes,
        DepthInstance3DBoxes,
        Det3DDataSample,
        LiDARInstance3DBoxes,
        PointData,
    )
    from mmengine.structures import InstanceData

    box_type = {"lidar": LiDARInstance3DBoxes, "depth": DepthInstance3DBoxes, "camera": CameraInstance3DBoxes}[kind]
    low, high = bounds_of(model, kind)
    classes = class_count(model)
    code_size = max((size for size in values_of(model, "code_size") if size in (7, 9)), default=7)
    centres = low + (high - low) * (0.25 + 0.5 * torch.rand(6, 3))
    boxes = torch.zeros(6, code_size)
    boxes[:, :3] = centres
    boxes[:, 3:6] = (high - low).clamp(max=20.0).min() * (0.1 + 0.2 * torch.rand(6, 3))
    if kind != "depth":
        boxes[:, 6] = torch.rand(6) * 3 - 1.5
    labels = torch.arange(6) % classes
    sample = Det3DDataSample(metainfo=metainfo(box_type, images))
    sample.gt_instances_3d = InstanceData(bboxes_3d=box_type(boxes, box_dim=code_size), labels_3d=labels)
    made: dict[str, Any] = {"data_sample": sample}
    if columns:
        spread = torch.rand(POINTS, columns)
        spread[:, :3] = low + (high - low) * spread[:, :3]
        near = boxes[torch.randint(0, 6, (POINTS // 2,)), :3] + 0.3 * torch.randn(POINTS // 2, 3)
        spread[: POINTS // 2, :3] = near
        made["points"] = spread
        sample.gt_pts_seg = PointData(
            pts_semantic_mask=torch.randint(0, classes, (POINTS,)),
            pts_instance_mask=torch.randint(0, 6, (POINTS,)),
        )
    if images:
        made["img"] = torch.randint(0, 256, (3, *IMAGE) if images == 1 else (images, 3, *IMAGE), dtype=torch.uint8)
        corner = torch.rand(6, 2) * torch.tensor([100.0, 70.0])
        sample.gt_instances = InstanceData(
            bboxes=torch.cat((corner, corner + 30), dim=1), labels=labels, bboxes_labels=labels
        )
        sample.gt_instances_3d.centers_2d = corner + 15
        sample.gt_instances_3d.depths = 5 + 20 * torch.rand(6)
        sample.gt_instances_3d.attr_labels = torch.zeros(6, dtype=torch.long)
    return made


def bounds_of(model: Mapping[str, Any], kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the points of a model lie: its point cloud range, or a room, or what a camera sees."""
    ranges = [value for value in values_of(model, "point_cloud_range") if len(value) == 6]
    fallback = {
        "lidar": [0, -20, -3, 40, 20, 1],
        "depth": [-1.5, -1.5, 0, 1.5, 1.5, 3],
        "camera": [-10, -1, 5, 10, 2, 40],
    }
    low_and_high = torch.tensor(ranges[0] if ranges else fallback[kind], dtype=torch.float32)
    return low_and_high[:3], low_and_high[3:]


def metainfo(box_type: type, images: int) -> dict[str, Any]:
    """What loaders say of a sample: a camera that looks along x over the point cloud."""
    height, width = IMAGE
    camera = np.array([[80.0, 0, width / 2, 0], [0, 80.0, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    from_lidar = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0.1], [0, 0, 0, 1]])
    to_image = camera @ from_lidar
    of_images = {
        "scale_factor": np.ones(2),
        "flip": False,
        "cam2img": camera.astype(np.float32),
        "ori_cam2img": camera.astype(np.float32),
        "lidar2cam": from_lidar.astype(np.float32),
        "lidar2img": to_image.astype(np.float32),
    }
    return {
        "box_type_3d": box_type,
        "box_mode_3d": None,
        "img_shape": IMAGE,
        "ori_shape": IMAGE,
        "pad_shape": IMAGE,
        "num_views": images,
        "num_ref_frames": 0,
        "pcd_horizontal_flip": False,
        "pcd_vertical_flip": False,
        "pcd_scale_factor": 1.0,
        "pcd_rotation": torch.eye(3),
        "pcd_trans": np.zeros(3),
        "transformation_3d_flow": [],
        "depth2img": to_image[:3, :3].astype(np.float32),
        "trans_mat": np.eye(3, dtype=np.float32),
        "affine_aug": False,
        "sample_idx": 0,
        **{name: [value] * images if images > 1 else value for name, value in of_images.items()},
    }
