"""mmcv's ops on points in boxes and polygons, and on the distance of point sets. Outputs come filled with zeros."""

from torch import Tensor

from perceptkd.ops import chamfer_distance as chamfer_ops
from perceptkd.ops import points_in_polygons as polygon_ops
from perceptkd.ops import roiaware_pool3d as roiaware_ops
from perceptkd.ops import roipoint_pool3d as roipoint_ops
from perceptkd.ops.recompute import recomputed_gradients

_POOL_MODES: tuple[roiaware_ops.Mode, ...] = ("max", "avg")


def roiaware_pool3d_forward(
    rois: Tensor,
    pts: Tensor,
    pts_feature: Tensor,
    argmax: Tensor,
    pts_idx_of_voxels: Tensor,
    pooled_features: Tensor,
    pool_method: int,
) -> None:
    """Fills pooled_features, and what the gradient needs: ``argmax``, -1 for none, in 'max'; and per voxel the number
    of its points and their rows in ``pts_idx_of_voxels``.
    """
    *size, places = pts_idx_of_voxels.shape[1:]
    taken = roiaware_ops.assign_points(rois, pts, size, places - 1)
    members = pts_idx_of_voxels.view(-1, places)
    members[taken.voxels, 0] = taken.counts.to(members.dtype)
    members[taken.voxels[taken.groups], taken.ranks + 1] = taken.points.to(members.dtype)
    pooled = pooled_features.view(-1, pts_feature.shape[1])
    if _POOL_MODES[pool_method] == "max":
        pooled[taken.voxels], winners = roiaware_ops.pool_maxima(pts_feature, taken)
        argmax.fill_(-1).view(pooled.shape)[taken.voxels] = winners.to(argmax.dtype)
    else:
        pooled[taken.voxels] = roiaware_ops.pool_means(pts_feature, taken)


def roiaware_pool3d_backward(
    pts_idx_of_voxels: Tensor, argmax: Tensor, grad_out: Tensor, grad_in: Tensor, pool_method: int
) -> None:
    gradients, voxel_points, winners = (tensor.flatten(0, 3) for tensor in (grad_out, pts_idx_of_voxels, argmax))
    mode = _POOL_MODES[pool_method]
    grad_in.copy_(roiaware_ops.roiaware_pool3d_gradient(gradients, voxel_points, winners, len(grad_in), mode))


def roipoint_pool3d_forward(
    xyz: Tensor, boxes3d: Tensor, pts_feature: Tensor, pooled_features: Tensor, pooled_empty_flag: Tensor
) -> None:
    pooled, is_empty = roipoint_ops.roipoint_pool3d(xyz, pts_feature, boxes3d, pooled_features.shape[2])
    pooled_features.copy_(pooled)
    pooled_empty_flag.copy_(is_empty)


def chamfer_distance_forward(
    xyz1: Tensor, xyz2: Tensor, dist1: Tensor, dist2: Tensor, idx1: Tensor, idx2: Tensor
) -> None:
    for target, result in zip((dist1, dist2, idx1, idx2), chamfer_ops.chamfer_distance(xyz1, xyz2)):
        target.copy_(result)


def chamfer_distance_backward(
    xyz1: Tensor,
    xyz2: Tensor,
    idx1: Tensor,
    idx2: Tensor,
    graddist1: Tensor,
    graddist2: Tensor,
    gradxyz1: Tensor,
    gradxyz2: Tensor,
) -> None:
    def distance_gradients(points: Tensor, others: Tensor, indices: Tensor, grad_output: Tensor) -> tuple[Tensor, ...]:
        def distance(points: Tensor, others: Tensor) -> Tensor:
            return chamfer_ops.squared_distance(points, others, indices)

        return recomputed_gradients(distance, [points, others], grad_output)

    own1, other2 = distance_gradients(xyz1, xyz2, idx1, graddist1)
    own2, other1 = distance_gradients(xyz2, xyz1, idx2, graddist2)
    gradxyz1.copy_(own1 + other1)
    gradxyz2.copy_(own2 + other2)


def points_in_polygons_forward(points: Tensor, polygons: Tensor, output: Tensor) -> None:
    """Fills ``output`` [N, M], float, with 0 or 1."""
    output.copy_(polygon_ops.points_in_polygons(points, polygons))
