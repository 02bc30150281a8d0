# UniDistill as its released code trains it, faults included (docs/methods/unidistill.md): exchanged axes, temperature
# on the teacher alone, BatchNorm of the teacher on the student's batch, no adapters.
_base_ = ["./unidistill_lidar2camera_released.py"]

model = dict(
    teachers=dict(
        _delete_=True,
        fusion=dict(
            config="configs/bev/fusion_released.py",
            checkpoint="work_dirs/teachers/fusion_released/epoch_20.pth",
            norm="train",
        ),
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="fusion",
            weights=dict(feature=10.0, relation=5.0, response=10.0),
            adapters=dict(low=None),
            legacy=True,
            clamp=1e-3,
        )
    ],
)
