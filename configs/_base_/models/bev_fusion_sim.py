# The voxel LiDAR encoder and the camera encoder of the `sim` models, fused by channel attention.
_base_ = ["./bev_lidar_voxel_sim.py"]

model = dict(
    data_preprocessor=dict(per_image=True),
    camera_encoder={{_base_.camera_encoder}},
    fuser=dict(type="perceptkd.ChannelAttentionFuser", in_channels=[64, 64], out_channels=64),
)
