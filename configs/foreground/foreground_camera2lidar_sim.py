# Foreground distillation: a camera detector teaches a compact LiDAR detector, on SimWorld's splits.
_base_ = ["../unidistill/unidistill_camera2lidar_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.ForegroundDistill",
            teacher="camera",
            # the teacher is the weaker one: an adapter before what the student imitates
            adapters=dict(low=dict(type="conv", kernel=3, norm=True, in_channels=64, out_channels=64)),
        )
    ]
)
