# 4 passes in batches of 2, annealed to zero so that results can be compared: 1440 steps over the 720 frames of the
# training split. The validation before the last fifth shows whether a run has settled.
_base_ = ["./bev_sim.py"]

train_cfg = dict(val_begin=3, val_interval=1)
auto_scale_lr = dict(base_batch_size=2)
