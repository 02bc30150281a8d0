# PointDistiller and SparseKD together.
_base_ = ["./pointdistiller_second_4x_sim.py"]

model = dict(
    distillers=[
        _base_.model.distillers[0],
        dict(type="perceptkd.SparseKD", teacher="wide", weights=dict(cls=5.0, reg=2.0)),
    ]
)
