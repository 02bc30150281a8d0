"""Nearest neighbours in feature space (DGCNN, PointDistiller): any number of channels, no order.

Squared distances are computed in float32 or better, under autocast too, by a matrix product on at most 16 million pairs
at a time. Its rounding grows with the length of the features, so they are centred first, which leaves distances as they
are. `nearest.py` has the exact search in three dimensions.
"""

import torch
from torch import Tensor

from perceptkd.ops.checks import check_same_device, check_tensor
from perceptkd.ops.chunks import chunk

_PAIRS_AT_ONCE = 1 << 24


@torch.no_grad()
def nearest_features(features: Tensor, queries: Tensor, k: int) -> Tensor:
    """Finds the ``k`` rows of features nearest to each query.

    Args:
        features: [M, C].
        queries: [N, C].
        k: At most M.

    Returns:
        Row numbers [N, k], int64, unsorted. Of equal distances any may be taken.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    >>> nearest_features(points, points, 2).sort(dim=1).values.tolist()
    [[0, 1], [0, 1], [0, 2], [2, 3]]
    """
    check_tensor("features", features, ("M", "C"))
    check_tensor("queries", queries, ("N", features.shape[1]))
    check_same_device(features=features, queries=queries)
    if not 1 <= k <= len(features):
        raise ValueError(f"k must be from 1 to {len(features)}, the number of features, got {k}")
    dtype = torch.promote_types(torch.promote_types(features.dtype, queries.dtype), torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        features, queries = features.to(dtype), queries.to(dtype)
        middle = features.mean(dim=0)
        features, queries = features - middle, queries - middle
        squares = features.square().sum(dim=1)
        found = []
        for rows in chunk(len(queries), len(features), _PAIRS_AT_ONCE):
            # the squared length of the query is the same for all of its pairs, and orders nothing
            pairs = torch.addmm(squares, queries[rows], features.T, alpha=-2)
            found.append(pairs.topk(k, dim=1, largest=False, sorted=False).indices)
    return torch.cat(found)
