# 3 passes at half the learning rate of a training from scratch, for weights that are trained already. The validation
# before the last shows whether a run has settled.
_base_ = ["./bev_sim.py"]

train_cfg = dict(max_epochs=3, val_begin=2, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=3, end=3, eta_min=0.0, by_epoch=True, convert_to_iter_based=True),
]
