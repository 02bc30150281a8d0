# LiDAR detector with sparse convolution: the teacher of the `sim` jobs.
_base_ = [
    "../_base_/models/bev_lidar_voxel_sim.py",
    "../_base_/datasets/nuscenes_sim.py",
    "../_base_/schedules/bev_sim.py",
    "../_base_/runtime/default.py",
]

train_dataloader = dict(dataset=dict(dataset=dict(pipeline={{_base_.lidar_train_pipeline}})))
val_dataloader = dict(dataset=dict(pipeline={{_base_.lidar_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.lidar_test_pipeline}}))
default_hooks = dict(checkpoint=dict(save_best="nuscenes/near_mAP", rule="greater"))
