# UniDistill at its published size on nuScenes: a camera detector teaches a detector with LiDAR and cameras.
# Not a path of the paper; weights after those from camera to LiDAR.
_base_ = ["./unidistill_lidar2fusion_full.py"]

model = dict(
    teachers=dict(
        _delete_=True,
        camera=dict(config="configs/bev/camera_full.py", checkpoint="work_dirs/teachers/camera_full/epoch_20.pth"),
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="camera",
            weights=dict(feature=10.0, relation=5.0, response=1.0),
            # the teacher is the weaker one: the paper puts an adapter before what the student imitates
            adapters=dict(
                low=dict(type="conv", kernel=3, norm=True, in_channels=256, out_channels=256),
                high=dict(type="conv", kernel=3, norm=True, in_channels=512, out_channels=512),
            ),
        )
    ],
)
