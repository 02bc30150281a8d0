# BEVDistill, dense part: a LiDAR detector teaches a camera detector, on SimWorld's splits train, tune and report.
_base_ = ["../unidistill/unidistill_lidar2camera_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.BEVDistill",
            teacher="lidar",
            adapters=dict(bev=dict(type="conv", kernel=3, norm=True, in_channels=128, out_channels=128)),
        )
    ]
)
