# unidistill_lidar2camera_sim.py on the smaller world of `make demo`.
_base_ = [
    "../_base_/models/bev_camera_sim.py",
    "../_base_/datasets/nuscenes_sim_demo.py",
    "../_base_/schedules/bev_sim.py",
    "../_base_/runtime/default.py",
]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        lidar=dict(
            config="configs/unidistill/lidar_voxel_demo.py",
            checkpoint="work_dirs/teachers/lidar_voxel_demo/epoch_4.pth",
        )
    ),
    # a tenth of the published weights
    distillers=[
        dict(type="perceptkd.UniDistill", teacher="lidar", weights=dict(feature=10.0, relation=4.0, response=1.0))
    ],
)
train_dataloader = dict(batch_size=1)
val_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.camera_test_pipeline}}))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = dict(checkpoint=dict(save_best="nuscenes/near_mAP", rule="greater"))
