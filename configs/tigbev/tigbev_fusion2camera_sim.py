# TiG-BEV: a detector with LiDAR and cameras teaches a camera detector, on SimWorld's splits.
# The weights are those of lidar2camera, a tenth of the published ones.
_base_ = ["../unidistill/unidistill_fusion2camera_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.TiGBEV",
            teacher="fusion",
            weights=dict(inner_depth=0.1, inter_channel=1.0, inter_keypoint=10.0),
            adapters=dict(channel=dict(type="conv", in_channels=128, out_channels=128)),
        )
    ]
)
