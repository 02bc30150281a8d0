"""perceptkd: compact perception models out of large ones.

Importing the package is cheap: nothing of torch, mmcv, spconv, open3d or gsplat is loaded until a part that needs it is.
"""

__version__ = "0.1.0"
