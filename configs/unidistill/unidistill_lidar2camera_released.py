# UniDistill as its released code trains it, faults included (docs/methods/unidistill.md): exchanged axes, temperature
# on the teacher alone, BatchNorm of the teacher on the student's batch, no adapters.
_base_ = ["../bev/camera_released.py"]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        lidar=dict(
            config="configs/bev/lidar_voxel_released.py",
            checkpoint="work_dirs/teachers/lidar_voxel_released/epoch_20.pth",
            norm="train",
        )
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="lidar",
            weights=dict(feature=100.0, relation=40.0, response=10.0),
            adapters=dict(low=None),
            legacy=True,
        )
    ],
)
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(pipeline={{_base_.train_pipeline}}))))
