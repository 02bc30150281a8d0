"""BEV pooling: the lift-splat sum as one stock op, ``F.embedding_bag``, or on CUDA as a Triton kernel.

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
from perceptkd.ops.triton_kernels import runs_on_triton


@dataclass(frozen=True)
class CellOrder:
    """The points of a rig that lie inside the grid, sorted by cell.

    Attributes:
        points: int64 [K], sorted by cell and then by index.
        offsets: int64 [num_cells + 1], where each cell's points start.
        num_points: of the rig, those outside the grid too.
    """

    points: Tensor
    offsets: Tensor
    num_points: int


@torch.inference_mode(False)
def sort_by_cell(cell_index: Tensor, num_cells: int) -> CellOrder:
    """The order that :func:`bev_pool` sums in; where cameras and grid stay in place, one serves all frames.

    Args:
        cell_index: int64 [P], the BEV cell of each point, negative for points outside.
        num_cells: number of BEV cells, over all samples of the batch.
    """
    cells = cell_index.long()
    if len(cells) and int(cells.max()) >= num_cells:
        raise ValueError(f"cell_index holds cell {int(cells.max())}, but there are {num_cells} cells")
    points = argsort_keys(cells)
    borders = torch.arange(num_cells + 1, device=cells.device)
    return CellOrder(points, torch.searchsorted(cells[points], borders), len(cells))


def bev_pool(
    depth_weights: Tensor,
    features: Tensor,
    feature_index: Tensor,
    cell_index: Tensor,
    num_cells: int,
    *,
    order: CellOrder | None = None,
) -> Tensor:
    """Pools image features into BEV cells.

    Args:
        depth_weights: [P], the probability of each frustum point's depth bin.
        features: [M, C], one row per image cell.
        feature_index: int64 [P], the row of ``features`` each point takes.
        cell_index: int64 [P], the BEV cell of each point, negative for points outside; in any order.
        num_cells: number of BEV cells, over all samples of the batch.
        order: ``sort_by_cell(cell_index, num_cells)`` if it is known; sorting takes most of the time.

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
    check_vector("cell_index", cell_index, len(depth_weights))
    if order is None:
        order = sort_by_cell(cell_index, num_cells)
    elif (order.num_points, len(order.offsets) - 1) != (len(cell_index), num_cells):
        raise ValueError(
            f"order was made for {order.num_points} points and {len(order.offsets) - 1} cells, but there are "
            f"{len(cell_index)} and {num_cells}; make one with sort_by_cell(cell_index, num_cells)"
        )
    table = features if features.dtype == torch.float64 else features.float()
    rows, weights = feature_index.long()[order.points], depth_weights[order.points].to(table.dtype)
    if runs_on_triton(table):
        from perceptkd.ops.triton_kernels.bev_pool import PooledRows

        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(table):
            raise ValueError(f"feature_index holds rows {int(rows.min())} to {int(rows.max())} of {len(table)}")
        return PooledRows.apply(weights, table.contiguous(), rows, order.offsets).to(features.dtype)
    pooled = F.embedding_bag(
        rows, table, order.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
    return pooled.to(features.dtype)
