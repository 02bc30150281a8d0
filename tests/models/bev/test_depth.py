"""Rays and depth targets: points where they belong, under every augmentation."""

import numpy as np
import pytest
import torch

from perceptkd.datasets.transforms.bev_augmentation import bev_augmentation_matrix
from perceptkd.datasets.transforms.image_augmentation import image_augmentation_matrix
from perceptkd.models.bev import depth
from perceptkd.models.bev.depth import LIDAR_HEIGHT_M, LidarDepthLoss, depth_targets, ray_embedding
from perceptkd.models.bev.geometry import Calibration, build_frustum, lift_frustum, project_points, stack_calibration

SIZE = (64, 128)
BINS = torch.arange(2.0, 40.0, 1.0)


@pytest.fixture
def frustum() -> torch.Tensor:
    return build_frustum(SIZE, (8, 16), depth_bins_m=BINS)


@pytest.fixture
def augmented(make_batch) -> Calibration:
    """Two samples whose images and scenes are resized, cropped, mirrored and turned."""
    samples = make_batch(2, size=SIZE)["data_samples"]
    for sample, angle in zip(samples, (3.0, -5.0), strict=True):
        image = np.eye(4)
        matrix = image_augmentation_matrix((0.9, 0.9), (3, -4, 131, 60), flip=True, rotate_deg=angle)
        image[:2, :2], image[:2, 3] = matrix[:2, :2], matrix[:2, 2]
        scene = bev_augmentation_matrix(angle / 8, 1.04, translate_m=np.zeros(3), flip_x=True, flip_y=False)
        sample.set_metainfo({"img_aug_matrix": np.stack([image] * 6), "lidar_aug_matrix": scene})
    return stack_calibration(samples, "cpu")


def as_cloud(points: torch.Tensor, age: float = 0.0) -> torch.Tensor:
    return torch.cat([points, torch.zeros(len(points), 1), torch.full((len(points), 1), age)], dim=1)


def test_projection_undoes_the_lift(frustum, augmented) -> None:
    points = lift_frustum(frustum, augmented)
    for sample in range(2):
        for view in range(6):
            found = project_points(points[sample, view].reshape(-1, 3), augmented, sample)[view]
            torch.testing.assert_close(found, frustum.reshape(-1, 3), atol=2e-3, rtol=1e-4)


def test_every_feature_gets_the_bin_of_its_point(frustum, augmented) -> None:
    chosen = torch.randint(0, len(BINS), (2, 6, 8, 16))
    lifted = lift_frustum(frustum, augmented)
    index = chosen[:, :, None, :, :, None].expand(-1, -1, -1, -1, -1, 3)
    points = lifted.gather(2, index)[:, :, 0]
    for view in range(6):  # one camera at a time: neighbours overlap
        target = depth_targets([as_cloud(points[s, view].reshape(-1, 3)) for s in range(2)], augmented, frustum)
        assert torch.equal(target.view(2, 6, 8, 16)[:, view], chosen[:, view])


def test_the_nearest_point_of_the_key_frame_counts(frustum, augmented) -> None:
    lifted = lift_frustum(frustum, augmented)[0, 2, :, 4, 7]
    near, far = lifted[5:6], lifted[20:21]
    clouds = [torch.cat([as_cloud(far), as_cloud(near)]), torch.zeros(0, 5)]
    target = depth_targets(clouds, augmented, frustum).view(2, 6, 8, 16)
    assert target[0, 2, 4, 7] == 5
    assert (target[1] == -1).all()
    older = [torch.cat([as_cloud(far), as_cloud(near, age=0.05)]), torch.zeros(0, 5)]
    assert depth_targets(older, augmented, frustum).view(2, 6, 8, 16)[0, 2, 4, 7] == 20


def test_points_behind_a_camera_are_no_targets(frustum, make_batch) -> None:
    calibration = stack_calibration(make_batch(1, size=SIZE)["data_samples"], "cpu")
    ahead = depth_targets([as_cloud(torch.tensor([[12.0, 0.0, -0.5]]))], calibration, frustum)
    assert (ahead >= 0).nonzero().tolist() == [[0, 4, 8]]


def test_rays_know_the_distance_of_a_flat_road(frustum, augmented) -> None:
    """The first channel is 5 / depth wherever a ray would meet a road 1.8 m below the LiDAR, however it is mounted."""
    embedding = ray_embedding(frustum, augmented)
    still = augmented._replace(lidar_aug_matrix=torch.eye(4).expand(2, 4, 4))
    metre, two = (lift_frustum(frustum[:1] * torch.tensor([1, 1, 0]) + torch.tensor([0, 0, d]), still) for d in (1, 2))
    camera = 2 * metre - two
    fall = (metre - two)[:, :, 0, ..., 2]
    flat = (LIDAR_HEIGHT_M + camera[:, :, 0, ..., 2]) / fall
    road = camera[:, :, 0] + flat[..., None] * (two - metre)[:, :, 0]
    meets = (flat > 2) & (flat < 100)
    assert meets.sum() > 100
    torch.testing.assert_close(road[meets][:, 2], torch.full((meets.sum(),), -LIDAR_HEIGHT_M))
    torch.testing.assert_close(embedding[:, 0].view_as(flat)[meets], 5 / flat[meets], rtol=1e-3, atol=1e-4)


def test_geometry_is_the_same_in_training_and_in_test(frustum, augmented) -> None:
    """bf16 would move points by a bin, and rays by a seventh of their waves."""
    points = [as_cloud(lift_frustum(frustum, augmented)[s].reshape(-1, 3)[::50]) for s in range(2)]
    exact = ray_embedding(frustum, augmented), depth_targets(points, augmented, frustum)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = ray_embedding(frustum, augmented), depth_targets(points, augmented, frustum)
    assert torch.equal(exact[0], mixed[0])
    assert torch.equal(exact[1], mixed[1])


def test_loss_falls_to_zero_at_the_targets(frustum, augmented) -> None:
    cloud = as_cloud(lift_frustum(frustum, augmented)[0, 0, 9].reshape(-1, 3))
    clouds = [cloud, torch.zeros(0, 5)]
    target = depth_targets(clouds, augmented, frustum)
    right = 40 * torch.nn.functional.one_hot(target.clamp(min=0), len(BINS)).permute(0, 3, 1, 2).float()
    loss = LidarDepthLoss(weight=3.0)
    assert loss(right, clouds, augmented, frustum) < 1e-4
    flat = loss(torch.zeros_like(right), clouds, augmented, frustum)
    torch.testing.assert_close(flat, torch.tensor(3.0 * np.log(len(BINS)), dtype=torch.float32))


def test_a_batch_without_points_has_a_zero_loss_with_a_gradient(frustum, augmented) -> None:
    logits = torch.randn(12, len(BINS), 8, 16, requires_grad=True)
    loss = LidarDepthLoss()(logits, [torch.zeros(0, 5)] * 2, augmented, frustum)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


def test_ranks_average_to_one_process(frustum, augmented, monkeypatch: pytest.MonkeyPatch) -> None:
    lifted = lift_frustum(frustum, augmented)
    clouds = [as_cloud(lifted[0, 0, 9].reshape(-1, 3)), as_cloud(lifted[1, 0, 4, :2].reshape(-1, 3))]
    logits = torch.randn(12, len(BINS), 8, 16)
    joint = LidarDepthLoss()(logits, clouds, augmented, frustum)
    total = (depth_targets(clouds, augmented, frustum) >= 0).sum()
    monkeypatch.setattr(depth, "all_reduce_mean", lambda _: total / 2)
    ranks = []
    for rank in range(2):
        own = Calibration(*(matrices[rank : rank + 1] for matrices in augmented))
        ranks.append(LidarDepthLoss()(logits[6 * rank : 6 * rank + 6], clouds[rank : rank + 1], own, frustum))
    torch.testing.assert_close((ranks[0] + ranks[1]) / 2, joint)


def test_points_without_an_age_are_refused(frustum, augmented) -> None:
    with pytest.raises(ValueError, match="got 4 values per point"):
        depth_targets([torch.zeros(3, 4)] * 2, augmented, frustum)
