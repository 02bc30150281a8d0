# The `sim` camera detector with the weights that it learned alone; tools/compare.py trains them where they are missing.
_base_ = ["./bev_camera_sim.py"]

pretrained = dict(
    student=dict(
        config="configs/unidistill/camera_sim_splits.py",
        checkpoint="work_dirs/pretrained/camera_sim_splits/epoch_8.pth",
    )
)
model = dict(init_cfg=dict(type="Pretrained", checkpoint=pretrained["student"]["checkpoint"]))
