"""BEVDistill (ICLR 2023), its dense part: a student's BEV map imitates a teacher's where the objects are.

LiDAR and camera maps differ most where there is nothing to detect, so the imitation is weighted by Gaussians around the
annotated centres (:func:`dense_loss`). Nothing is added to the student at inference.

Shapes: B samples, N boxes of the whole batch, C channels, H rows (y), W columns (x). BEV boxes are ``(x, y, length,
width, yaw)`` in metres and radians.
"""

from typing import Any

from torch import Tensor

from perceptkd.core.bev import batch_boxes, gaussian_mask, tap_extent
from perceptkd.core.box_reach import BoxReach
from perceptkd.core.distiller import Distiller, Step
from perceptkd.core.distributed import all_reduce_mean
from perceptkd.core.errors import InputError
from perceptkd.core.geometry import canonical_pair, check_equal_shapes
from perceptkd.core.tap import Extent, Taps
from perceptkd.registry import DISTILLERS


def foreground_mask(
    boxes: Tensor,
    sample_index: Tensor,
    *,
    shape: tuple[int, int, int],
    extent: Extent,
    overlap: float = 0.1,
    min_radius: int = 1,
) -> Tensor:
    """Soft foreground: a Gaussian around every centre on the map, whatever its class; the largest value per cell.

    With ``(x_i, y_i)`` the cell of a centre, ``w_i(x, y) = exp(-((x - x_i)^2 + (y - y_i)^2) / (2 sigma_i^2))`` within a
    square of ``radius_i`` cells around it, ``sigma_i = (2 radius_i + 1) / 6``, and ``w = max_i w_i``.

    Args:
        boxes: BEV boxes [N, 5]; those with their centre outside of the map are left out.
        sample_index: Which sample each box belongs to [N].
        shape: Of the mask: (B, H, W).
        extent: Outer edges of the map ``(x0, y0, x1, y1)`` in metres.
        overlap, min_radius: Of the radius, in cells, see :func:`perceptkd.core.bev.gaussian_mask`.

    Returns:
        Mask [B, H, W] in [0, 1].
    """
    low, high = boxes.new_tensor(extent).view(2, 2)
    inside = ((boxes[:, :2] >= low) & (boxes[:, :2] < high)).all(dim=1)
    return gaussian_mask(
        boxes[inside], sample_index[inside], shape=shape, extent=extent, overlap=overlap, min_radius=min_radius
    )


def dense_loss(
    student: Tensor, teacher: Tensor, mask: Tensor, *, total_weight: Tensor | float, eps: float = 1e-4
) -> Tensor:
    """Squared distance of the features of a cell, averaged over the foreground.

    ``sum_xy w(x, y) sum_c (student - teacher)^2 / sum_xy w(x, y)``: channels are added up, not averaged.

    Args:
        student: Adapted map of the student [B, C, H, W].
        teacher: Map of the teacher [B, C, H, W]; detached.
        mask: Soft foreground [B, H, W].
        total_weight: Sum of the mask, averaged over ranks.
        eps: Added to ``total_weight``.

    >>> import torch
    >>> dense_loss(torch.ones(1, 3, 1, 2), torch.zeros(1, 3, 1, 2), torch.tensor([[[1.0, 0.5]]]), total_weight=1.5)
    tensor(2.9998)
    """
    distance = (student - teacher.detach()).square().sum(dim=1)
    return (distance * mask).sum() / (total_weight + eps)


@DISTILLERS.register_module()
class BEVDistill(Distiller):
    """Imitation of BEV maps under a soft foreground: follows the release, dense part only.

    The term ``dense`` has the released weight 0.01, which belongs to 256 channels behind batch norm and ReLU: the loss
    grows with the number of channels and with the scale of the maps. The paper writes a mean of norms over all H x W
    cells; the release divides squares by the sum of the mask, and so do we. Where we differ from the release:

    - The release compares maps behind the shared convolution of an auxiliary centre head on either side. Here the map
      is ``neck[0]``, which the head reads, and an adapter of the student takes the part of that convolution.
    - Where sizes differ, the student's map is resized to the teacher's, not the other way round.
    - A process may have several samples; the release broadcasts the mask over channels, which works for one only.
    - The average runs over the foreground of all processes together, not of each.
    - A centre up to one cell beyond the low edges of the map is not drawn.

    Left out: the sparse part (matching and contrast of instance queries, soft labels of the teacher's boxes), which
    needs DETR heads on both sides, and the auxiliary centre head of the release.

    Args:
        overlap, min_radius: See :func:`foreground_mask`.
        eps: Added to the sum of the mask.
        **kwargs: Of the base class.
    """

    default_weights = {"dense": 0.01}
    default_student_taps = {"bev": "neck[0]"}
    default_teacher_taps = {"bev": "neck[0]"}
    default_adapters = {"bev": "auto"}
    layout_aware = True

    def __init__(self, *, overlap: float = 0.1, min_radius: int = 1, eps: float = 1e-4, **kwargs: Any) -> None:
        if not 0 < overlap < 1 or min_radius < 0 or eps < 1e-6:
            raise InputError(
                "BEVDistill: overlap lies between 0 and 1, min_radius is at least 0, eps at least 1e-6; "
                f"not {overlap}, {min_radius} and {eps}"
            )
        super().__init__(**kwargs)
        self.gaussian: dict[str, Any] = {"overlap": overlap, "min_radius": min_radius}
        self.eps = eps

    @property
    def box_reach(self) -> BoxReach:
        """The Gaussians."""
        return BoxReach.of_gaussians(**self.gaussian)

    def loss(self, student: Taps, teacher: Taps, step: Step) -> dict[str, Tensor]:
        """Returns the term ``dense``."""
        student_map, teacher_map = canonical_pair(student["bev"], teacher["bev"])
        check_equal_shapes(student_map, teacher_map, method="BEVDistill", alias="bev")
        boxes, sample_index = batch_boxes(step.data_samples, device=student_map.device)
        batch_size, _, height, width = student_map.shape
        shape, extent = (batch_size, height, width), tap_extent(student["bev"])
        mask = foreground_mask(boxes, sample_index, shape=shape, extent=extent, **self.gaussian)
        total_weight = all_reduce_mean(mask.sum())
        return {"dense": dense_loss(student_map, teacher_map, mask, total_weight=total_weight, eps=self.eps)}
