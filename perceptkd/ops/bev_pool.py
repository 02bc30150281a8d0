"""BEV pooling: the lift-splat sum as one stock op, ``F.embedding_bag``.

Frustum point p adds ``depth_weights[p] * features[feature_index[p]]`` to BEV cell ``cell_index[p]``. With the points
sorted by cell this is an embedding bag with per-sample weights: features are the table, cells the bags. It never builds
the frustum tensor, and has gradients to the depth weights and to the features.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from perceptkd.ops.checks import check_rows, check_same_device, check_vector
from perceptkd.ops.grouping import argsort_keys


@dataclass(frozen=True)
class BevPoolPlan:
    """Where each frustum point goes; depends on geometry only, so it can be kept while the cameras do not move.

    Attributes:
        order: int64 [K], the kept points sorted by cell, and by index within a cell.
        offsets: int64 [num_cells + 1], where each cell's points start in ``order``.
    """

    order: Tensor
    offsets: Tensor


def prepare_bev_pool(cell_index: Tensor, keep: Tensor | None = None, *, num_cells: int) -> BevPoolPlan:
    """Sorts frustum points by BEV cell.

    Args:
        cell_index: int64 [P], the cell of each point; points with a negative cell are left out.
        keep: optional bool [P], points to keep.
        num_cells: number of BEV cells, over all samples of the batch.
    """
    check_vector("cell_index", cell_index, cell_index.numel())
    cells = cell_index.long()
    if keep is not None:
        check_vector("keep", keep, len(cells))
        cells = torch.where(keep, cells, -1)
    if len(cells) and int(cells.max()) >= num_cells:
        raise ValueError(f"cell_index holds cell {int(cells.max())}, but there are {num_cells} cells")
    order = argsort_keys(cells)
    borders = torch.arange(num_cells + 1, device=cells.device)
    return BevPoolPlan(order, torch.searchsorted(cells[order], borders))


def bev_pool(
    depth_weights: Tensor,
    features: Tensor,
    feature_index: Tensor,
    cell_index: Tensor | None = None,
    num_cells: int | None = None,
    *,
    plan: BevPoolPlan | None = None,
) -> Tensor:
    """Pools image features into BEV cells.

    Args:
        depth_weights: [P], the probability of each frustum point's depth bin.
        features: [M, C], one row per image cell.
        feature_index: int64 [P], the row of ``features`` each point takes.
        cell_index: int64 [P], the BEV cell of each point, negative for points outside; in any order.
        num_cells: number of BEV cells.
        plan: from :func:`prepare_bev_pool`, in place of ``cell_index`` and ``num_cells``.

    Returns:
        [num_cells, C] in the dtype of ``features``; sums are taken in float32 or better. Cells without points are 0.

    >>> weights = torch.tensor([0.5, 0.25, 1.0])
    >>> bev_pool(weights, torch.tensor([[2.0], [4.0]]), torch.tensor([0, 1, 1]), torch.tensor([2, 2, -1]), 3).tolist()
    [[0.0], [0.0], [2.0]]
    """
    check_rows("features", features)
    check_vector("depth_weights", depth_weights, depth_weights.numel())
    check_vector("feature_index", feature_index, len(depth_weights))
    check_same_device(depth_weights=depth_weights, features=features, feature_index=feature_index)
    if plan is None:
        if cell_index is None or num_cells is None:
            raise ValueError("bev_pool needs cell_index and num_cells, or a plan from prepare_bev_pool")
        check_vector("cell_index", cell_index, len(depth_weights))
        plan = prepare_bev_pool(cell_index, num_cells=num_cells)
    table = features if features.dtype == torch.float64 else features.float()
    pooled = F.embedding_bag(
        feature_index.long()[plan.order],
        table,
        plan.offsets,
        mode="sum",
        per_sample_weights=depth_weights[plan.order].to(table.dtype),
        include_last_offset=True,
    )
    return pooled.to(features.dtype)
