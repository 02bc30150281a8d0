# UniDistill: a camera detector teaches a compact LiDAR detector, on SimWorld's splits.
# The weights are a tenth of the published ones, as those of lidar2camera.
_base_ = [
    "../_base_/models/bev_lidar_pillar_sim.py",
    "../_base_/datasets/nuscenes_sim_splits.py",
    "../_base_/schedules/bev_sim_splits.py",
    "../_base_/runtime/default.py",
]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        camera=dict(
            config="configs/unidistill/camera_sim_splits.py",
            checkpoint="work_dirs/teachers/camera_sim_splits/iter_5760.pth",
        )
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="camera",
            weights=dict(feature=1.0, relation=0.5, response=0.1),
            # the teacher is the weaker one: the paper puts an adapter before what the student imitates
            adapters=dict(
                low=dict(type="conv", kernel=3, norm=True, in_channels=64, out_channels=64),
                high=dict(type="conv", kernel=3, norm=True, in_channels=128, out_channels=128),
            ),
        )
    ],
)
val_dataloader = dict(dataset=dict(pipeline={{_base_.lidar_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.lidar_test_pipeline}}))
default_hooks = dict(checkpoint=dict(save_best="nuscenes/near_mAP", rule="greater"))
