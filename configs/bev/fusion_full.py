# LiDAR and camera detector, fused by channel attention.
_base_ = [
    "../_base_/models/bev_fusion_full.py",
    "../_base_/datasets/nuscenes_full.py",
    "../_base_/schedules/bev_full.py",
    "../_base_/runtime/default.py",
]

default_hooks = dict(checkpoint=dict(save_best="nuscenes/mAP", rule="greater"))
