# TiG-BEV: a LiDAR detector teaches a camera detector, on SimWorld's splits train, tune and report.
# The weights are a tenth of the published ones; the depth term comes on top of the student's own depth loss.
_base_ = ["../unidistill/unidistill_lidar2camera_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.TiGBEV",
            teacher="lidar",
            weights=dict(inner_depth=0.1, inter_channel=1.0, inter_keypoint=10.0),
            adapters=dict(channel=dict(type="conv", in_channels=128, out_channels=128)),
        )
    ]
)
