"""Bird's-eye-view detectors: one class for LiDAR, cameras or both."""

from perceptkd.models.bev.camera_encoder import CameraEncoder
from perceptkd.models.bev.center_head import BEVCenterHead
from perceptkd.models.bev.data_preprocessor import BEVDataPreprocessor
from perceptkd.models.bev.depth import LidarDepthLoss
from perceptkd.models.bev.detector import BEVDetector
from perceptkd.models.bev.fuser import ChannelAttentionFuser, PassThrough
from perceptkd.models.bev.iou_center_head import IoUCenterHead
from perceptkd.models.bev.lidar_encoder import LidarEncoder
from perceptkd.models.bev.view_transform import LSSViewTransform

__all__ = [
    "BEVCenterHead",
    "BEVDataPreprocessor",
    "BEVDetector",
    "CameraEncoder",
    "ChannelAttentionFuser",
    "IoUCenterHead",
    "LSSViewTransform",
    "LidarDepthLoss",
    "LidarEncoder",
    "PassThrough",
]
