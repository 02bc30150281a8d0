# PointPillars of mmdet3d on SimWorld as KITTI: the published widths (4.8 M parameters), on 256 x 192 pillars of 0.2 m
# instead of 432 x 496 of 0.16 m. A teacher; its students are compact ones of this config.
_base_ = [
    "mmdet3d::_base_/models/pointpillars_hv_secfpn_kitti.py",
    "../_base_/datasets/kitti_sim_splits.py",
    "../_base_/runtime/default.py",
    "../_base_/schedules/kitti_sim_teacher.py",
]

voxel_size = [0.2, 0.2, 8.0]
model = dict(
    data_preprocessor=dict(voxel_layer=dict(voxel_size=voxel_size, point_cloud_range={{_base_.scene_range}})),
    voxel_encoder=dict(voxel_size=voxel_size, point_cloud_range={{_base_.scene_range}}),
    middle_encoder=dict(output_shape=[192, 256]),
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
