# Pillars of 1.2 x 1.2 m, one per cell: the compact LiDAR model.
_base_ = ["./bev_shared_sim.py"]

model = dict(
    data_preprocessor=dict(
        voxelize=dict(
            voxel_size=[1.2, 1.2, 8.0],
            point_cloud_range={{_base_.point_cloud_range}},
            max_points=20,
            max_voxels=(2304, 2304),
        )
    ),
    lidar_encoder=dict(
        type="perceptkd.LidarEncoder",
        channels_last=True,
        voxel_encoder=dict(
            type="mmdet3d.PillarFeatureNet",
            in_channels=5,
            feat_channels=[64],
            voxel_size=[1.2, 1.2, 8.0],
            point_cloud_range={{_base_.point_cloud_range}},
            norm_cfg=dict(type="BN1d", eps=1e-3, momentum=0.05),
            legacy=False,
        ),
        middle_encoder=dict(type="mmdet3d.PointPillarsScatter", in_channels=64, output_shape=[48, 48]),
    ),
)
