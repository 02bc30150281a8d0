"""perceptkd: compact perception models out of large ones.

Importing the package is cheap: torch, mmcv, spconv, open3d and gsplat are loaded by the parts that need them.
"""

__version__ = "0.1.0"
