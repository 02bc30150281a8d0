# MinkUNet over voxels of 0.4 m on perceptkd's sparse convolutions ('spconv' is mmdet3d's name for them), and the same
# with a quarter of its channels, which only narrows what it names.
default_scope = "mmdet3d"
task = "segmentation"
num_classes = 19

model = dict(
    type="mmdet3d.MinkUNet",
    data_preprocessor=dict(
        type="mmdet3d.Det3DDataPreprocessor",
        voxel=True,
        voxel_type="minkunet",
        voxel_layer=dict(
            max_num_points=-1,
            point_cloud_range=[-40, -40, -8, 40, 40, 4],  # required by the class, not used by this voxel_type
            voxel_size=[0.4, 0.4, 0.4],
            max_voxels=(-1, -1),
        ),
    ),
    backbone=dict(
        type="MinkUNetBackbone",
        in_channels=4,
        num_stages=4,
        base_channels=32,
        encoder_channels=[32, 64, 128, 128],
        encoder_blocks=[1, 1, 1, 1],
        decoder_channels=[128, 96, 64, 64],
        decoder_blocks=[1, 1, 1, 1],
        sparseconv_backend="spconv",
    ),
    decode_head=dict(
        type="mmdet3d.MinkUNetHead",
        channels=64,
        num_classes=num_classes,
        dropout_ratio=0,
        loss_decode=dict(type="mmdet.CrossEntropyLoss", avg_non_ignore=True),
        ignore_index=num_classes,
    ),
    train_cfg=dict(),
    test_cfg=dict(),
)
narrow = dict(
    backbone=dict(base_channels=8, encoder_channels=[8, 16, 32, 32], decoder_channels=[32, 24, 16, 16]),
    decode_head=dict(channels=16),
)
