# PointDistiller on pillars: PointPillars teaches one with a sixteenth of its parameters, on SimWorld as KITTI.
_base_ = ["./pointdistiller_pointpillars_4x_sim.py"]

model = dict(
    student=dict(compression=16),
    distillers=[
        dict(
            type="perceptkd.PointDistiller",
            teacher="wide",
            student_channels=16,
            teacher_channels=64,
            out_channels=16,  # as published
        )
    ],
)
