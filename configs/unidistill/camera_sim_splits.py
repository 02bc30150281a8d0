# The teacher of unidistill_camera2lidar_sim.py: the student of unidistill_lidar2camera_sim_long.py, without a teacher.
_base_ = [
    "../_base_/models/bev_camera_sim.py",
    "../_base_/datasets/nuscenes_sim_splits.py",
    "../_base_/schedules/bev_sim_splits_long.py",
    "../_base_/runtime/default.py",
]

train_dataloader = dict(batch_size=1, dataset=dict(dataset=dict(pipeline={{_base_.camera_train_pipeline}})))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
val_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1152, save_best="nuscenes/near_mAP", rule="greater"))
log_processor = dict(by_epoch=False)
