# BEVDistill, dense part: a LiDAR detector teaches a camera detector, on SimWorld's splits train, tune and report.
# Ten times the released weight, chosen on tune: the map has half of the released channels.
_base_ = ["../unidistill/unidistill_lidar2camera_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.BEVDistill",
            teacher="lidar",
            weights=dict(dense=0.1),
            adapters=dict(bev=dict(type="conv", kernel=3, norm=True, in_channels=128, out_channels=128)),
        )
    ]
)
