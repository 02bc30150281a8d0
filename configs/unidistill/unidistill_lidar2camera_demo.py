# UniDistill as `make demo` runs it: unidistill_lidar2camera_sim.py on the ten scenes of SimWorld's v1.0-mini.
_base_ = ["../bev/camera_sim.py"]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        lidar=dict(config="configs/bev/lidar_voxel_sim.py", checkpoint="work_dirs/teachers/lidar_voxel_sim/epoch_4.pth")
    ),
    distillers=[
        dict(type="perceptkd.UniDistill", teacher="lidar", weights=dict(feature=100.0, relation=40.0, response=10.0))
    ],
)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline={{_base_.train_pipeline}})))
