# The full-size camera detector on one real key frame; ResNet-50 starts from scratch, so nothing is downloaded.
_base_ = [
    "../_base_/models/bev_camera_full.py",
    "../_base_/datasets/nuscenes_frame.py",
    "../_base_/schedules/bev_frame.py",
    "../_base_/runtime/default.py",
]

default_hooks = dict(checkpoint=dict(save_best="boxes/recall", rule="greater"))
model = dict(camera_encoder=dict(backbone=dict(init_cfg=None, frozen_stages=-1)))
val_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
