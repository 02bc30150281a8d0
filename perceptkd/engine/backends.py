"""Which implementations this process computes with, as every result file stores them."""

import torch

from perceptkd.engine.precision import chosen_precision
from perceptkd.ops import mmcv_ext, sparse
from perceptkd.ops.triton_kernels import chosen_kernels


def backends() -> dict[str, str]:
    """Number format, memory layout, threads and the ops in use.

    >>> sorted(backends())[:2]
    ['amp', 'deterministic']
    """
    return {
        **chosen_precision(),
        **mmcv_ext.backends(),
        "sparse": sparse.chosen_backend("cuda" if torch.cuda.is_available() else "cpu"),
        **({"cuda_kernels": chosen_kernels()} if torch.cuda.is_available() else {}),
        "threads": str(torch.get_num_threads()),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
    }
