# Camera detector (LSS): the student of the LiDAR to camera jobs. From scratch, many small steps teach it most: a sample
# is six images.
_base_ = [
    "../_base_/models/bev_camera_sim.py",
    "../_base_/datasets/nuscenes_sim.py",
    "../_base_/schedules/bev_sim.py",
    "../_base_/runtime/default.py",
]

train_dataloader = dict(batch_size=1, dataset=dict(dataset=dict(pipeline={{_base_.camera_train_pipeline}})))
val_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = dict(checkpoint=dict(save_best="nuscenes/near_mAP", rule="greater"))
