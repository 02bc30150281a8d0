# SparseKD at object centres: CenterPoint teaches one with a quarter of its parameters, on SimWorld as KITTI.
_base_ = ["../pointdistiller/pointdistiller_centerpoint_4x_sim.py"]

head = dict(path="pts_bbox_head", layout="yx", extent=(0.0, -19.2, 51.2, 19.2))
model = dict(
    distillers=[
        dict(
            type="perceptkd.SparseKD",
            teacher="wide",
            student_taps=dict(response=head),
            teacher_taps=dict(response=head),
        )
    ]
)
