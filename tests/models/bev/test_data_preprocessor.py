"""BEVDataPreprocessor: what it makes, and that it leaves the shared batch alone."""

import copy

import pytest
import torch

from perceptkd.core.errors import InputError
from perceptkd.models.bev.data_preprocessor import BEVDataPreprocessor

VOXELIZE = {
    "voxel_size": [0.8, 0.8, 0.4],
    "point_cloud_range": [-48.0, -48.0, -5.0, 48.0, 48.0, 3.0],
    "max_points": 5,
    "max_voxels": (300, 4000),
}
IMAGES = {"image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 50.0, 40.0]}


def test_the_raw_batch_is_not_written_to(make_batch) -> None:
    batch = make_batch(2)
    before = copy.deepcopy(batch)
    out = BEVDataPreprocessor(voxelize=VOXELIZE, **IMAGES)(batch, training=True)
    out["inputs"]["voxels"]["voxels"].zero_()
    out["inputs"]["imgs"].zero_()
    out["data_samples"][0].pred_instances_3d = out["data_samples"][0].gt_instances_3d
    assert sorted(batch["inputs"]) == sorted(before["inputs"])
    for key, values in before["inputs"].items():
        for value, now in zip(values, batch["inputs"][key], strict=True):
            torch.testing.assert_close(now, value)
    assert "pred_instances_3d" not in batch["data_samples"][0]


def test_voxels_carry_their_sample(make_batch) -> None:
    batch = make_batch(3)
    batch["inputs"]["points"][1] = torch.zeros(0, 5)
    batch["inputs"]["points"][2] = batch["inputs"]["points"][2][:0]
    voxels = BEVDataPreprocessor(voxelize=VOXELIZE)(batch)["inputs"]["voxels"]
    assert voxels["coors"][:, 0].unique().tolist() == [0]
    assert voxels["voxels"].shape[1:] == (5, 5)
    assert len(voxels["voxels"]) == len(voxels["coors"]) == len(voxels["num_points"])
    assert (voxels["coors"].max(dim=0).values < torch.tensor([3, 20, 120, 120])).all()


def test_the_voxel_limit_follows_the_mode(make_batch) -> None:
    """UniDistill fixes it when the model is built, so its test limit is never used."""
    batch, preprocessor = make_batch(1), BEVDataPreprocessor(voxelize=VOXELIZE)
    assert len(preprocessor(batch, training=True)["inputs"]["voxels"]["coors"]) == 300
    assert len(preprocessor(batch, training=False)["inputs"]["voxels"]["coors"]) > 300


def test_images_are_rgb_normalised_and_stacked(make_batch) -> None:
    batch = make_batch(2)
    images = BEVDataPreprocessor(**IMAGES, channels_last=True)(batch)["inputs"]["imgs"]
    assert images.shape == (2, 6, 3, 64, 128)
    assert images.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    blue = batch["inputs"]["img"][1][4, 0].float()
    torch.testing.assert_close(images[1, 4, 2], (blue - 100.0) / 40.0)


def test_a_model_takes_only_what_it_asks_for(make_batch) -> None:
    batch = make_batch(1)
    assert sorted(BEVDataPreprocessor(voxelize=VOXELIZE)(batch)["inputs"]) == ["points", "voxels"]
    assert sorted(BEVDataPreprocessor(**IMAGES)(batch)["inputs"]) == ["imgs"]


def test_a_missing_sensor_is_named(make_batch) -> None:
    batch = make_batch(1)
    del batch["inputs"]["img"]
    with pytest.raises(InputError, match="load that sensor"):
        BEVDataPreprocessor(**IMAGES)(batch)


def test_images_of_two_sizes_are_refused(make_batch) -> None:
    batch = make_batch(2)
    batch["inputs"]["img"][0] = batch["inputs"]["img"][0][..., :64]
    with pytest.raises(ValueError, match="augment to one size"):
        BEVDataPreprocessor(**IMAGES)(batch)


def test_images_normalised_one_by_one_lose_their_exposure(make_batch) -> None:
    batch = make_batch(2)
    batch["inputs"]["img"][0] = batch["inputs"]["img"][0] // 2
    batch["inputs"]["img"][1][3] = 255  # a covered lens
    preprocessor = BEVDataPreprocessor(per_image=True)
    images = preprocessor(batch)["inputs"]["imgs"]
    assert images.isfinite().all()
    torch.testing.assert_close(images[0].mean(dim=(1, 2, 3)), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(images[0].std(dim=(1, 2, 3)), torch.ones(6), atol=1e-3, rtol=0)
    darker = copy.deepcopy(batch)
    darker["inputs"]["img"] = [image // 2 + 10 for image in batch["inputs"]["img"]]
    torch.testing.assert_close(preprocessor(darker)["inputs"]["imgs"][0], images[0], atol=0.05, rtol=0)


def test_two_ways_of_normalising_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        BEVDataPreprocessor(per_image=True, **IMAGES)


def test_points_are_handed_on_in_training_alone(make_batch) -> None:
    batch, preprocessor = make_batch(1), BEVDataPreprocessor(with_points=True)
    torch.testing.assert_close(preprocessor(batch, True)["inputs"]["points"], batch["inputs"]["points"])
    assert "points" not in preprocessor(batch, False)["inputs"]
