# itKD: a LiDAR detector on voxels teaches one on pillars, on SimWorld's splits train, tune and report.
_base_ = ["../unidistill/unidistill_fusion2lidar_sim.py"]

model = dict(
    teachers=dict(
        _delete_=True,
        lidar=dict(
            config="configs/unidistill/lidar_voxel_sim_splits.py",
            checkpoint="work_dirs/teachers/lidar_voxel_sim_splits/epoch_8.pth",
        ),
    ),
    distillers=[
        dict(
            type="perceptkd.ItKD",
            teacher="lidar",
            student_channels=128,
            teacher_channels=128,
            task_classes=[1, 4, 5],
        )
    ],
)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline={{_base_.lidar_train_pipeline}})))
