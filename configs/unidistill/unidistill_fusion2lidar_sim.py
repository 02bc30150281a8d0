# UniDistill: a detector with LiDAR and cameras teaches a compact LiDAR detector, on SimWorld's splits.
# The student's fuser passes pillars on, which are zero between the points: 'low' is read one stage later. The weights
# are those of lidar2camera; no others did better on tune.
_base_ = [
    "../_base_/models/bev_lidar_pillar_sim.py",
    "../_base_/datasets/nuscenes_sim_splits.py",
    "../_base_/schedules/bev_sim.py",
    "../_base_/runtime/default.py",
]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        fusion=dict(
            config="configs/unidistill/fusion_sim_splits.py",
            checkpoint="work_dirs/teachers/fusion_sim_splits/epoch_8.pth",
        )
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="fusion",
            student_taps=dict(low="backbone[0]"),
            teacher_taps=dict(low="backbone[0]"),
            weights=dict(feature=10.0, relation=4.0, response=1.0),
        )
    ],
)
train_cfg = dict(val_begin=3, val_interval=1)  # a validation before the last fifth shows whether a run has settled
val_dataloader = dict(dataset=dict(pipeline={{_base_.lidar_test_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.lidar_test_pipeline}}))
default_hooks = dict(checkpoint=dict(save_best="nuscenes/near_mAP", rule="greater"))
