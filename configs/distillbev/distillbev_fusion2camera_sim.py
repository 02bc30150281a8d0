# DistillBEV: a detector with LiDAR and cameras teaches a camera detector, on SimWorld's splits.
_base_ = ["../unidistill/unidistill_fusion2camera_sim.py"]

adapters = dict(
    shallow=dict(type="conv", in_channels=64, out_channels=64),
    deep=dict(type="conv", in_channels=128, out_channels=128),
    neck=dict(type="conv", in_channels=128, out_channels=128),
)
model = dict(distillers=[dict(type="perceptkd.DistillBEV", teacher="fusion", adapters=adapters)])
