# 2880 steps, 4 passes over the 720 frames of the splits in batches of 1. The validation before the last fifth shows
# whether a run has settled. Counted in steps, so checkpoints and logs have to be as well.
_base_ = ["./bev_sim.py"]

train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=2880, val_begin=2304, val_interval=576)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=2880, end=2880, eta_min=0.0, by_epoch=False),
]
