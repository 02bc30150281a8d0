"""Sensor files to arrays, each file checked: a bad one ends in an error that names the sample and the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.structures.points import LiDARPoints

from perceptkd.core.errors import InputError
from perceptkd.datasets.transforms.packing import pad_matrix
from perceptkd.registry import TRANSFORMS

BYTES_PER_FLOAT = 4
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
#: Cameras may pad a file behind the end marker; a cut file has none at all near its end.
JPEG_TAIL_BYTES = 1024
#: Of a calibration matrix; intrinsics of 10,000 pixels have about 10^4.
MAX_CONDITION = 1e10


def load_points(path: str | Path, num_features: int, *, sample: str) -> np.ndarray:
    """Reads a LiDAR sweep.

    Returns:
        float32 [N, num_features], N > 0, all finite.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is cut, empty, or holds NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"sample {sample}: LiDAR file {path} is missing; restore it or remake the data set")
    values = np.fromfile(path, dtype=np.float32)
    size = path.stat().st_size
    if size % (BYTES_PER_FLOAT * num_features):
        raise InputError(
            f"sample {sample}: LiDAR file {path} is truncated: {size} bytes are no whole number of points of "
            f"{num_features} float32 values; restore it or remake the data set"
        )
    if not len(values):
        raise InputError(f"sample {sample}: LiDAR file {path} holds no point; restore it or drop the sample")
    points = values.reshape(-1, num_features)
    broken = ~np.isfinite(points).all(axis=1)
    if broken.any():
        raise InputError(
            f"sample {sample}: {broken.sum()} of {len(points)} points in {path} are NaN or infinite; "
            "remove those points from the file (a driver may write them for rays without return)"
        )
    return points


def load_image(path: str | Path, *, sample: str) -> np.ndarray:
    """Reads an image.

    Returns:
        uint8 [H, W, 3] in BGR.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is cut or no image.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"sample {sample}: image {path} is missing; restore it or remake the data set")
    content = path.read_bytes()
    # OpenCV decodes a cut JPEG without an error and fills the rest with grey.
    cut = content.startswith(JPEG_START) and JPEG_END not in content[-JPEG_TAIL_BYTES:]
    image = None if cut or not content else cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(
            f"sample {sample}: image {path} is truncated or unreadable ({len(content)} bytes); "
            "restore it or remake the data set"
        )
    return image


def load_calibration(matrix: Any, *, name: str, sample: str) -> np.ndarray:
    """A calibration matrix of an info file, [3, 3] intrinsics or [3, 4] or [4, 4], as float64 [4, 4].

    Raises:
        InputError: A value is not finite, or the matrix is singular: what it does could not be undone.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    # unlike a determinant, the condition means the same for small and for large images
    if not np.isfinite(matrix).all() or np.linalg.cond(matrix[:3, :3]) > MAX_CONDITION:
        raise InputError(
            f"sample {sample}: {name} is singular or not finite: {matrix.tolist()}; correct the calibration and remake "
            "the info file"
        )
    return pad_matrix(matrix)


@TRANSFORMS.register_module()
class LoadPoints(BaseTransform):
    """The key frame's LiDAR points and those of earlier sweeps, moved to the key frame's LiDAR frame.

    It replaces mmdet3d's ``LoadPointsFromFile`` and ``LoadPointsFromMultiSweeps``. The latter adds the sweep's offset
    turned by the rotation between the two frames, so that old sweeps smear in curves, and draws sweeps at random in
    training; here the offset is right and the newest sweeps are taken.

    Sets ``points``: LiDARPoints [N, 5] of x, y, z [m], intensity (as stored, 0-255) and the age of the point [s].

    Args:
        sweeps: How many earlier sweeps to add, newest first; a scene's first frames have fewer.
        with_age: Whether points have the fifth column; models of single sweeps often have none.
        remove_close_m: Points of earlier sweeps within this distance of the sensor, in x and in y, are the vehicle
            itself and are dropped.
        repeat_oldest: Where a frame has fewer sweeps, add the oldest of them until there are ``sweeps``, or the key
            frame if it has none, as UniDistill's released code does.
    """

    def __init__(
        self, *, sweeps: int = 0, remove_close_m: float = 1.0, with_age: bool = True, repeat_oldest: bool = False
    ) -> None:
        if sweeps and not with_age:
            raise InputError(
                f"LoadPoints: a model needs the age of points to tell {sweeps} sweeps apart: with_age=True"
            )
        self.sweeps = sweeps
        self.with_age = with_age
        self.remove_close_m = remove_close_m
        self.repeat_oldest = repeat_oldest

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds ``points``."""
        frame = results["lidar_points"]
        num_features = frame["num_pts_feats"]
        points = load_points(frame["lidar_path"], num_features, sample=results["token"])[:, :4]
        clouds = [np.pad(points, ((0, 0), (0, 1)))]
        if self.sweeps:
            if "lidar_sweeps" not in results:
                raise InputError(
                    f"sample {results['token']}: its info file lists no sweeps, so sweeps={self.sweeps} cannot be met; "
                    "set sweeps=0 or remake the info file"
                )
            clouds += [self._load_sweep(sweep, results) for sweep in results["lidar_sweeps"][: self.sweeps]]
        if self.repeat_oldest:
            clouds += [clouds[-1]] * (self.sweeps + 1 - len(clouds))
        loaded = np.concatenate(clouds)[:, : 5 if self.with_age else 4]
        results["points"] = LiDARPoints(torch.from_numpy(loaded), points_dim=loaded.shape[1])
        return results

    def _load_sweep(self, sweep: Mapping[str, Any], results: Mapping[str, Any]) -> np.ndarray:
        frame = sweep["lidar_points"]
        points = load_points(frame["lidar_path"], results["lidar_points"]["num_pts_feats"], sample=results["token"])
        points = points[(np.abs(points[:, :2]) >= self.remove_close_m).any(axis=1), :4]
        sweep_from_key = load_calibration(
            frame["lidar2sensor"], name="lidar2sensor of a sweep", sample=results["token"]
        )
        key_from_sweep = np.linalg.inv(sweep_from_key)
        moved = points[:, :3] @ key_from_sweep[:3, :3].T + key_from_sweep[:3, 3]
        age = np.full((len(points), 1), results["timestamp"] - sweep["timestamp"])
        return np.concatenate([moved, points[:, 3:], age], axis=1).astype(np.float32)

    def __repr__(self) -> str:
        options = f"sweeps={self.sweeps}, remove_close_m={self.remove_close_m}, with_age={self.with_age}"
        return f"{type(self).__name__}({options}, repeat_oldest={self.repeat_oldest})"


@TRANSFORMS.register_module()
class LoadMultiViewImages(BaseTransform):
    """The cameras' images and calibration, under the names of mmdet3d's multi-view pipelines.

    Sets ``img`` (list of V uint8 [H, W, 3] in BGR), ``cam2img``, ``lidar2cam`` and ``ori_cam2img`` (float32 [V, 4, 4]),
    ``filename``, ``cam_names``, ``num_views``, ``img_shape``, ``ori_shape`` and ``pad_shape`` (H, W).

    Args:
        cameras: Channel names, in the order wanted; by default all of the info file in its order.
    """

    def __init__(self, cameras: Sequence[str] | None = None) -> None:
        self.cameras = cameras

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds the images and their calibration."""
        names = list(self.cameras or results["images"])
        unknown = [name for name in names if name not in results["images"]]
        if unknown:
            raise InputError(
                f"sample {results['token']} has no camera {', '.join(unknown)}; it has {', '.join(results['images'])}"
            )
        views = [results["images"][name] for name in names]
        images = [load_image(view["img_path"], sample=results["token"]) for view in views]
        shapes = {image.shape[:2] for image in images}
        if len(shapes) > 1:
            raise InputError(f"sample {results['token']}: its images differ in size: {sorted(shapes)} (H, W)")
        shape = shapes.pop()
        cam2img, lidar2cam = (
            np.stack(
                [
                    load_calibration(view[kind], name=f"{kind} of {camera}", sample=results["token"])
                    for camera, view in zip(names, views)
                ]
            ).astype(np.float32)
            for kind in ("cam2img", "lidar2cam")
        )
        results.update(
            img=images,
            filename=[view["img_path"] for view in views],
            cam_names=names,
            num_views=len(views),
            cam2img=cam2img,
            ori_cam2img=cam2img.copy(),
            lidar2cam=lidar2cam,
            img_shape=shape,
            ori_shape=shape,
            pad_shape=shape,
        )
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(cameras={self.cameras})"
