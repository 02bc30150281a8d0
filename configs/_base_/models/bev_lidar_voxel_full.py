# UniDistill's LiDAR model: voxels of 0.075 x 0.075 x 0.2 m, residual sparse encoder to stride 8.
_base_ = ["./bev_shared_full.py"]

model = dict(
    data_preprocessor=dict(
        voxelize=dict(
            voxel_size=[0.075, 0.075, 0.2],
            point_cloud_range={{_base_.point_cloud_range}},
            max_points=10,
            max_voxels=(120000, 160000),
        )
    ),
    lidar_encoder=dict(
        type="perceptkd.LidarEncoder",
        voxel_encoder=dict(type="mmdet3d.HardSimpleVFE", num_features=5),
        middle_encoder=dict(
            type="mmdet3d.SparseEncoder",
            in_channels=5,
            sparse_shape=[41, 1440, 1440],
            order=("conv", "norm", "act"),
            output_channels=128,
            encoder_channels=((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
            encoder_paddings=((0, 0, 1), (0, 0, 1), (0, 0, [0, 1, 1]), (0, 0)),
            block_type="basicblock",
        ),
    ),
)
