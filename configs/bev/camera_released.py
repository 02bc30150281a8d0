# UniDistill's camera detector as released: nine hard positives a box, IoU-ranked NMS.
_base_ = [
    "../_base_/models/bev_camera_full.py",
    "../_base_/datasets/nuscenes_released.py",
    "../_base_/schedules/bev_full.py",
    "../_base_/runtime/default.py",
]

model = dict(
    bbox_head=dict(type="perceptkd.IoUCenterHead", legacy=True, common_heads=dict(iou=(1, 2))),
    test_cfg=dict(nms_thr=0.1, pre_max_size=1500, post_max_size=100),
)
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(pipeline={{_base_.camera_train_pipeline}}))))
val_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
default_hooks = dict(checkpoint=dict(save_best="nuscenes/mAP", rule="greater"))
