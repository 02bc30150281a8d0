"""Takes the features of chosen points: by index, by groups of indices, and by groups in stacked clouds.

The functions named ``*_gradient`` give the gradient to the features from that of the output alone, which is all that
mmcv's backward functions get; they sum in float32 or better.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptkd.ops.checks import check_same_device, check_tensor, describe


def gather_points(features: Tensor, indices: Tensor) -> Tensor:
    """Takes the features of chosen points; differentiable in ``features``.

    Args:
        features: [B, C, N].
        indices: integers [B, M], each from 0 to N - 1.

    Returns:
        [B, C, M].

    >>> gather_points(torch.tensor([[[5.0, 6.0, 7.0]]]), torch.tensor([[2, 0]]))
    tensor([[[7., 5.]]])
    """
    check_tensor("features", features, ("B", "C", "N"))
    check_tensor("indices", indices, (len(features), "M"), kind="integer")
    check_same_device(features=features, indices=indices)
    return features.gather(2, _per_channel(indices, features.shape[1]))


def gather_points_gradient(grad_output: Tensor, indices: Tensor, count: int) -> Tensor:
    """Gradient of :func:`gather_points` to its ``count`` points, [B, C, count], from ``grad_output`` [B, C, M]."""
    check_tensor("grad_output", grad_output, ("B", "C", "M"))
    check_tensor("indices", indices, (len(grad_output), grad_output.shape[2]), kind="integer")
    values = _summable(grad_output)
    gradient = values.new_zeros((*values.shape[:2], count))
    gradient.scatter_add_(2, _per_channel(indices, values.shape[1]), values)
    return gradient.to(grad_output.dtype)


def group_points(features: Tensor, indices: Tensor) -> Tensor:
    """Takes the features of groups of points; differentiable in ``features``.

    Args:
        features: [B, C, N].
        indices: integers [B, M, K], each from 0 to N - 1.

    Returns:
        [B, C, M, K].
    """
    check_tensor("features", features, ("B", "C", "N"))
    check_tensor("indices", indices, (len(features), "M", "K"), kind="integer")
    return gather_points(features, indices.flatten(1)).unflatten(2, indices.shape[1:])


def group_points_gradient(grad_output: Tensor, indices: Tensor, count: int) -> Tensor:
    """Gradient of :func:`group_points` to its ``count`` points, [B, C, count], from ``grad_output`` [B, C, M, K]."""
    check_tensor("grad_output", grad_output, ("B", "C", "M", "K"))
    check_tensor("indices", indices, (len(grad_output), *grad_output.shape[2:]), kind="integer")
    return gather_points_gradient(grad_output.flatten(2), indices.flatten(1), count)


def stack_group_points(features: Tensor, feature_counts: Tensor, indices: Tensor, index_counts: Tensor) -> Tensor:
    """Takes the features of groups of points in clouds whose points lie one after another.

    Differentiable in ``features``. An index outside of its own cloud gives zeros; mmcv reads from the clouds beside.

    Args:
        features: [N1 + N2 + ..., C].
        feature_counts: integers [B], (N1, N2, ...).
        indices: integers [M1 + M2 + ..., K], each into the own cloud.
        index_counts: integers [B], (M1, M2, ...).

    Returns:
        [M1 + M2 + ..., C, K].

    >>> features, indices = torch.tensor([[5.0], [6.0], [7.0]]), torch.tensor([[0, 0], [1, 0]])
    >>> stack_group_points(features, torch.tensor([1, 2]), indices, torch.tensor([1, 1])).tolist()
    [[[5.0, 5.0]], [[7.0, 6.0]]]
    """
    check_tensor("features", features, ("N", "C"))
    check_same_device(features=features, feature_counts=feature_counts, indices=indices, index_counts=index_counts)
    rows = _stacked_rows(feature_counts, indices, index_counts, len(features))
    padded = F.pad(features, (0, 0, 0, 1))  # the row of zeros for what is outside
    return padded.index_select(0, rows.flatten()).unflatten(0, rows.shape).transpose(1, 2)


def stack_group_points_gradient(
    grad_output: Tensor, feature_counts: Tensor, indices: Tensor, index_counts: Tensor, count: int
) -> Tensor:
    """Gradient of :func:`stack_group_points` to its ``count`` points, [count, C], from ``grad_output`` [M, C, K]."""
    check_tensor("grad_output", grad_output, (len(indices), "C", "K"))
    rows = _stacked_rows(feature_counts, indices, index_counts, count)
    values = _summable(grad_output)
    gradient = values.new_zeros((count + 1, values.shape[1]))
    gradient.index_add_(0, rows.flatten(), values.transpose(1, 2).flatten(0, 1))
    return gradient[:count].to(grad_output.dtype)


def _per_channel(indices: Tensor, channels: int) -> Tensor:
    """Indices [B, M] as a view [B, C, M]."""
    return indices.long()[:, None].expand(-1, channels, -1)


def _summable(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _stacked_rows(feature_counts: Tensor, indices: Tensor, index_counts: Tensor, count: int) -> Tensor:
    """Rows of the stacked features that the indices mean, int64 [M, K]; ``count`` for what lies outside."""
    check_tensor("indices", indices, ("M", "K"), kind="integer")
    check_tensor("feature_counts", feature_counts, ("B",), kind="integer")
    check_tensor("index_counts", index_counts, (len(feature_counts),), kind="integer")
    sums = int(feature_counts.sum()), int(index_counts.sum())
    if sums != (count, len(indices)):
        raise ValueError(
            f"feature_counts must sum to the {count} features and index_counts to the rows of indices "
            f"({describe(indices)}), got {sums[0]} and {sums[1]}"
        )
    starts = feature_counts.long().cumsum(0) - feature_counts
    clouds = torch.repeat_interleave(index_counts.long(), output_size=len(indices))
    inside = (indices >= 0) & (indices < feature_counts[clouds][:, None])
    return torch.where(inside, indices + starts[clouds][:, None], count)
