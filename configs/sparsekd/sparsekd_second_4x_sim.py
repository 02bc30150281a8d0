# SparseKD at positive anchors: SECOND teaches one with a quarter of its parameters, on SimWorld as KITTI.
_base_ = ["../pointdistiller/pointdistiller_second_4x_sim.py"]

model = dict(distillers=[dict(type="perceptkd.SparseKD", teacher="wide", weights=dict(cls=5.0, reg=2.0))])
