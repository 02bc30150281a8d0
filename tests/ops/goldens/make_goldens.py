#!/usr/bin/env python3
"""Writes tests/ops/goldens/mmcv.npz from an mmcv with compiled ops.

Build one first, where a compiler is at hand: MMCV_WITH_OPS=1 python setup.py build_ext --inplace in the source archive
of onedl-mmcv 2.3.6, and name that folder:

    PYTHONPATH=/path/to/onedl_mmcv-2.3.6 PERCEPTKD_OPS=compiled python tests/ops/goldens/make_goldens.py
"""

import sys
from pathlib import Path

import numpy as np
from cases import CASES

import perceptkd.compat  # noqa: F401
from perceptkd.ops import mmcv_ext

TARGET = Path(__file__).with_name("mmcv.npz")


def main() -> None:
    if mmcv_ext.backends()["mmcv_ops"] != "compiled":
        sys.exit("goldens are made by compiled ops: set PERCEPTKD_OPS=compiled")
    # of two boxes without area, 0 / 0 is NaN in mmcv and 0 in ours
    arrays = {
        f"{name}/{key}": value.nan_to_num(0).numpy() for name, case in CASES.items() for key, value in case().items()
    }
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET}: {len(CASES)} cases, {TARGET.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
