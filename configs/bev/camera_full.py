# Camera detector (LSS): the student of the LiDAR to camera jobs.
_base_ = [
    "../_base_/models/bev_camera_full.py",
    "../_base_/datasets/nuscenes_full.py",
    "../_base_/schedules/bev_full.py",
    "../_base_/runtime/default.py",
]

train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(pipeline={{_base_.camera_train_pipeline}}))))
val_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
default_hooks = dict(checkpoint=dict(save_best="nuscenes/mAP", rule="greater"))
