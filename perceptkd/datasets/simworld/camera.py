"""The cameras: rasterise, shade, expose."""

from typing import NamedTuple

import numpy as np

from .calibration import RIG
from .raster import NO_TRIANGLE, fill_nearest, project_perspective
from .scene import Scene, Snapshot
from .semantics import SKY


class CameraFrame(NamedTuple):
    """One picture and its exact labels.

    Args:
        rgb: [H, W, 3] uint8.
        instance: [H, W] int32, 0 where there is no agent.
        semantic: [H, W] uint8, see ``SEMANTICS``.
        depth: [H, W] float32, metres along the optical axis; inf in the sky.
    """

    rgb: np.ndarray
    instance: np.ndarray
    semantic: np.ndarray
    depth: np.ndarray


def render_camera(scene: Scene, camera_name: str, t: float, image_size: tuple[int, int] | None = None) -> CameraFrame:
    """The picture a camera takes at ``t`` seconds; ``image_size`` defaults to the specification's."""
    width, height = image_size or scene.spec.image_size
    snapshot = scene.snapshot(t)
    pose = scene.ego_pose(t) @ RIG[camera_name].ego_from_sensor
    intrinsics = RIG[camera_name].intrinsics_at((width, height))
    nearest, winner = see_nearest(snapshot, pose, intrinsics, width, height)
    seen = winner != NO_TRIANGLE
    colour = np.where(seen[..., None], snapshot.colour[winner], 0.8)
    instance = np.where(seen, snapshot.instance[winner], 0).astype(np.int32)
    semantic = np.where(seen, snapshot.semantic[winner], SKY).astype(np.uint8)
    depth = np.full((height, width), np.inf, np.float32)
    depth[seen] = 1.0 / nearest[seen]
    return CameraFrame((colour * 255).astype(np.uint8), instance, semantic, depth)


def see_nearest(
    snapshot: Snapshot, pose: np.ndarray, intrinsics: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth [H, W] and triangle [H, W] of the nearest surface."""
    rotation = np.ascontiguousarray(pose[:3, :3].T)
    screen, source = project_perspective(
        snapshot.corners, rotation, np.ascontiguousarray(pose[:3, 3]), intrinsics, width, height
    )
    nearest = np.zeros((height, width))
    winner = np.full((height, width), NO_TRIANGLE, np.int32)
    fill_nearest(screen, source, nearest, winner)
    return nearest, winner
