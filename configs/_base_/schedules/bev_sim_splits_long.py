# 5760 steps, 8 passes over the 720 frames of the splits: what a camera detector needs from scratch. The validation
# before the last fifth shows whether a run has settled. Counted in steps, so checkpoints and logs have to be as well.
_base_ = ["./bev_sim.py"]

train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=5760, val_begin=4608, val_interval=1152)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=5760, end=5760, eta_min=0.0, by_epoch=False),
]
