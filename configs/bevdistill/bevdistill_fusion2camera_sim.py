# BEVDistill, dense part: a detector with LiDAR and cameras teaches a camera detector, on SimWorld's splits.
# The weight is that of lidar2camera.
_base_ = ["../unidistill/unidistill_fusion2camera_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.BEVDistill",
            teacher="fusion",
            weights=dict(dense=0.1),
            adapters=dict(bev=dict(type="conv", kernel=3, norm=True, in_channels=128, out_channels=128)),
        )
    ]
)
