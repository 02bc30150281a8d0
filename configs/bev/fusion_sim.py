# LiDAR and camera detector, fused by channel attention.
_base_ = [
    "../_base_/models/bev_fusion_sim.py",
    "../_base_/datasets/nuscenes_sim.py",
    "../_base_/schedules/bev_sim.py",
    "../_base_/runtime/default.py",
]

default_hooks = dict(checkpoint=dict(save_best="nuscenes/near_mAP", rule="greater"))
