"""Pooling over the voxels of boxes against a loop, its gradient, and mmcv's module on top."""

import math

import pytest
import torch
from torch import Tensor

from perceptkd.ops.roiaware_pool3d import Mode, assign_points, pool_maxima, roiaware_pool3d, roiaware_pool3d_gradient

SIZE = (3, 2, 4)
Members = list[list[list[int]]]


def members_by_definition(boxes: Tensor, points: Tensor, size: tuple[int, int, int], max_points: int) -> Members:
    """For each box, for each voxel, the points it takes."""
    taken: Members = []
    for x, y, z, *sides, yaw in boxes.tolist():
        voxels: list[list[int]] = [[] for _ in range(math.prod(size))]
        for index, (px, py, pz) in enumerate(points.tolist()):
            along = (px - x) * math.cos(yaw) + (py - y) * math.sin(yaw)
            across = (py - y) * math.cos(yaw) - (px - x) * math.sin(yaw)
            if not (abs(along) < sides[0] / 2 and abs(across) < sides[1] / 2 and z <= pz <= z + sides[2]):
                continue
            parts = (along + sides[0] / 2, across + sides[1] / 2, pz - z)
            i, j, k = (
                min(int(part / side * cells), cells - 1) if side else 0 for part, side, cells in zip(parts, sides, size)
            )
            voxel = voxels[(i * size[1] + j) * size[2] + k]
            if len(voxel) < max_points:
                voxel.append(index)
        taken.append(voxels)
    return taken


def pooled_by_definition(taken: Members, features: list[list[float]], channels: int, mode: str) -> tuple[list, list]:
    """Pooled features and the points that have the maxima, by box, voxel and channel."""
    pooled, winners = [], []
    for voxels in taken:
        for voxel in voxels:
            for channel in range(channels):
                best, value = -1, 0.0
                for index in voxel:
                    if best == -1 or features[index][channel] > features[best][channel]:
                        best, value = index, features[index][channel]
                if mode == "avg" and voxel:
                    value = sum(features[index][channel] for index in voxel) / len(voxel)
                pooled.append(value)
                winners.append(best)
    return pooled, winners


def random_scene() -> tuple[Tensor, Tensor, Tensor]:
    """Turned boxes, one without points and one without volume; equal features, so that maxima tie."""
    low = torch.tensor([0.0, 0.0, -1.0, 1.0, 1.0, 1.0, -4.0], dtype=torch.float64)
    high = torch.tensor([6.0, 6.0, 0.0, 5.0, 3.0, 2.0, 4.0], dtype=torch.float64)
    boxes = low + torch.rand(6, 7, dtype=torch.float64) * (high - low)
    boxes[2, 0], boxes[3, 3:6] = 100, 0
    points = torch.rand(400, 3, dtype=torch.float64) * torch.tensor([6.0, 6.0, 2.0]) - torch.tensor([0.0, 0.0, 1.0])
    return boxes, points, torch.randint(0, 4, (400, 5)).double()


def bordering_scene() -> tuple[Tensor, Tensor, Tensor]:
    """Points on a lattice of eighths: on the faces of the boxes and on the borders between voxels."""
    boxes = torch.tensor([[0.0, 0, 0, 1.5, 1, 2, 0], [0.25, 0, 0.5, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0, 0]]).double()
    points = torch.randint(-8, 17, (600, 3)).double() / 8
    return boxes, points, torch.randint(-3, 3, (600, 2)).double()


@pytest.mark.parametrize("scene", [random_scene, bordering_scene])
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("max_points", [2, 127])
def test_equals_a_loop(device: str, scene, mode: Mode, max_points: int) -> None:
    boxes, points, features = scene()
    taken = members_by_definition(boxes, points, SIZE, max_points)
    longest = max(len(voxel) for voxels in taken for voxel in voxels)
    assert longest == max_points if max_points == 2 else longest > 2
    expected, _ = pooled_by_definition(taken, features.tolist(), features.shape[1], mode)
    moved = [part.to(device) for part in (boxes, points, features)]
    found = roiaware_pool3d(*moved, SIZE, max_points=max_points, mode=mode)
    assert found.shape == (len(boxes), *SIZE, features.shape[1])
    torch.testing.assert_close(found.cpu().flatten(), torch.tensor(expected, dtype=torch.float64))


def test_the_first_of_equal_maxima_wins(device: str) -> None:
    boxes, points, features = random_scene()
    members = members_by_definition(boxes, points, SIZE, 127)
    _, expected = pooled_by_definition(members, features.tolist(), 5, "max")
    taken = assign_points(boxes.to(device), points.to(device), SIZE, 127)
    winners = torch.full((6 * math.prod(SIZE), 5), -1)
    winners[taken.voxels.cpu()] = pool_maxima(features.to(device), taken)[1].cpu()
    assert winners.flatten().tolist() == expected
    ties = [
        voxel
        for voxels in members
        for voxel in voxels
        if len(voxel) > 1 and (features[voxel] == features[voxel].max(0).values).sum(0).max() > 1
    ]
    assert len(ties) > 5


def test_broken_features_never_win(device: str) -> None:
    box, points = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]], device=device), torch.full((2, 3), 0.5, device=device)
    features = torch.tensor([[torch.nan, -torch.inf, torch.nan], [4.0, torch.nan, -2.0]], device=device)
    assert roiaware_pool3d(box, points, features, (1, 1, 1)).flatten().tolist() == [4.0, 0.0, -2.0]


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_gradcheck(device: str, mode: Mode) -> None:
    boxes, points, _ = (part.to(device) for part in random_scene())
    features = torch.rand(400, 2, dtype=torch.float64, device=device)
    kept = slice(0, 40)

    def pool(values: Tensor) -> Tensor:
        return roiaware_pool3d(boxes[:3], points[kept], values, (2, 2, 2), max_points=3, mode=mode)

    assert pool(features[kept]).count_nonzero() > 10
    assert torch.autograd.gradcheck(pool, features[kept].detach().requires_grad_())


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_mmcv_module_and_its_backward(device: str, mode: Mode) -> None:
    from mmcv.ops import RoIAwarePool3d

    boxes, points, features = (part.float().to(device) for part in random_scene())
    features.requires_grad_()
    theirs = RoIAwarePool3d(SIZE, max_pts_per_voxel=4, mode=mode)(boxes, points, features)
    ours = roiaware_pool3d(boxes, points, features, SIZE, max_points=3, mode=mode)
    assert torch.equal(theirs, ours)
    assert ours.count_nonzero() > 100
    weight = torch.rand_like(ours)
    (gradient,) = torch.autograd.grad((theirs * weight).sum(), features)
    (expected,) = torch.autograd.grad((ours * weight).sum(), features)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("pool_method", [0, 1])
def test_what_mmcv_keeps_for_the_gradient(device: str, pool_method: int) -> None:
    """The count and the points of each voxel, then zeros; the maxima's points, -1 for none, untouched in 'avg'."""
    import mmcv._ext

    boxes, points, features = random_scene()
    members = members_by_definition(boxes, points, SIZE, 3)
    _, winners = pooled_by_definition(members, features.tolist(), 5, "max")
    moved = [part.to(device) for part in (boxes, points, features)]
    argmax = torch.zeros(6, *SIZE, 5, dtype=torch.int32, device=device)
    voxel_points = torch.zeros(6, *SIZE, 4, dtype=torch.int32, device=device)
    pooled = torch.zeros(6, *SIZE, 5, dtype=torch.float64, device=device)
    mmcv._ext.roiaware_pool3d_forward(*moved, argmax, voxel_points, pooled, pool_method=pool_method)
    rows = [[len(voxel), *voxel, 0, 0, 0][:4] for voxels in members for voxel in voxels]
    assert voxel_points.flatten(0, 3).tolist() == rows
    assert argmax.flatten().tolist() == (winners if pool_method == 0 else [0] * len(winners))


def test_half_types(device: str) -> None:
    """A mean of 3000 ones is summed in float32; float16 cannot count that far."""
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]], dtype=torch.float16, device=device)
    points, ones = (torch.full((3000, width), 1.0, dtype=torch.float16, device=device) for width in (3, 2))
    points /= 2
    for mode in ("max", "avg"):
        found = roiaware_pool3d(box, points, ones, (1, 1, 1), max_points=3000, mode=mode)
        assert found.dtype == torch.float16
        assert found.flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_empty_input(mode: Mode) -> None:
    boxes, points, features = random_scene()
    assert roiaware_pool3d(boxes[:0], points, features, SIZE, mode=mode).shape == (0, *SIZE, 5)
    found = roiaware_pool3d(boxes, points[:0], features[:0].requires_grad_(), SIZE, mode=mode)
    assert found.shape == (6, *SIZE, 5)
    assert not found.any()
    found.sum().backward()
    gradient = roiaware_pool3d_gradient(torch.ones(6, 5), torch.zeros(6, 4).int(), -torch.ones(6, 5).int(), 0, mode)
    assert gradient.shape == (0, 5)


def test_wrong_arguments_are_named() -> None:
    boxes, points, features = random_scene()
    with pytest.raises(ValueError, match=r"boxes must be .* \[N, 7\], got shape \(6, 6\) and dtype float64"):
        roiaware_pool3d(boxes[:, :6], points, features, SIZE)
    with pytest.raises(ValueError, match=r"features must be .* \[400, C\], got shape \(399, 5\)"):
        roiaware_pool3d(boxes, points, features[:399], SIZE)
    with pytest.raises(ValueError, match="mode must be one of max, avg, got 'mean'"):
        roiaware_pool3d(boxes, points, features, SIZE, mode="mean")
    with pytest.raises(ValueError, match=r"three numbers from 1 and max_points at least 1, got \(2, 0, 2\) and 127"):
        roiaware_pool3d(boxes, points, features, (2, 0, 2))
