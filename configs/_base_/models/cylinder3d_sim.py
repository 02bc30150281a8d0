# Cylinder3D over 80 x 120 x 16 cells of (radius, angle, height), three levels deep, and the same with a quarter of its
# channels. The head has a 20th output, for points without a class, to which nothing is trained, as published.
default_scope = "mmdet3d"
task = "segmentation"
num_classes = 19
grid_shape = [80, 120, 16]
cylinder = [0, -3.14159265359, -8, 40, 3.14159265359, 4]

model = dict(
    type="mmdet3d.Cylinder3D",
    data_preprocessor=dict(
        type="mmdet3d.Det3DDataPreprocessor",
        voxel=True,
        voxel_type="cylindrical",
        voxel_layer=dict(grid_shape=grid_shape, point_cloud_range=cylinder, max_num_points=-1, max_voxels=-1),
    ),
    voxel_encoder=dict(
        type="mmdet3d.SegVFE",
        in_channels=6,
        feat_channels=[32, 64],
        feat_compression=16,
        with_voxel_center=True,
        grid_shape=grid_shape,
        point_cloud_range=cylinder,
    ),
    backbone=dict(
        type="mmdet3d.Asymm3DSpconv",
        grid_size=grid_shape,
        input_channels=16,
        base_channels=16,
        backbone_depth=3,
        height_pooing=[True, True, False],
        norm_cfg=dict(type="BN1d", eps=1e-5, momentum=0.1),
    ),
    decode_head=dict(
        type="mmdet3d.Cylinder3DHead",
        channels=64,
        num_classes=num_classes + 1,
        ignore_index=num_classes,
        loss_lovasz=dict(type="mmdet3d.LovaszLoss", loss_weight=1.0, reduction="none"),
    ),
    train_cfg=None,
    test_cfg=dict(mode="whole"),
)
narrow = dict(
    voxel_encoder=dict(feat_channels=[8, 16], feat_compression=4),
    backbone=dict(input_channels=4, base_channels=4),
    decode_head=dict(channels=16),
)
