# PointDistiller where the paper has it for PointPillars: on pillars, with graphs around those with the most points.
_base_ = ["./pointdistiller_pointpillars_4x_sim.py"]

model = dict(
    distillers=[dict(type="perceptkd.PointDistiller", teacher="wide", student_channels=32, teacher_channels=64)]
)
