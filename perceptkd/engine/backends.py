"""Which implementations this process computes with, as every result file stores them."""

import torch

from perceptkd.engine.precision import chosen_precision
from perceptkd.ops import mmcv_ext, sparse


def backends() -> dict[str, str]:
    """Number format, memory layout, threads and the ops in use.

    >>> sorted(backends())[:2]
    ['amp', 'deterministic']
    """
    return {
        **chosen_precision(),
        **mmcv_ext.backends(),
        "sparse": sparse.chosen_backend(),
        "threads": str(torch.get_num_threads()),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
    }
