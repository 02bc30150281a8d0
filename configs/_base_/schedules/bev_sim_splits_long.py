# 12 passes over the 480 frames of the splits: what a camera detector needs from scratch.
_base_ = ["./bev_sim.py"]

train_cfg = dict(max_epochs=12, val_interval=12)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=12, end=12, eta_min=0.0, by_epoch=True, convert_to_iter_based=True),
]
