# UniDistill as its released code trains it, faults included (docs/methods/unidistill.md): exchanged axes, temperature
# on the teacher alone, BatchNorm of the teacher on the student's batch, no adapters.
_base_ = ["../bev/lidar_voxel_released.py"]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        fusion=dict(
            config="configs/bev/fusion_released.py",
            checkpoint="work_dirs/teachers/fusion_released/epoch_20.pth",
            norm="train",
        )
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="fusion",
            weights=dict(feature=10.0, relation=1.0, response=10.0),
            adapters=dict(low=None),
            legacy=True,
        )
    ],
)
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(pipeline={{_base_.train_pipeline}}))))
