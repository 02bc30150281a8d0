# The teacher of the fusion paths: configs/bev/fusion_sim.py on the splits train, tune and report.
_base_ = [
    "../_base_/models/bev_fusion_sim.py",
    "../_base_/datasets/nuscenes_sim_splits.py",
    "../_base_/schedules/bev_sim_splits.py",
    "../_base_/runtime/default.py",
]

default_hooks = dict(checkpoint=dict(save_best="nuscenes/near_mAP", rule="greater"))
