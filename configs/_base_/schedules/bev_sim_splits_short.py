# 1440 steps, 2 passes over the 720 frames of the splits: for a student that starts from trained weights. The validation
# before the last fifth shows whether a run has settled. Counted in steps, so checkpoints and logs have to be as well.
_base_ = ["./bev_sim.py"]

train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=1440, val_begin=1152, val_interval=288)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=1440, end=1440, eta_min=0.0, by_epoch=False),
]
