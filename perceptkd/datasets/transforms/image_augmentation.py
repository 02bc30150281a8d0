"""Resize, crop, flip and rotate each camera image, and record what was done as a matrix."""
# ruff: noqa: NPY002  (SeededDataset seeds numpy's global state, a Generator of our own it could not)

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from perceptkd.registry import TRANSFORMS

REFERENCE_WIDTH = 1600  # nuScenes; resize factors of published configs are relative to it


def image_augmentation_matrix(
    resize: tuple[float, float], crop: tuple[float, float, float, float], *, flip: bool = False, rotate_deg: float = 0.0
) -> np.ndarray:
    """Matrix of resize, then crop, then horizontal flip, then rotation about the centre of the crop.

    Args:
        resize: Factors in x and y.
        crop: (left, top, right, bottom) in pixels of the resized image; may reach outside of it.
        flip: Whether to mirror the columns.
        rotate_deg: Angle; positive turns the image counter-clockwise as seen.

    Returns:
        [3, 3] on (u, v, 1), where pixel i spans [i, i + 1).

    >>> image_augmentation_matrix((0.44, 0.44), (0, 140, 704, 396))[:2].round(2).tolist()
    [[0.44, 0.0, 0.0], [0.0, 0.44, -140.0]]
    """
    left, top, right, bottom = crop
    width, height = right - left, bottom - top
    matrix = np.array([[resize[0], 0, -left], [0, resize[1], -top], [0, 0, 1]], dtype=np.float64)
    if flip:
        matrix = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) @ matrix
    cosine, sine = math.cos(math.radians(rotate_deg)), math.sin(math.radians(rotate_deg))
    turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    return np.linalg.inv(to_centre) @ turn @ to_centre @ matrix


@TRANSFORMS.register_module()
class AugmentImages(BaseTransform):
    """Bring every camera image to one size: drawn at random in training, fixed in test.

    Reads ``img`` (list of [H, W, 3] uint8) and ``img_aug_matrix`` where an earlier step recorded one (a reduced JPEG
    decode is such a step). Writes ``img`` and ``img_aug_matrix`` ([V, 4, 4], on (u, v, depth, 1)).

    Args:
        image_size: (height, width) after augmentation.
        resize_range: Factors for an image 1600 pixels wide; images of another width are scaled to match.
        test_resize: Factor in test.
        rotate_range_deg: Angles in degrees, training only.
        flip: Whether to mirror half of the images, training only. Calibration takes care of the geometry.
        training: Draw at random, or use the fixed setting.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        *,
        training: bool,
        resize_range: tuple[float, float],
        test_resize: float,
        rotate_range_deg: tuple[float, float] = (0.0, 0.0),
        flip: bool = False,
    ) -> None:
        self.image_size = tuple(image_size)
        self.training = training
        self.resize_range = resize_range
        self.test_resize = test_resize
        self.rotate_range_deg = rotate_range_deg
        self.flip = flip

    def transform(self, results: dict) -> dict:
        """Augment all views of a sample."""
        before: Sequence[np.ndarray] = results.get("img_aug_matrix", [np.eye(4)] * len(results["img"]))
        images, matrices = [], []
        for image, previous in zip(results["img"], before, strict=True):
            augmented, matrix = self._augment(image)
            images.append(augmented)
            lifted = np.eye(4)
            lifted[:2, :2], lifted[:2, 3] = matrix[:2, :2], matrix[:2, 2]
            matrices.append(lifted @ previous)
        results["img"] = images
        results["img_aug_matrix"] = np.stack(matrices)
        results["img_shape"] = self.image_size
        return results

    def _augment(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One image [H, W, 3] and the matrix [3, 3] that was applied to it."""
        height, width = image.shape[:2]
        out_height, out_width = self.image_size
        factor = np.random.uniform(*self.resize_range) if self.training else self.test_resize
        factor *= REFERENCE_WIDTH / width
        new_width, new_height = round(width * factor), round(height * factor)
        spare = max(0, new_width - out_width)
        left = int(np.random.uniform(0, spare)) if self.training else spare // 2
        top = new_height - out_height  # keep the bottom of the image: the sky holds no objects
        flip = self.training and self.flip and bool(np.random.rand() < 0.5)
        angle = float(np.random.uniform(*self.rotate_range_deg)) if self.training else 0.0
        crop = (left, top, left + out_width, top + out_height)
        resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
        move = image_augmentation_matrix((1.0, 1.0), crop, flip=flip, rotate_deg=angle)
        # cv2 places pixel i at i, our matrices at i + 0.5
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        warped = cv2.warpAffine(resized, (np.linalg.inv(half) @ move @ half)[:2], (out_width, out_height))
        resize = (new_width / width, new_height / height)
        return warped, image_augmentation_matrix(resize, crop, flip=flip, rotate_deg=angle)
