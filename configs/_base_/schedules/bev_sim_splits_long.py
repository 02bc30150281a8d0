# Twice the steps of bev_sim_splits_camera.py, for a camera detector that teaches.
_base_ = ["./bev_sim_splits_camera.py"]

train_cfg = dict(max_iters=5760, val_begin=4608, val_interval=1152)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=5760, end=5760, eta_min=0.0, by_epoch=False),
]
