# UniDistill: a LiDAR detector teaches a detector with LiDAR and cameras, on SimWorld's splits.
# Not a path of the paper; weights after those from fusion to camera.
_base_ = [
    "../_base_/models/bev_fusion_sim.py",
    "../_base_/datasets/nuscenes_sim_splits.py",
    "../_base_/schedules/bev_sim_splits.py",
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
        dict(
            type="perceptkd.UniDistill",
            teacher="lidar",
            weights=dict(feature=1.0, relation=0.5, response=1.0),
        )
    ],
)
default_hooks = dict(checkpoint=dict(save_best="nuscenes/near_mAP", rule="greater"))
