# Voxels of 0.3 x 0.3 x 0.4 m, sparse convolution to stride 4: 32 channels x 2 height cells.
_base_ = ["./bev_shared_sim.py"]

model = dict(
    data_preprocessor=dict(
        voxelize=dict(
            voxel_size=[0.3, 0.3, 0.4],
            point_cloud_range={{_base_.point_cloud_range}},
            max_points=10,
            max_voxels=(40000, 40000),
        )
    ),
    lidar_encoder=dict(
        type="perceptkd.LidarEncoder",
        channels_last=True,
        voxel_encoder=dict(type="mmdet3d.HardSimpleVFE", num_features=5),
        middle_encoder=dict(
            type="mmdet3d.SparseEncoder",
            in_channels=5,
            sparse_shape=[21, 192, 192],
            order=("conv", "norm", "act"),
            norm_cfg=dict(type="BN1d", eps=1e-3, momentum=0.05),
            base_channels=16,
            output_channels=32,
            encoder_channels=((16,), (32, 32), (64,)),
            encoder_paddings=((1,), (1, 1), (1,)),
        ),
    ),
)
