# 8 passes over the 720 frames of the splits, 1440 steps. The validation before the last fifth shows whether a run has
# settled.
_base_ = ["./bev_sim.py"]

train_cfg = dict(max_epochs=8, val_begin=6, val_interval=2)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=8, end=8, eta_min=0.0, by_epoch=True, convert_to_iter_based=True),
]
