# UniDistill at its published size on nuScenes: a detector with LiDAR and cameras teaches a camera detector.
_base_ = ["./unidistill_lidar2camera_full.py"]

model = dict(
    teachers=dict(
        _delete_=True,
        fusion=dict(config="configs/bev/fusion_full.py", checkpoint="work_dirs/teachers/fusion_full/epoch_20.pth"),
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="fusion",
            weights=dict(feature=10.0, relation=5.0, response=10.0),
            clamp=1e-3,
        )
    ],
)
