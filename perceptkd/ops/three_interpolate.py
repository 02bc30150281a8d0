"""Interpolates features at a target from those of its three nearest sources (Qi et al., PointNet++, 2017)."""

import torch
from torch import Tensor

from perceptkd.ops.bilinear import weighted_rows
from perceptkd.ops.checks import check_same_device, check_tensor


def three_interpolate(features: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of three features; differentiable in ``features`` and ``weights``.

    Args:
        features: [B, C, M].
        indices: integers [B, N, 3], each from 0 to M - 1, as of :func:`perceptkd.ops.nearest.three_nn`.
        weights: [B, N, 3].

    Returns:
        [B, C, N].

    >>> features, weights = torch.tensor([[[1.0, 10.0, 100.0]]]), torch.tensor([[[0.5, 0.25, 0.25]]])
    >>> three_interpolate(features, torch.tensor([[[0, 1, 1]]]), weights)
    tensor([[[5.5000]]])
    """
    check_tensor("features", features, ("B", "C", "M"))
    check_tensor("indices", indices, (len(features), "N", 3), kind="integer")
    check_tensor("weights", weights, tuple(indices.shape))
    check_same_device(features=features, indices=indices, weights=weights)
    batch, _, count = features.shape
    first = count * torch.arange(batch, device=features.device)
    rows = features.transpose(1, 2).flatten(0, 1)
    sums = weighted_rows(rows, (indices + first[:, None, None]).flatten(0, 1), weights.flatten(0, 1))
    return sums.unflatten(0, indices.shape[:2]).transpose(1, 2)
