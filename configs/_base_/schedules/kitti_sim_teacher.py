# 8 passes, 2880 steps: after the students' 4 a teacher still gains much, and what it has not learnt it cannot teach.
_base_ = ["./kitti_sim.py"]

train_cfg = dict(max_epochs=8, val_begin=6, val_interval=2)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=8, end=8, eta_min=0.0, by_epoch=True, convert_to_iter_based=True),
]
