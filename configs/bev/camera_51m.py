# camera_full.py on the grid of mmdet3d's pillar detectors: +-51.2 m, 128 x 128 cells of 0.8 m.
_base_ = ["./camera_full.py"]

area = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
model = dict(
    point_cloud_range=area,
    cell_size_m=0.8,
    camera_encoder=dict(view_transform=dict(point_cloud_range=area, cell_size_m=0.8)),
    bbox_head=dict(bbox_coder=dict(pc_range=area[:2], voxel_size=[0.8, 0.8])),
    train_cfg=dict(grid_size=[128, 128, 1], voxel_size=[0.8, 0.8, 8.0], point_cloud_range=area),
)

finish = [dict(type="perceptkd.FilterRange", point_cloud_range=area), *_base_.finish[1:]]
train_pipeline = [_base_.load_lidar, _base_.load_cameras, *_base_.augment_scene, _base_.augment_cameras, *finish]
camera_train_pipeline = train_pipeline[1:]
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(pipeline=camera_train_pipeline))))
