# PointDistiller on pillars: PointPillars teaches one with a quarter of its parameters, on SimWorld as KITTI.
_base_ = ["../kitti/pointpillars_sim.py"]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student=dict(config="configs/kitti/pointpillars_sim.py", compression=4),
    teachers=dict(
        wide=dict(
            config="configs/kitti/pointpillars_sim.py",
            checkpoint="work_dirs/teachers/pointpillars_sim/epoch_4.pth",
        )
    ),
    distillers=[dict(type="perceptkd.PointDistiller", teacher="wide", student_channels=32, teacher_channels=64)],
)
