# SECOND of mmdet3d on SimWorld as KITTI: the published widths (5.3 M parameters), on voxels of 0.08 x 0.08 x 0.2 m
# instead of 0.05 x 0.05 x 0.1 m. A teacher; its students are compact ones of this config.
_base_ = [
    "mmdet3d::_base_/models/second_hv_secfpn_kitti.py",
    "../_base_/datasets/kitti_sim_splits.py",
    "../_base_/runtime/default.py",
    "../_base_/schedules/kitti_sim_teacher.py",
]

voxel_size = [0.08, 0.08, 0.2]
model = dict(
    data_preprocessor=dict(voxel_layer=dict(voxel_size=voxel_size, point_cloud_range={{_base_.scene_range}})),
    middle_encoder=dict(sparse_shape=[41, 480, 640]),
    bbox_head=dict(
        anchor_generator=dict(
            ranges=[
                [0.0, -19.2, -0.6, 51.2, 19.2, -0.6],
                [0.0, -19.2, -0.6, 51.2, 19.2, -0.6],
                [0.0, -19.2, -1.78, 51.2, 19.2, -1.78],
            ]
        )
    ),
)
default_hooks = dict(checkpoint=dict(save_best="kitti/moderate_3d_AP40", rule="greater"))
