# DistillBEV: a detector with LiDAR and cameras teaches a camera detector, on SimWorld's splits.
# The weights are those of lidar2camera.
_base_ = ["../unidistill/unidistill_fusion2camera_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.DistillBEV",
            teacher="fusion",
            weights=dict(foreground=0.0006, false_positive=0.006, background=0.004, attention=0.00025),
            adapters=dict(
                shallow=dict(type="conv", in_channels=64, out_channels=64),
                deep=dict(type="conv", in_channels=128, out_channels=128),
                neck=dict(type="conv", in_channels=128, out_channels=128),
            ),
        )
    ]
)
