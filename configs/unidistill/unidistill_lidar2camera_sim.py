# UniDistill: a LiDAR detector teaches a camera detector, on SimWorld's splits train, tune and report.
# The weights are a tenth of the published ones.
_base_ = [
    "../_base_/models/bev_camera_sim.py",
    "../_base_/datasets/nuscenes_sim_splits_fixed.py",
    "../_base_/schedules/bev_sim_splits_camera.py",
    "../_base_/runtime/default.py",
]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        lidar=dict(
            config="configs/unidistill/lidar_voxel_sim_splits.py",
            checkpoint="work_dirs/teachers/lidar_voxel_sim_splits/epoch_8.pth",
        )
    ),
    distillers=[
        dict(type="perceptkd.UniDistill", teacher="lidar", weights=dict(feature=10.0, relation=4.0, response=1.0))
    ],
)
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
val_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=576, save_best="nuscenes/near_mAP", rule="greater"))
log_processor = dict(by_epoch=False)
