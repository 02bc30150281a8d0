# How every run behaves: saving, logging, seeds. The model's config says the default_scope.
#
# TensorBoard or W&B beside the local files (each needs its package: pip install tensorboard, pip install wandb):
#   --cfg-options visualizer.vis_backends="[{'type': 'LocalVisBackend'}, {'type': 'TensorboardVisBackend'}]"
#   --cfg-options visualizer.vis_backends="[{'type': 'LocalVisBackend'}, {'type': 'WandbVisBackend'}]"
default_hooks = dict(
    runtime_info=dict(type="RuntimeInfoHook"),
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    # epoch_N.pth to resume from, epoch_N_student.pth and student.py to use; and the best by the
    # first metric of the evaluator, or by save_best='<metric>'
    checkpoint=dict(type="perceptkd.StudentCheckpointHook", interval=1, max_keep_ckpts=3, save_best="auto"),
    # draws in tests: tools/test.py --show-dir
    visualization=dict(type="perceptkd.BEVVisualizationHook", draw=False),
)
# exact resume and matched controls (with perceptkd.SeededDataset around the training data), and the progress bar
custom_hooks = [dict(type="perceptkd.SeedEpochHook"), dict(type="perceptkd.DistillLogHook")]

vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="Visualizer", vis_backends=vis_backends)
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"

env_cfg = dict(
    cudnn_benchmark=False,  # it picks algorithms by timing, so that two runs differ
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
randomness = dict(seed=0)

load_from = None
resume = False
