# The full-size LiDAR detector on one real key frame: it must be able to fit it.
_base_ = [
    "../_base_/models/bev_lidar_voxel_full.py",
    "../_base_/datasets/nuscenes_frame.py",
    "../_base_/schedules/bev_frame.py",
    "../_base_/runtime/default.py",
]

default_hooks = dict(checkpoint=dict(save_best="boxes/recall", rule="greater"))
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(pipeline={{_base_.lidar_train_pipeline}}))))
