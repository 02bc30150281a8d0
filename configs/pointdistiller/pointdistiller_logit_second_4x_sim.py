# PointDistiller and SparseKD together.
_base_ = ["./pointdistiller_second_4x_sim.py"]

bev = dict(path="neck[0]", layout="yx", extent=(0.0, -19.2, 51.2, 19.2))
model = dict(
    distillers=[
        dict(
            type="perceptkd.PointDistiller",
            teacher="wide",
            on="maps",
            student_taps=dict(feature=bev),
            teacher_taps=dict(feature=bev),
            student_channels=256,
            teacher_channels=512,
            out_channels=64,
            importance="boxes",
            k=16,
        ),
        dict(type="perceptkd.SparseKD", teacher="wide", weights=dict(cls=5.0, reg=2.0)),
    ]
)
