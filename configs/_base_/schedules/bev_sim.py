# 4 passes in batches of 4, annealed to zero so that results can be compared: 320 steps over the v1.0-mini world.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=4, val_interval=4)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="perceptkd.AmpOptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.01, fused=True),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=4, end=4, eta_min=0.0, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
