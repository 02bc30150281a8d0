# PointDistiller on the map of the neck: CenterPoint teaches one with a quarter of its parameters, on SimWorld as KITTI.
_base_ = ["../kitti/centerpoint_sim.py"]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student=dict(config="configs/kitti/centerpoint_sim.py", compression=4),
    teachers=dict(
        wide=dict(
            config="configs/kitti/centerpoint_sim.py", checkpoint="work_dirs/teachers/centerpoint_sim/epoch_4.pth"
        )
    ),
    distillers=[
        dict(
            type="perceptkd.PointDistiller",
            teacher="wide",
            on="maps",
            student_taps=dict(feature="pts_neck[0]"),
            teacher_taps=dict(feature="pts_neck[0]"),
            student_channels=192,
            teacher_channels=384,
            out_channels=64,
        )
    ],
)
