"""mmcv's ops on sets of points: sampling, neighbours, grouping and interpolation.

The sizes that mmcv passes along are those of the tensors, and not needed. Outputs come filled with zeros, except the
uninitialised ones of three_nn and three_interpolate.
"""

from torch import Tensor

from perceptkd.ops import assign_score_withk as assign_ops
from perceptkd.ops import ball_query as ball_ops
from perceptkd.ops import furthest_points, nearest
from perceptkd.ops import group_points as group_ops
from perceptkd.ops import three_interpolate as interpolate_ops
from perceptkd.ops.recompute import recomputed_gradients


def ball_query_forward(
    new_xyz_tensor: Tensor,
    xyz_tensor: Tensor,
    idx_tensor: Tensor,
    b: int,
    n: int,
    m: int,
    min_radius: float,
    max_radius: float,
    nsample: int,
) -> None:
    found = ball_ops.ball_query(
        xyz_tensor, new_xyz_tensor, min_radius=min_radius, max_radius=max_radius, samples=nsample
    )
    idx_tensor.copy_(found)


def stack_ball_query_forward(
    new_xyz_tensor: Tensor,
    new_xyz_batch_cnt: Tensor,
    xyz_tensor: Tensor,
    xyz_batch_cnt: Tensor,
    idx_tensor: Tensor,
    max_radius: float,
    nsample: int,
) -> None:
    found = ball_ops.stack_ball_query(
        xyz_tensor, xyz_batch_cnt, new_xyz_tensor, new_xyz_batch_cnt, max_radius=max_radius, samples=nsample
    )
    idx_tensor.copy_(found)


def knn_forward(
    xyz_tensor: Tensor,
    new_xyz_tensor: Tensor,
    idx_tensor: Tensor,
    dist2_tensor: Tensor,
    b: int,
    n: int,
    m: int,
    nsample: int,
) -> None:
    indices, distances2 = nearest.knn(_first_triples(xyz_tensor), _first_triples(new_xyz_tensor), nsample)
    idx_tensor.copy_(indices)
    dist2_tensor.copy_(distances2)


def _first_triples(points: Tensor) -> Tensor:
    """Points [B, N, 3] as mmcv reads them from [B, N, C]: the first B * N * 3 values of the memory.

    mmdet3d's DGCNN passes features to knn, C = 64, and its SA-SSD points with their batch index to three_nn, C = 4.
    Neither gets the neighbours it means, but released weights were trained with those it gets.
    """
    batch, count, columns = points.shape
    if columns < 3:
        return points
    return points.reshape(-1)[: batch * count * 3].view(batch, count, 3)


def furthest_point_sampling_forward(
    points_tensor: Tensor, temp_tensor: Tensor, idx_tensor: Tensor, b: int, n: int, m: int
) -> None:
    """``temp_tensor`` is mmcv's scratch space and left as it is."""
    idx_tensor.copy_(furthest_points.furthest_point_sample(points_tensor, m))


def furthest_point_sampling_with_dist_forward(
    points_tensor: Tensor, temp_tensor: Tensor, idx_tensor: Tensor, b: int, n: int, m: int
) -> None:
    """``points_tensor`` holds distances [B, N, N], in spite of its name."""
    idx_tensor.copy_(furthest_points.furthest_point_sample_with_dist(points_tensor, m))


def gather_points_forward(
    points_tensor: Tensor, idx_tensor: Tensor, out_tensor: Tensor, b: int, c: int, n: int, npoints: int
) -> None:
    out_tensor.copy_(group_ops.gather_points(points_tensor, idx_tensor))


def gather_points_backward(
    grad_out_tensor: Tensor, idx_tensor: Tensor, grad_points_tensor: Tensor, b: int, c: int, n: int, npoints: int
) -> None:
    grad_points_tensor.copy_(group_ops.gather_points_gradient(grad_out_tensor, idx_tensor, n))


def group_points_forward(
    points_tensor: Tensor, idx_tensor: Tensor, out_tensor: Tensor, b: int, c: int, n: int, npoints: int, nsample: int
) -> None:
    out_tensor.copy_(group_ops.group_points(points_tensor, idx_tensor))


def group_points_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    grad_points_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    npoints: int,
    nsample: int,
) -> None:
    grad_points_tensor.copy_(group_ops.group_points_gradient(grad_out_tensor, idx_tensor, n))


def stack_group_points_forward(
    features_tensor: Tensor,
    features_batch_cnt_tensor: Tensor,
    idx_tensor: Tensor,
    idx_batch_cnt_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    nsample: int,
) -> None:
    grouped = group_ops.stack_group_points(features_tensor, features_batch_cnt_tensor, idx_tensor, idx_batch_cnt_tensor)
    out_tensor.copy_(grouped)


def stack_group_points_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    idx_batch_cnt_tensor: Tensor,
    features_batch_cnt_tensor: Tensor,
    grad_features_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    n: int,
    nsample: int,
) -> None:
    gradient = group_ops.stack_group_points_gradient(
        grad_out_tensor, features_batch_cnt_tensor, idx_tensor, idx_batch_cnt_tensor, n
    )
    grad_features_tensor.copy_(gradient)


def three_nn_forward(
    unknown_tensor: Tensor, known_tensor: Tensor, dist2_tensor: Tensor, idx_tensor: Tensor, b: int, n: int, m: int
) -> None:
    distances2, indices = nearest.three_nn(_first_triples(unknown_tensor), _first_triples(known_tensor))
    dist2_tensor.copy_(distances2)
    idx_tensor.copy_(indices)


def three_interpolate_forward(
    points_tensor: Tensor,
    idx_tensor: Tensor,
    weight_tensor: Tensor,
    out_tensor: Tensor,
    b: int,
    c: int,
    m: int,
    n: int,
) -> None:
    out_tensor.copy_(interpolate_ops.three_interpolate(points_tensor, idx_tensor, weight_tensor))


def three_interpolate_backward(
    grad_out_tensor: Tensor,
    idx_tensor: Tensor,
    weight_tensor: Tensor,
    grad_points_tensor: Tensor,
    b: int,
    c: int,
    n: int,
    m: int,
) -> None:
    """The op is linear in its features, so that the zeros of ``grad_points_tensor`` stand in for them."""

    def interpolate(features: Tensor) -> Tensor:
        return interpolate_ops.three_interpolate(features, idx_tensor, weight_tensor)

    (gradient,) = recomputed_gradients(interpolate, [grad_points_tensor], grad_out_tensor)
    grad_points_tensor.copy_(gradient)


def assign_score_withk_forward(
    points: Tensor,
    centers: Tensor,
    scores: Tensor,
    knn_idx: Tensor,
    output: Tensor,
    B: int,
    N0: int,
    N1: int,
    M: int,
    K: int,
    O: int,  # noqa: E741  (mmcv's name)
    aggregate: int,
) -> None:
    _check_is_sum(aggregate)
    output.copy_(assign_ops.assign_score_withk(scores, points, centers, knn_idx))


def assign_score_withk_backward(
    grad_out: Tensor,
    points: Tensor,
    centers: Tensor,
    scores: Tensor,
    knn_idx: Tensor,
    grad_points: Tensor,
    grad_centers: Tensor,
    grad_scores: Tensor,
    B: int,
    N0: int,
    N1: int,
    M: int,
    K: int,
    O: int,  # noqa: E741  (mmcv's name)
    aggregate: int,
) -> None:
    def assign(scores: Tensor, points: Tensor, centers: Tensor) -> Tensor:
        return assign_ops.assign_score_withk(scores, points, centers, knn_idx)

    gradients = recomputed_gradients(assign, [scores, points, centers], grad_out)
    for target, gradient in zip((grad_scores, grad_points, grad_centers), gradients):
        target.copy_(gradient)


def _check_is_sum(aggregate: int) -> None:
    if aggregate != 0:
        raise ValueError(
            f"aggregate must be 'sum' (0), got {aggregate}; mmcv's own kernel sums for 'avg' and 'max' too"
        )
