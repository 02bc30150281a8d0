# PointDistiller and SparseKD together.
_base_ = ["./pointdistiller_centerpoint_4x_sim.py"]

bev = dict(path="pts_neck[0]", layout="yx", extent=(0.0, -19.2, 51.2, 19.2))
head = dict(path="pts_bbox_head", layout="yx", extent=(0.0, -19.2, 51.2, 19.2))
model = dict(
    distillers=[
        dict(
            type="perceptkd.PointDistiller",
            teacher="wide",
            on="maps",
            student_taps=dict(feature=bev),
            teacher_taps=dict(feature=bev),
            student_channels=192,
            teacher_channels=384,
            out_channels=64,
            importance="boxes",
            k=16,
        ),
        dict(
            type="perceptkd.SparseKD",
            teacher="wide",
            student_taps=dict(response=head),
            teacher_taps=dict(response=head),
        ),
    ]
)
