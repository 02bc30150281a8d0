# UniDistill at its published size on nuScenes: a LiDAR detector teaches a detector with LiDAR and cameras.
# Not a path of the paper; weights after those from fusion to camera.
_base_ = ["../bev/fusion_full.py"]

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
        dict(
            type="perceptkd.UniDistill",
            teacher="lidar",
            weights=dict(feature=10.0, relation=5.0, response=10.0),
        )
    ],
)
