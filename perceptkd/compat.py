"""Makes the maintained forks of mmengine, mmcv and mmdet work with mmdet3d 1.4."""
