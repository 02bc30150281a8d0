"""AugmentImages: the recorded matrix says where each pixel went."""

import numpy as np
import pytest

from perceptkd.datasets.transforms.image_augmentation import AugmentImages, image_augmentation_matrix


def spot(height: int, width: int, row: int, column: int) -> np.ndarray:
    """A black image with one bright blob around a pixel centre."""
    rows, columns = np.mgrid[:height, :width]
    blob = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 6.0**2))
    return np.repeat((255 * blob).astype(np.uint8)[..., None], 3, axis=2)


def centroid(image: np.ndarray) -> np.ndarray:
    """(u, v) of the brightness, pixel i spanning [i, i + 1)."""
    weights = image[..., 0].astype(np.float64)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


def test_worked_example_of_the_test_setting() -> None:
    matrix = image_augmentation_matrix((0.44, 0.44), (0, 140, 704, 396))
    np.testing.assert_allclose(matrix[:2], [[0.44, 0, 0], [0, 0.44, -140]])


def test_worked_example_with_flip_and_rotation() -> None:
    matrix = image_augmentation_matrix((0.5, 0.5), (40, 194, 744, 450), flip=True, rotate_deg=5.0)
    np.testing.assert_allclose(matrix[:2], [[-0.4981, 0.04358, 714.44417], [0.04358, 0.4981, -226.93974]], atol=5e-6)


def test_test_setting_of_nuscenes_is_the_published_crop() -> None:
    step = AugmentImages((256, 704), training=False, resize_range=(0.386, 0.55), test_resize=0.44)
    results = step.transform({"img": [np.zeros((900, 1600, 3), np.uint8)]})
    assert results["img"][0].shape == (256, 704, 3)
    np.testing.assert_allclose(results["img_aug_matrix"][0][:2], [[0.44, 0, 0, 0], [0, 0.44, 0, -140]])


@pytest.mark.parametrize("size", [(900, 1600), (450, 800)])
def test_resize_is_relative_to_the_reference_width(size: tuple[int, int]) -> None:
    step = AugmentImages((256, 704), training=False, resize_range=(0.386, 0.55), test_resize=0.44)
    matrix = step.transform({"img": [np.zeros((*size, 3), np.uint8)]})["img_aug_matrix"][0]
    corner = matrix @ [size[1], size[0], 1.0, 1.0]
    np.testing.assert_allclose(corner[:2], [704, 256])


@pytest.mark.parametrize("seed", range(6))
def test_matrix_follows_the_pixels(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002
    row, column = 300, 420
    step = AugmentImages(
        (128, 352), training=True, resize_range=(0.25, 0.32), test_resize=0.22, rotate_range_deg=(-5.4, 5.4), flip=True
    )
    results = step.transform({"img": [spot(450, 800, row, column)]})
    expected = results["img_aug_matrix"][0] @ [column + 0.5, row + 0.5, 1.0, 1.0]
    assert results["img"][0].dtype == np.uint8
    np.testing.assert_allclose(centroid(results["img"][0]), expected[:2], atol=0.3)


def test_matrix_of_an_earlier_step_is_kept() -> None:
    halved = np.diag([0.5, 0.5, 1.0, 1.0])
    step = AugmentImages((256, 704), training=False, resize_range=(0.386, 0.55), test_resize=0.44)
    results = step.transform({"img": [np.zeros((450, 800, 3), np.uint8)], "img_aug_matrix": halved[None]})
    np.testing.assert_allclose(results["img_aug_matrix"][0][:2], [[0.44, 0, 0, 0], [0, 0.44, 0, -140]])


def test_a_narrow_image_is_padded_with_black() -> None:
    np.random.seed(0)  # noqa: NPY002
    step = AugmentImages((96, 256), training=True, resize_range=(0.12, 0.12), test_resize=0.16)
    results = step.transform({"img": [np.full((450, 800, 3), 200, np.uint8)]})
    image = results["img"][0]
    assert image.shape == (96, 256, 3)
    assert image[:, 192:].max() == 0
    assert image[:, :191].min() == 200
