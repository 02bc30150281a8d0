# PointDistiller on both levels of the BEV backbone: voxels teach pillars, on SimWorld's splits train, tune and report.
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
            type="perceptkd.PointDistiller",
            teacher="lidar",
            on="maps",
            student_channels=[64, 128],
            teacher_channels=[64, 128],
        )
    ],
)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline={{_base_.lidar_train_pipeline}})))
