# PointDistiller on pillars and SparseKD at positive anchors, both with their weights: PointPillars teaches one with a
# quarter of its parameters, on SimWorld as KITTI.
_base_ = ["./pointdistiller_pointpillars_4x_sim.py"]

model = dict(
    distillers=[
        dict(type="perceptkd.PointDistiller", teacher="wide", student_channels=32, teacher_channels=64),
        dict(type="perceptkd.SparseKD", teacher="wide"),
    ]
)
