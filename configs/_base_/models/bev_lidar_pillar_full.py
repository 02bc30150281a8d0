# The compact LiDAR model on the same grid: one pillar per cell of 0.6 x 0.6 m.
_base_ = ["./bev_shared_full.py"]

model = dict(
    data_preprocessor=dict(
        voxelize=dict(
            voxel_size=[0.6, 0.6, 8.0],
            point_cloud_range={{_base_.point_cloud_range}},
            max_points=20,
            max_voxels=(30000, 32400),
        )
    ),
    lidar_encoder=dict(
        type="perceptkd.LidarEncoder",
        voxel_encoder=dict(
            type="mmdet3d.PillarFeatureNet",
            in_channels=5,
            feat_channels=[64, 256],
            voxel_size=[0.6, 0.6, 8.0],
            point_cloud_range={{_base_.point_cloud_range}},
            legacy=False,
        ),
        middle_encoder=dict(type="mmdet3d.PointPillarsScatter", in_channels=256, output_shape=[180, 180]),
    ),
)
