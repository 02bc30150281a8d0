"""Predictions in the LiDAR frame as the camera of KITTI sees them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import njit

from perceptkd.core.errors import InputError
from perceptkd.datasets.kitti_files import CLASSES, wrap_angle
from perceptkd.evaluation.kitti_boxes import HOW_TO_MAKE_INFOS, TYPES, KittiTable

#: A box is cut off in front of the camera where it comes closer than this, since what lies behind has no image.
NEAR_M = 0.1
ROTATION_TOLERANCE = 0.05

# Between the corners 0 to 3 of the bottom, in turn, and 4 to 7 of the top above them; every edge in both directions.
_EDGES = np.array([edge for i in range(4) for edge in ((i, (i + 1) % 4), (i + 4, (i + 1) % 4 + 4), (i, i + 4))])
_EDGES = np.concatenate([_EDGES, _EDGES[:, ::-1]])


def boxes_to_camera(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    frame: np.ndarray,
    *,
    infos: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    camera: str,
) -> KittiTable:
    """Predictions as result files have them, in order, less those that the images do not show.

    The 2D box is that of the projected corners, within the image. ``alpha`` is seen from the LiDAR, as in KITTI's own
    labels (from the camera they would differ by 0.03 rad 4 m away).

    Args:
        boxes: [N, 7] of bottom centre xyz [m], length, width, height [m], yaw [rad], LiDAR frame.
        scores: [N].
        labels: [N], indices into ``classes``.
        frame: [N], indices into ``infos``.
        infos: The frames' info records.
        classes: Class names.
        camera: Whose calibration counts, 'CAM2' in KITTI.

    Raises:
        InputError: A box or score is not finite, a label or class unknown, or the calibration missing or singular.
    """
    samples = [info["sample_idx"] for info in infos]
    _check_labels(labels, frame, classes, samples=samples)
    bad = frame[~(np.isfinite(boxes).all(axis=1) & np.isfinite(scores))]
    if len(bad):
        raise InputError(
            f"sample {samples[bad[0]]}: a predicted box or score is NaN or infinite; the model has diverged"
        )
    lidar2cam, cam2img, size = read_calibrations(infos, camera)
    boxes = boxes.astype(np.float64)
    location = np.einsum("nij,nj->ni", lidar2cam[frame, :3, :3], boxes[:, :3]) + lidar2cam[frame, :3, 3]
    # mmdet3d turns annotations into the LiDAR frame by the inverse of it
    rotation_y = wrap_angle(-boxes[:, 6] - np.pi / 2)
    alpha = wrap_angle(rotation_y - np.arctan2(-boxes[:, 1], boxes[:, 0]))
    box = np.column_stack([location, boxes[:, 3], boxes[:, 5], boxes[:, 4], rotation_y])
    bbox, is_seen = project_boxes(box, cam2img[frame], size[frame])
    return KittiTable(
        frame=frame,
        label=np.array([TYPES.index(name) for name in classes], np.int64)[labels],
        bbox=bbox,
        alpha=alpha,
        box=box,
        truncation=np.full(len(boxes), -1.0),
        occlusion=np.full(len(boxes), -1),
        score=scores.astype(np.float64),
    )[is_seen]


def project_boxes(box: np.ndarray, cam2img: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image boxes of what is in front of the camera, and which of them the image shows.

    Args:
        box: [N, 7] as in :class:`KittiTable`.
        cam2img: Projections [N, 4, 4].
        size: Width and height of the image [px], [N, 2].

    Returns:
        Left, top, right, bottom [px], at most the last pixel as in KITTI's labels, [N, 4]; a mask [N].
    """
    bounds = _project_edges(box, cam2img)
    low, high = bounds[:, :2], bounds[:, 2:]
    is_seen = (low < size).all(axis=1) & (high > 0).all(axis=1)
    return np.concatenate([np.clip(low, 0, size - 1), np.clip(high, 0, size - 1)], axis=1), is_seen


@njit(cache=True, nogil=True)
def _project_edges(box: np.ndarray, cam2img: np.ndarray) -> np.ndarray:
    """Least and largest u, v of each box's edges as far as they are in front, [N, 4]; infinite where none is."""
    bounds = np.empty((len(box), 4))
    bounds[:, :2], bounds[:, 2:] = np.inf, -np.inf
    corners = np.empty((8, 3))
    for i in range(len(box)):
        cos, sin = np.cos(box[i, 6]), np.sin(box[i, 6])
        for k in range(8):  # around the bottom, then around the top; y points down
            along = box[i, 3] / 2 * (1, 1, -1, -1)[k % 4]
            across = box[i, 5] / 2 * (1, -1, -1, 1)[k % 4]
            corners[k, 0] = box[i, 0] + cos * along + sin * across
            corners[k, 1] = box[i, 1] - box[i, 4] * (k // 4)
            corners[k, 2] = box[i, 2] + cos * across - sin * along
        for k in range(24):
            start, end = corners[_EDGES[k, 0]], corners[_EDGES[k, 1]]
            if max(start[2], end[2]) < NEAR_M:
                continue
            share = 0.0 if start[2] >= NEAR_M else (NEAR_M - start[2]) / (end[2] - start[2])
            u, v, depth = cam2img[i, 0, 3], cam2img[i, 1, 3], cam2img[i, 2, 3]
            for axis in range(3):
                at = start[axis] + share * (end[axis] - start[axis])
                u += cam2img[i, 0, axis] * at
                v += cam2img[i, 1, axis] * at
                depth += cam2img[i, 2, axis] * at
            bounds[i, 0], bounds[i, 1] = min(bounds[i, 0], u / depth), min(bounds[i, 1], v / depth)
            bounds[i, 2], bounds[i, 3] = max(bounds[i, 2], u / depth), max(bounds[i, 3], v / depth)
    return bounds


def read_calibrations(infos: Sequence[Mapping[str, Any]], camera: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``lidar2cam`` [F, 4, 4], ``cam2img`` [F, 4, 4], and width and height of the images [F, 2], of info records."""
    rows = []
    for info in infos:
        try:
            view = info["images"][camera]
            rows.append((view["lidar2cam"], view["cam2img"], (view["width"], view["height"])))
        except KeyError as error:
            raise InputError(
                f"sample {info['sample_idx']}: the calibration of {camera} has no {error}: {HOW_TO_MAKE_INFOS}"
            ) from error
    lidar2cam, cam2img, size = (np.array(column, np.float64) for column in zip(*rows))
    if lidar2cam.shape[1:] != (4, 4) or cam2img.shape[1:] != (4, 4):
        raise InputError(
            f"lidar2cam and cam2img of {camera} must be [4, 4], not {lidar2cam.shape[1:]} and {cam2img.shape[1:]}: "
            f"{HOW_TO_MAKE_INFOS}"
        )
    rotation = lidar2cam[:, :3, :3]
    skew = np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max(axis=(1, 2))
    with np.errstate(invalid="ignore"):  # a NaN is not sound either
        has_inverse = np.abs(np.linalg.det(cam2img[:, :3, :3])) > np.finfo(np.float32).eps
    is_sound = has_inverse & (skew < ROTATION_TOLERANCE)
    if not is_sound.all():
        raise InputError(
            f"sample {infos[is_sound.argmin()]['sample_idx']}: lidar2cam of {camera} is no rotation, or cam2img is "
            "singular: correct the calibration file of this sample and make the info files again"
        )
    return lidar2cam, cam2img, size


def _check_labels(labels: np.ndarray, frame: np.ndarray, classes: Sequence[str], *, samples: Sequence[Any]) -> None:
    unknown = [name for name in classes if name not in CLASSES]
    if unknown:
        raise InputError(
            f"dataset_meta['classes'] has {', '.join(unknown)}, which KITTI does not know: set the metainfo of the "
            f"data set to names of {', '.join(CLASSES)}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise InputError(
            f"sample {samples[frame[wrong[0]]]}: a predicted label is {labels[wrong[0]]}, and dataset_meta['classes'] "
            f"has {len(classes)} names ({', '.join(classes)}): give the model and the data set the same ones"
        )
