# The camera student of unidistill_lidar2camera_sim.py before it meets its teacher: trained alone, on the same frames.
# Both the control and the distilled student go on from its weights. Nothing here starts from ImageNet, and from scratch
# a camera needs longer than a comparison of several seeds has.
_base_ = [
    "../_base_/models/bev_camera_sim.py",
    "../_base_/datasets/nuscenes_sim_splits.py",
    "../_base_/schedules/bev_sim_splits_long.py",
    "../_base_/runtime/default.py",
]

train_dataloader = dict(batch_size=1, dataset=dict(dataset=dict(pipeline={{_base_.camera_train_pipeline}})))
val_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = dict(checkpoint=dict(save_best="nuscenes/near_mAP", rule="greater"))
