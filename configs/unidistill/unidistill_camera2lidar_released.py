# UniDistill as its released code trains it, faults included (docs/methods/unidistill.md): exchanged axes, temperature
# on the teacher alone, BatchNorm of the teacher on the student's batch, no adapters.
_base_ = ["./unidistill_fusion2lidar_released.py"]

model = dict(
    teachers=dict(
        _delete_=True,
        camera=dict(
            config="configs/bev/camera_released.py",
            checkpoint="work_dirs/teachers/camera_released/epoch_20.pth",
            norm="train",
        ),
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="camera",
            weights=dict(feature=10.0, relation=5.0, response=1.0),
            adapters=dict(low=None),
            legacy=True,
        )
    ],
)
