# Cameras at 128 x 352, a ResNet-18 of half width, depth bins of 0.8 m. What lets it learn in minutes, from scratch:
# features at stride 8, a depth net that knows the rays, LiDAR points as depth targets, images normalised one by one.
_base_ = ["./bev_shared_sim.py"]

model = dict(
    data_preprocessor=dict(with_points=True, per_image=True),
    camera_encoder=dict(
        type="perceptkd.CameraEncoder",
        backbone=dict(type="mmdet.ResNet", depth=18, base_channels=32, stem_channels=32, norm_eval=False),
        neck=dict(
            type="mmdet3d.SECONDFPN",
            in_channels=[32, 64, 128, 256],
            out_channels=[32, 32, 32, 32],
            upsample_strides=[0.5, 1, 2, 4],
            use_conv_for_no_stride=True,
        ),
        view_transform=dict(
            type="perceptkd.LSSViewTransform",
            in_channels=128,
            out_channels=64,
            image_size=(128, 352),
            feature_stride=8,
            depth_bins_m=(2.0, 34.0, 0.8),
            point_cloud_range={{_base_.point_cloud_range}},
            cell_size_m={{_base_.cell_size_m}},
            camera_aware=True,
            channels_last=True,
        ),
        depth_loss=dict(type="perceptkd.LidarDepthLoss", weight=3.0),
    ),
)
