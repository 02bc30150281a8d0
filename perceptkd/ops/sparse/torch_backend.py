"""Sparse convolution in plain torch, on any device: gather, multiply, sum per target row.

Forward and the gradient of the features are the same computation, the latter along the flipped map with transposed
weights. For bfloat16 and float16 every product is rounded to the type and the products are summed in float32. Between
forward and backward only the features, the weights and the map are kept.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from perceptkd.ops.memory import empty
from perceptkd.ops.sparse.gather_plan import Chunk, GatherPlan, Segment
from perceptkd.ops.sparse.kernel_map import KernelMap
from perceptkd.ops.sparse.sites import Order


def convolve(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Sums ``features[source] @ weight[k]`` over the pairs of every kernel cell k.

    Args:
        features: [N, C_in].
        weight: [K, C_in, C_out], of the same type.
        kernel_map: from N source rows to M target rows.

    Returns:
        [M, C_out].
    """
    return _Convolve.apply(features, weight, kernel_map)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        rows = _sort_rows(features, kernel_map.source_order)
        return _restore_rows(_gather_multiply(rows, weight, kernel_map.plan), kernel_map.target_order)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        with torch.autocast(gradient.device.type, enabled=False):
            return *_gradients(ctx.saved_tensors, gradient, ctx.kernel_map, ctx.needs_input_grad), None


def _gradients(
    saved: tuple[Tensor, Tensor], gradient: Tensor, kernel_map: KernelMap, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the features and of the weights, as far as needed."""
    features, weight = saved
    plan = kernel_map.gradient_plan
    rows = _sort_rows(gradient.contiguous(), kernel_map.target_order)
    correlation = None
    if needed[1]:
        correlation = _Correlation(_sort_rows(features, kernel_map.source_order), weight, plan)
    feature_gradient = None
    if needed[0]:
        transposed = weight.transpose(1, 2).contiguous()
        feature_gradient = _gather_multiply(rows, transposed, plan, correlation)
        feature_gradient = _restore_rows(feature_gradient, kernel_map.source_order)
    elif correlation is not None:
        correlation.run(rows)
    return feature_gradient, None if correlation is None else correlation.total.to(weight.dtype)


def _sort_rows(rows: Tensor, order: Order | None) -> Tensor:
    return rows if order is None else rows.index_select(0, order.forward)


def _restore_rows(rows: Tensor, order: Order | None) -> Tensor:
    return rows if order is None else rows.index_select(0, order.inverse)


class _Correlation:
    """Gathers the weights' gradient [K, C_in, C_out] while something else, or nothing, is made of the same gathers.

    ``plan`` leads from targets to sources: it gathers gradients, and its target rows are source rows of the layer.
    """

    def __init__(self, sources: Tensor, weight: Tensor, plan: GatherPlan) -> None:
        wide = torch.float32 if weight.dtype in (torch.bfloat16, torch.float16) else weight.dtype
        self.total = torch.zeros_like(weight, dtype=wide)
        self.sources, self.plan = sources, plan
        self.buffer = empty((plan.max_rows, sources.shape[1]), sources)

    def add(self, chunk: Chunk, segment: Segment, gradient: Tensor) -> None:
        """Adds one segment, given its gathered gradients."""
        sources = _gather(self.sources, chunk, segment, self.plan, chunk.targets, self.buffer)
        self.total[segment.cell] += sources.t() @ gradient

    def run(self, gradient: Tensor) -> None:
        """Adds all segments, where nobody else gathers."""
        buffer = empty((self.plan.max_rows, gradient.shape[1]), gradient)
        for chunk in self.plan.chunks:
            for segment in chunk.segments:
                self.add(chunk, segment, _gather(gradient, chunk, segment, self.plan, chunk.sources, buffer))


def _gather_multiply(rows: Tensor, weight: Tensor, plan: GatherPlan, correlation: _Correlation | None = None) -> Tensor:
    """Target rows [M, C_out] from sorted source rows [N, C_in]; feeds ``correlation`` with the gathered rows."""
    result = empty((plan.num_targets, weight.shape[2]), rows)
    buffer = empty((plan.max_rows, weight.shape[1]), rows)
    products = empty((plan.max_pairs, weight.shape[2]), rows)
    for chunk in plan.chunks:
        for segment in chunk.segments:
            gathered = _gather(rows, chunk, segment, plan, chunk.sources, buffer)
            torch.mm(gathered, weight[segment.cell], out=products[segment.start : segment.stop])
            if correlation is not None:
                correlation.add(chunk, segment, gathered)
        summed = F.embedding_bag(chunk.slots, products[: len(chunk.slots)], chunk.offsets, mode="sum")
        result[chunk.start : chunk.stop] = summed
    return result


def _gather(rows: Tensor, chunk: Chunk, segment: Segment, plan: GatherPlan, index: Tensor, buffer: Tensor) -> Tensor:
    """Rows of one segment by ``index``: in ``buffer``, or a view where the kernel cell joins rows to themselves."""
    if segment.cell == plan.identity:
        return rows[chunk.start : chunk.stop]
    part = buffer[: segment.stop - segment.start]
    return torch.index_select(rows, 0, index[segment.start : segment.stop], out=part)
