# What every `full` model shares (UniDistill's sizes): +-54 m, 180 x 180 cells of 0.6 m, six tasks.
# The tap `fuser` has 256 channels, `neck[0]` 512.
point_cloud_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
cell_size_m = 0.6
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
post_center_range = [-61.2, -61.2, -10.0, 61.2, 61.2, 10.0]

# Of the models with cameras: ResNet-50, 256 x 704, 112 depth bins, 256 context channels.
# The ImageNet weights are torchvision's resnet50-0676ba61.pth. Without a network, save that file anywhere and set
# model.camera_encoder.backbone.init_cfg.checkpoint to its path (or put it into ~/.cache/torch/hub/checkpoints/).
camera_encoder = dict(
    type="perceptkd.CameraEncoder",
    backbone=dict(
        type="mmdet.ResNet",
        depth=50,
        frozen_stages=0,
        norm_eval=False,
        init_cfg=dict(type="Pretrained", checkpoint="https://download.pytorch.org/models/resnet50-0676ba61.pth"),
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
        point_cloud_range=point_cloud_range,
        cell_size_m=cell_size_m,
        align_corners=True,
    ),
)

model = dict(
    type="perceptkd.BEVDetector",
    point_cloud_range=point_cloud_range,
    cell_size_m=cell_size_m,
    data_preprocessor=dict(type="perceptkd.BEVDataPreprocessor"),
    backbone=dict(
        type="mmdet3d.SECOND", in_channels=256, out_channels=[128, 256], layer_nums=[5, 5], layer_strides=[1, 2]
    ),
    neck=dict(
        type="mmdet3d.SECONDFPN",
        in_channels=[128, 256],
        out_channels=[256, 256],
        upsample_strides=[1, 2],
        use_conv_for_no_stride=True,
    ),
    bbox_head=dict(
        type="perceptkd.BEVCenterHead",
        class_names=class_names,
        in_channels=512,
        share_conv_channel=64,
        tasks=[
            dict(num_class=1, class_names=["car"]),
            dict(num_class=2, class_names=["truck", "construction_vehicle"]),
            dict(num_class=2, class_names=["bus", "trailer"]),
            dict(num_class=1, class_names=["barrier"]),
            dict(num_class=2, class_names=["motorcycle", "bicycle"]),
            dict(num_class=2, class_names=["pedestrian", "traffic_cone"]),
        ],
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        separate_head=dict(type="mmdet3d.SeparateHead", init_bias=-2.19, final_kernel=3),
        bbox_coder=dict(
            type="mmdet3d.CenterPointBBoxCoder",
            pc_range=point_cloud_range[:2],
            voxel_size=[cell_size_m, cell_size_m],
            out_size_factor=1,
            post_center_range=post_center_range,
            max_num=500,
            score_threshold=0.1,
            code_size=9,
        ),
        loss_cls=dict(type="mmdet.GaussianFocalLoss", reduction="mean"),
        loss_bbox=dict(type="mmdet.L1Loss", reduction="mean", loss_weight=0.25),
    ),
    train_cfg=dict(
        grid_size=[180, 180, 1],
        voxel_size=[cell_size_m, cell_size_m, 8.0],
        out_size_factor=1,
        point_cloud_range=point_cloud_range,
        gaussian_overlap=0.1,
        min_radius=2,
        code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2],
    ),
    test_cfg=dict(
        nms_type="rotate",
        nms_thr=0.2,
        pre_max_size=1000,
        post_max_size=83,
        score_threshold=0.1,
        post_center_limit_range=post_center_range,
    ),
)
