# What every `sim` model shares, whatever its sensors: grid, BEV encoder, head. Trains from scratch, nothing frozen.
# The map is 48 x 48 cells of 1.2 m, as far as a small image shows objects well; `fuser` has 64 channels, `neck[0]` 128.
point_cloud_range = [-28.8, -28.8, -5.0, 28.8, 28.8, 3.0]
cell_size_m = 1.2
default_scope = "mmdet3d"
class_names = [
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
]
post_center_range = [-36.0, -36.0, -10.0, 36.0, 36.0, 10.0]

# Of the models with cameras: 128 x 352, a ResNet-18 of half width, depth bins of 0.8 m. What lets it learn in minutes,
# from scratch: features at stride 8, a depth net that knows the rays, LiDAR points as depth targets.
camera_encoder = dict(
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
        point_cloud_range=point_cloud_range,
        cell_size_m=cell_size_m,
        camera_aware=True,
        channels_last=True,
    ),
    depth_loss=dict(type="perceptkd.LidarDepthLoss", weight=3.0),
)

model = dict(
    type="perceptkd.BEVDetector",
    point_cloud_range=point_cloud_range,
    cell_size_m=cell_size_m,
    channels_last=True,
    data_preprocessor=dict(type="perceptkd.BEVDataPreprocessor", channels_last=True),
    backbone=dict(
        type="mmdet3d.SECOND",
        in_channels=64,
        out_channels=[64, 128],
        layer_nums=[2, 2],
        layer_strides=[1, 2],
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.05),  # the usual 0.01 needs longer schedules than these
    ),
    neck=dict(
        type="mmdet3d.SECONDFPN",
        in_channels=[64, 128],
        out_channels=[64, 64],
        upsample_strides=[1, 2],
        use_conv_for_no_stride=True,
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.05),
    ),
    bbox_head=dict(
        type="perceptkd.BEVCenterHead",
        class_names=class_names,
        in_channels=128,
        share_conv_channel=32,
        # three tasks, not six: half the convolutions of the head, which is a third of a step on CPU
        tasks=[
            dict(num_class=1, class_names=["car"]),
            dict(num_class=4, class_names=["truck", "trailer", "bus", "construction_vehicle"]),
            dict(num_class=5, class_names=["bicycle", "motorcycle", "pedestrian", "traffic_cone", "barrier"]),
        ],
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        separate_head=dict(type="mmdet3d.SeparateHead", init_bias=-2.19, final_kernel=3, head_conv=32),
        bbox_coder=dict(
            type="mmdet3d.CenterPointBBoxCoder",
            pc_range=point_cloud_range[:2],
            voxel_size=[cell_size_m, cell_size_m],
            out_size_factor=1,
            post_center_range=post_center_range,
            max_num=300,
            score_threshold=0.02,
            code_size=9,
        ),
        loss_cls=dict(type="mmdet.GaussianFocalLoss", reduction="mean"),
        loss_bbox=dict(type="mmdet.L1Loss", reduction="mean", loss_weight=0.25),
    ),
    train_cfg=dict(
        grid_size=[48, 48, 1],
        voxel_size=[cell_size_m, cell_size_m, 8.0],
        out_size_factor=1,
        point_cloud_range=point_cloud_range,
        gaussian_overlap=0.1,
        min_radius=1,
        code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2],
    ),
    # min_radius: squared metres, per task
    test_cfg=dict(nms_type="circle", min_radius=[4, 10, 0.4], post_max_size=100),
)
