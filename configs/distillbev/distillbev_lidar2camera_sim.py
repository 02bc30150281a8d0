# DistillBEV: a LiDAR detector teaches a camera detector, on SimWorld's splits train, tune and report.
_base_ = ["../unidistill/unidistill_lidar2camera_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.DistillBEV",
            teacher="lidar",
            adapters=dict(
                shallow=dict(type="conv", in_channels=64, out_channels=64),
                deep=dict(type="conv", in_channels=128, out_channels=128),
                neck=dict(type="conv", in_channels=128, out_channels=128),
            ),
        )
    ]
)
