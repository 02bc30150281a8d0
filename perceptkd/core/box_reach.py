"""How far around the annotated boxes a method reads BEV maps, and the cells that are then enough.

Shapes: B samples, N boxes of the whole batch, H rows (y), W columns (x). BEV boxes are ``(x, y, length, width, yaw)``
in metres and radians, counter-clockwise.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from perceptkd.core.bev import cells_in_boxes, gaussian_radius, map_grid
from perceptkd.core.errors import InputError
from perceptkd.core.tap import Extent


@dataclass(frozen=True)
class BoxReach:
    """What a method reads of a map: the cells in and around annotated boxes.

    Attributes:
        enlarge: Factor on the sides of a box.
        margin_m: Metres beyond each side, after that.
        cells: Cells around it all; 1 is what bilinear sampling inside of the box reads.
        overlaps: ``overlap`` of the Gaussians drawn around the centres, see :func:`perceptkd.core.bev.gaussian_mask`.
    """

    enlarge: float = 1.0
    margin_m: float = 0.0
    cells: int = 1
    overlaps: tuple[float, ...] = ()

    @classmethod
    def of_gaussians(cls, *, overlap: float, min_radius: int) -> "BoxReach":
        """What :func:`perceptkd.core.bev.gaussian_mask` covers.

        A centre is at most 1.5 cells from that of the cell it is drawn in, and the whole radius beyond.
        """
        return cls(cells=min_radius + 2, overlaps=(overlap,))

    def __or__(self, other: "BoxReach") -> "BoxReach":
        """The smallest reach that covers both."""
        return BoxReach(
            enlarge=max(self.enlarge, other.enlarge),
            margin_m=max(self.margin_m, other.margin_m),
            cells=max(self.cells, other.cells),
            overlaps=tuple(sorted({*self.overlaps, *other.overlaps})),
        )

    def to_json(self) -> dict[str, Any]:
        """As a manifest keeps it."""
        return {**asdict(self), "overlaps": list(self.overlaps)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "BoxReach":
        """The inverse of :meth:`to_json`."""
        return cls(**{**entry, "overlaps": tuple(entry["overlaps"])})

    def covers(self, other: "BoxReach") -> bool:
        """Whether maps kept for this reach are enough for the other.

        >>> BoxReach(cells=3).covers(BoxReach()), BoxReach(cells=3).covers(BoxReach(margin_m=1.6))
        (True, False)
        """
        return self | other == self


@torch.no_grad()
def foreground_cells(
    boxes: Tensor, sample_index: Tensor, *, shape: tuple[int, int, int], extent: Extent, reach: BoxReach
) -> Tensor:
    """The cells within reach of any box.

    Args:
        boxes: BEV boxes [N, 5].
        sample_index: Which sample each box belongs to [N].
        shape: Of the map: (B, H, W).
        extent: Outer edges of the map ``(x0, y0, x1, y1)`` in metres.
        reach: How far.

    Returns:
        bool [B, H, W].

    Raises:
        InputError: Cells are not square, as a radius in cells needs them to be.
    """
    _, cell_m = map_grid(boxes, shape=shape[1:], extent=extent)
    if not torch.isclose(cell_m[0], cell_m[1], rtol=1e-3):
        raise InputError(f"Cells of {cell_m.tolist()} m are not square: store whole maps")
    half = boxes[:, 2:4] * reach.enlarge / 2 + reach.margin_m
    for overlap in reach.overlaps:
        radius = gaussian_radius(boxes[:, 2], boxes[:, 3], overlap)
        half = torch.maximum(half, 2**0.5 * radius[:, None])
    # A cell k columns and k rows from a point is up to k diagonals from it, however the box is turned.
    half = half + reach.cells * torch.linalg.vector_norm(cell_m)
    grown = torch.cat((boxes[:, :2], 2 * half, boxes[:, 4:5]), dim=1)
    inside = cells_in_boxes(grown, shape=shape[1:], extent=extent)
    return boxes.new_zeros(shape).index_add_(0, sample_index, inside.to(boxes.dtype)) > 0
