# 4 passes at half the learning rate of a training from scratch, for weights that are trained already. The validation
# before the last shows whether a run has settled.
_base_ = ["./bev_sim.py"]

train_cfg = dict(val_begin=3, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
