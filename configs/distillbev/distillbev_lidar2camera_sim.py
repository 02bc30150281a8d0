# DistillBEV: a LiDAR detector teaches a camera detector, on SimWorld's splits train, tune and report.
# A tenth of the released weights, chosen on tune.
_base_ = ["../unidistill/unidistill_lidar2camera_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.DistillBEV",
            teacher="lidar",
            weights=dict(foreground=0.0006, false_positive=0.006, background=0.004, attention=0.00025),
            adapters=dict(
                shallow=dict(type="conv", in_channels=64, out_channels=64),
                deep=dict(type="conv", in_channels=128, out_channels=128),
                neck=dict(type="conv", in_channels=128, out_channels=128),
            ),
        )
    ]
)
