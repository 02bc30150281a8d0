# unidistill_lidar2camera_sim.py with augmentation, in twice as many steps: 8 passes over the 720 frames.
_base_ = ["./unidistill_lidar2camera_sim.py"]

train_dataloader = dict(dataset=dict(dataset=dict(pipeline={{_base_.train_pipeline}})))
train_cfg = dict(max_iters=5760, val_begin=4608, val_interval=1152)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=5760, end=5760, eta_min=0.0, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=1152))
