# PointDistiller on both levels of the BEV backbone: SECOND teaches one with a quarter of its parameters, on SimWorld as
# KITTI.
_base_ = ["../kitti/second_sim.py"]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student=dict(config="configs/kitti/second_sim.py", compression=4),
    teachers=dict(
        wide=dict(config="configs/kitti/second_sim.py", checkpoint="work_dirs/teachers/second_sim/epoch_4.pth")
    ),
    distillers=[
        dict(
            type="perceptkd.PointDistiller",
            teacher="wide",
            on="maps",
            student_channels=[64, 128],
            teacher_channels=[128, 256],
        )
    ],
)
