# UniDistill at its published input size on one real key frame: the camera student must train under the LiDAR teacher.
_base_ = ["../bev/camera_frame.py"]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        lidar=dict(
            config="configs/bev/lidar_voxel_frame.py", checkpoint="work_dirs/teachers/lidar_voxel_frame/epoch_4.pth"
        )
    ),
    distillers=[
        dict(type="perceptkd.UniDistill", teacher="lidar", weights=dict(feature=100.0, relation=40.0, response=10.0))
    ],
)
