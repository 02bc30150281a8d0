"""Our ops under the names and signatures of mmcv's compiled module; see :mod:`perceptkd.ops.mmcv_ext`."""
