"""Ops that upstream takes from compiled libraries, in torch and numba; one op per file.

``mmcv_ext`` offers them to mmcv (``PERCEPTKD_OPS``), ``sparse`` is the sparse convolution. Nothing is imported here: an
op loads when it is used.
"""
