# UniDistill's LiDAR detector as released: nine hard positives a box, IoU-ranked NMS, its sweeps and voxel limit.
_base_ = [
    "../_base_/models/bev_lidar_voxel_full.py",
    "../_base_/datasets/nuscenes_released.py",
    "../_base_/schedules/bev_full.py",
    "../_base_/runtime/default.py",
]

model = dict(
    data_preprocessor=dict(voxelize=dict(max_voxels=(120000, 120000))),
    bbox_head=dict(type="perceptkd.IoUCenterHead", legacy=True, common_heads=dict(iou=(1, 2))),
    test_cfg=dict(nms_thr=0.1, pre_max_size=1500, post_max_size=100),
)
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(pipeline={{_base_.lidar_train_pipeline}}))))
val_dataloader = dict(dataset=dict(pipeline={{_base_.lidar_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.lidar_test_pipeline}}))
default_hooks = dict(checkpoint=dict(save_best="nuscenes/mAP", rule="greater"))
