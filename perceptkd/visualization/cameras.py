"""Boxes drawn over the camera images they belong to."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perceptkd.visualization.boxes import BOTTOM, TOP, TRUTH, DrawnBoxes, as_drawn
from perceptkd.visualization.figure import as_bgr, save_image, set_colours

#: The usual order of the six nuScenes views: ahead, then behind, left to right as the driver sees them.
VIEW_ORDER = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
EDGES = tuple(
    edge
    for i in range(4)
    for edge in ((BOTTOM[i], BOTTOM[(i + 1) % 4]), (TOP[i], TOP[(i + 1) % 4]), (BOTTOM[i], TOP[i]))
)
#: A cross on the front face shows the heading.
FRONT_CROSS = ((BOTTOM[2], TOP[3]), (BOTTOM[3], TOP[2]))
NEAR_M = 0.3
BAR_PX = 34
#: Smaller boxes get no name, which would hide them and their neighbours.
TAGGED_PX = 24
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_cameras(
    path: str | Path,
    images: Mapping[str, np.ndarray],
    boxes: Mapping[str, Any],
    calibration: Mapping[str, np.ndarray],
    *,
    class_names: Sequence[str] = (),
    score_threshold: float = 0.3,
    max_distance_m: float = 60.0,
    columns: int = 3,
    title: str = "",
) -> Path:
    """Draws 3D boxes over all camera images of one moment, truth in green and every other set in its own colour.

    Args:
        path: PNG file to write.
        images: Camera name -> RGB image [H, W, 3], 8 bit, all of one size.
        boxes: Set name -> boxes (InstanceData or mmdet3d boxes) in the LiDAR frame; the truth is named 'truth'.
        calibration: Camera name -> matrix [4, 4] from LiDAR metres to pixels of that image
            (:func:`lidar_to_image` makes it).
        class_names: Names of the labels, written beside the boxes.
        score_threshold: Predictions with a lower score are left out.
        max_distance_m: Boxes whose centre is further away are left out.
        columns: Images per row.
        title: Text at the left of the legend.

    Returns:
        The path.
    """
    missing = sorted(set(images) ^ set(calibration))
    if missing or not images:
        raise ValueError(f"images and calibration must name the same cameras, at least one; they differ in {missing}")
    drawn = {
        name: _nearby(as_drawn(value, score_threshold=score_threshold), max_distance_m) for name, value in boxes.items()
    }
    colours = set_colours(list(drawn))
    tiles = []
    for camera in sorted(images, key=lambda name: (VIEW_ORDER.index(name) if name in VIEW_ORDER else 99, name)):
        tile = cv2.cvtColor(np.ascontiguousarray(images[camera]), cv2.COLOR_RGB2BGR)
        for name in sorted(drawn, key=lambda name: name != TRUTH):
            overlay_boxes(tile, drawn[name], calibration[camera], colour=colours[name], class_names=class_names)
        tag(tile, camera.replace("_", " "), (0, 0), "#222222", scale=0.5 * _zoom(tile.shape[1]))
        tiles.append(cv2.copyMakeBorder(tile, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    rows = [np.concatenate(_filled(tiles[i : i + columns], columns), axis=1) for i in range(0, len(tiles), columns)]
    width = rows[0].shape[1]
    zoom = _zoom(tiles[0].shape[1])
    bar = cv2.resize(_legend_bar(round(width / zoom), drawn, colours, title), (width, round(BAR_PX * zoom)))
    return save_image(np.concatenate([bar, *rows], axis=0), path)


def lidar_to_image(cam2img: np.ndarray, lidar2cam: np.ndarray, img_aug_matrix: np.ndarray | None = None) -> np.ndarray:
    """The matrix [4, 4] from LiDAR metres to pixels: intrinsics after extrinsics, then what the image was resized by.

    Args:
        cam2img: Intrinsics [3, 3] or [4, 4].
        lidar2cam: Extrinsics [4, 4].
        img_aug_matrix: Affine map [4, 4] from original pixels to pixels of the image, or None.
    """
    intrinsics = np.eye(4)
    intrinsics[: len(cam2img), : len(cam2img)] = cam2img
    matrix = intrinsics @ np.asarray(lidar2cam, dtype=np.float64)
    if img_aug_matrix is None:
        return matrix
    affine = np.asarray(img_aug_matrix, dtype=np.float64)
    homogeneous = np.eye(4)  # the affine part acts on pixels, so its shift is multiplied by the depth
    homogeneous[:2, :2], homogeneous[:2, 2] = affine[:2, :2], affine[:2, 3]
    return homogeneous @ matrix


def project(points: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projects points [..., 3] of the LiDAR frame; returns pixels [..., 2] and depths [...] in metres."""
    homogeneous = points @ matrix[:3, :3].T + matrix[:3, 3]
    depth = homogeneous[..., 2]
    return homogeneous[..., :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)[..., None], depth


def overlay_boxes(
    image: np.ndarray, boxes: DrawnBoxes, matrix: np.ndarray, *, colour: str, class_names: Sequence[str] = ()
) -> int:
    """Draws the edges of boxes into a BGR image, in place; parts behind the camera are cut off.

    Returns:
        How many boxes have a corner in the image.
    """
    height, width = image.shape[:2]
    zoom = _zoom(width)
    pixels, depth = project(boxes.corners, matrix)
    inside = (depth > NEAR_M) & (pixels >= 0).all(axis=-1) & (pixels < (width, height)).all(axis=-1)
    visible = np.flatnonzero(inside.any(axis=1))
    for index in visible[np.argsort(-depth[visible].mean(axis=1))]:
        thickness = round((2 if depth[index].min() < 15 else 1) * zoom)
        for start, end in (*EDGES, *FRONT_CROSS):
            segment = _clipped(boxes.corners[index, start], boxes.corners[index, end], matrix)
            if segment is not None:
                cv2.line(image, *segment, as_bgr(colour), thickness, cv2.LINE_AA)
        seen = pixels[index][inside[index]]
        if class_names and boxes.labels[index] >= 0 and np.ptp(seen, axis=0).max() >= TAGGED_PX * zoom:
            text = class_names[int(boxes.labels[index])]
            text += "" if boxes.scores is None else f" {boxes.scores[index]:.2f}"
            left, top = seen.min(axis=0)
            tag(image, text, (int(left), int(top)), colour, scale=0.36 * zoom)
    return len(visible)


def _clipped(start: np.ndarray, end: np.ndarray, matrix: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Pixels of the part of an edge in front of the camera, or None."""
    near, far = (float(matrix[2, :3] @ point + matrix[2, 3]) for point in (start, end))
    if max(near, far) <= NEAR_M:
        return None
    ends = []
    for point, depth, other, other_depth in ((start, near, end, far), (end, far, start, near)):
        if depth < NEAR_M:
            point = point + (other - point) * (NEAR_M - depth) / (other_depth - depth)
        pixel = np.clip(project(point, matrix)[0], -1e5, 1e5)
        ends.append((round(float(pixel[0])), round(float(pixel[1]))))
    return ends[0], ends[1]


def _nearby(boxes: DrawnBoxes, distance_m: float) -> DrawnBoxes:
    return boxes.select(np.linalg.norm(boxes.centres[:, :2], axis=1) <= distance_m)


def _filled(tiles: list[np.ndarray], columns: int) -> list[np.ndarray]:
    return tiles + [np.full_like(tiles[0], 255)] * (columns - len(tiles))


def _legend_bar(width: int, drawn: Mapping[str, DrawnBoxes], colours: Mapping[str, str], title: str) -> np.ndarray:
    bar = np.full((BAR_PX, width, 3), 255, dtype=np.uint8)
    left = 10
    if title:
        left = _write(bar, title, (left, 23), "#000000", scale=0.6) + 30
    for name in drawn:
        cv2.rectangle(bar, (left, 10), (left + 26, 24), as_bgr(colours[name]), -1)
        left = _write(bar, name, (left + 34, 23), "#000000", scale=0.55) + 24
    _write(bar, "crossed face = front", (left, 23), "#666666", scale=0.5)
    return bar


def _zoom(width: int) -> float:
    """How much larger than on an image 800 pixels wide lines and letters must be."""
    return max(1.0, width / 800)


def tag(image: np.ndarray, text: str, corner: tuple[int, int], colour: str, *, scale: float) -> None:
    """Writes white text on a coloured ground, standing on ``corner`` and kept inside of the image."""
    (width, height), _ = cv2.getTextSize(text, FONT, scale, 1)
    left = min(corner[0], image.shape[1] - width - 3)
    bottom = max(corner[1], height + 5)
    cv2.rectangle(image, (left, bottom - height - 4), (left + width + 2, bottom - 1), as_bgr(colour), -1)
    cv2.putText(image, text, (left + 1, bottom - 3), FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)


def _write(image: np.ndarray, text: str, corner: tuple[int, int], colour: str, *, scale: float = 0.5) -> int:
    """Writes text with its lower left at ``corner``; returns the column where it ends."""
    cv2.putText(image, text, corner, FONT, scale, as_bgr(colour), 1, cv2.LINE_AA)
    return corner[0] + math.ceil(cv2.getTextSize(text, FONT, scale, 1)[0][0])
