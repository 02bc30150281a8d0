# UniDistill's fusion model: both encoders of the `full` models, fused by channel attention.
# For the ImageNet weights see bev_shared_full.py.
_base_ = ["./bev_lidar_voxel_full.py"]

model = dict(
    data_preprocessor=dict(image_mean=[123.675, 116.28, 103.53], image_std=[58.395, 57.12, 57.375]),
    camera_encoder={{_base_.camera_encoder}},
    fuser=dict(type="perceptkd.ChannelAttentionFuser", in_channels=[256, 256], out_channels=256),
)
