# UniDistill: a camera detector teaches a compact LiDAR detector, on SimWorld's splits.
# The weights are a tenth of the published ones, as those of lidar2camera.
_base_ = ["./unidistill_fusion2lidar_sim.py"]

model = dict(
    teachers=dict(
        _delete_=True,
        camera=dict(
            config="configs/unidistill/camera_sim_splits.py",
            checkpoint="work_dirs/teachers/camera_sim_splits/iter_5760.pth",
        ),
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="camera",
            weights=dict(feature=1.0, relation=0.5, response=0.1),
            # the teacher is the weaker one: the paper puts an adapter before what the student imitates
            adapters=dict(
                low=dict(type="conv", kernel=3, norm=True, in_channels=64, out_channels=64),
                high=dict(type="conv", kernel=3, norm=True, in_channels=128, out_channels=128),
            ),
        )
    ],
)
