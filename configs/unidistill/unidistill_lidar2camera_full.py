# UniDistill at its published size on nuScenes: ResNet-50 at 256 x 704 under a LiDAR detector of 0.075 m voxels.
_base_ = ["../bev/camera_full.py"]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        lidar=dict(
            config="configs/bev/lidar_voxel_full.py", checkpoint="work_dirs/teachers/lidar_voxel_full/epoch_20.pth"
        )
    ),
    distillers=[
        dict(type="perceptkd.UniDistill", teacher="lidar", weights=dict(feature=100.0, relation=40.0, response=10.0))
    ],
)
# The student reads no points, but its teacher does.
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(pipeline={{_base_.train_pipeline}}))))
