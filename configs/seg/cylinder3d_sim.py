# Cylinder3D, the teacher of pvd_cylinder3d_sim.py.
_base_ = [
    "../_base_/models/cylinder3d_sim.py",
    "../_base_/datasets/semantickitti_sim.py",
    "../_base_/schedules/seg_sim.py",
    "../_base_/runtime/default.py",
]

default_hooks = dict(checkpoint=dict(save_best="seg/mIoU", rule="greater"))
