# UniDistill's fusion model: both encoders of the `full` models, fused by channel attention.
# For the ImageNet weights see bev_camera_full.py.
_base_ = ["./bev_lidar_voxel_full.py"]

model = dict(
    data_preprocessor=dict(image_mean=[123.675, 116.28, 103.53], image_std=[58.395, 57.12, 57.375]),
    camera_encoder=dict(
        type="perceptkd.CameraEncoder",
        backbone=dict(
            type="mmdet.ResNet",
            depth=50,
            frozen_stages=0,
            norm_eval=False,
            init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
        ),
        neck=dict(
            type="mmdet3d.SECONDFPN",
            in_channels=[256, 512, 1024, 2048],
            out_channels=[128, 128, 128, 128],
            upsample_strides=[0.25, 0.5, 1, 2],
        ),
        view_transform=dict(
            type="perceptkd.LSSViewTransform",
            in_channels=512,
            out_channels=256,
            image_size=(256, 704),
            feature_stride=16,
            depth_bins_m=(2.0, 58.0, 0.5),
            point_cloud_range={{_base_.point_cloud_range}},
            cell_size_m={{_base_.cell_size_m}},
            align_corners=True,
        ),
    ),
    fuser=dict(type="perceptkd.ChannelAttentionFuser", in_channels=[256, 256], out_channels=256),
)
