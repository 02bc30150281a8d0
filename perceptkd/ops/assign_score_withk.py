"""Assembles neighbour features with scores over a bank of weight matrices (Xu et al., PAConv, 2021, appendix D)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptkd.ops.bilinear import weighted_rows
from perceptkd.ops.checks import check_same_device, check_tensor


def assign_score_withk(scores: Tensor, points: Tensor, centres: Tensor, neighbours: Tensor) -> Tensor:
    """For each neighbour k of a centre: ``sum_m scores[k, m] * (points[neighbour k, m] - centres[neighbour 0, m])``.

    Differentiable in all but the indices. The features of the neighbours, [B, N, K, M, O], are never stored.

    Args:
        scores: [B, N, K, M], of each of M matrices for each of K neighbours of N centres.
        points: [B, P, M, O], features of all points by each matrix.
        centres: [B, P, M, O], the same for points as centres.
        neighbours: integers [B, N, K], into the P points; the first of each row is the centre. A neighbour outside of
            0 to P - 1, or one of such a centre, gives 0.

    Returns:
        [B, O, N, K].
    """
    check_tensor("scores", scores, ("B", "N", "K", "M"))
    check_tensor("points", points, (len(scores), "P", scores.shape[3], "O"))
    check_tensor("centres", centres, tuple(points.shape))
    check_tensor("neighbours", neighbours, tuple(scores.shape[:3]), kind="integer")
    check_same_device(scores=scores, points=points, centres=centres, neighbours=neighbours)
    count, matrices = points.shape[1:3]
    is_point = (neighbours >= 0) & (neighbours < count)
    weights = torch.where((is_point & is_point[..., :1])[..., None], scores, 0).flatten(0, 2)
    first = count * torch.arange(len(scores), device=scores.device)[:, None, None]
    chosen = torch.where(is_point, neighbours + first, 0)
    if count == 0:  # every neighbour lies outside; they read a point of zeros
        points, centres = (F.pad(part, (0, 0, 0, 0, 0, 1)) for part in (points, centres))

    dtype = torch.promote_types(points.dtype, torch.float32)

    def assemble(features: Tensor, rows: Tensor) -> Tensor:
        entries = rows.reshape(-1, 1) * matrices + torch.arange(matrices, device=rows.device)
        return weighted_rows(features.to(dtype).flatten(0, 2), entries, weights)

    sums = assemble(points, chosen) - assemble(centres, chosen[..., :1].expand_as(chosen))
    return sums.to(points.dtype).unflatten(0, neighbours.shape).permute(0, 3, 1, 2)
