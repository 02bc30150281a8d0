# CenterPoint of mmdet3d on SimWorld as KITTI: pillars of 0.2 m and the widths that it has on nuScenes, one task per
# class. A teacher; its students are compact ones of this config.
_base_ = [
    "mmdet3d::_base_/models/centerpoint_pillar02_second_secfpn_nus.py",
    "../_base_/datasets/kitti_sim_splits.py",
    "../_base_/runtime/default.py",
    "../_base_/schedules/kitti_sim_teacher.py",
]

corner = [0.0, -19.2]
reach = [0.0, -19.2, -10.0, 51.2, 19.2, 10.0]
size = dict(grid_size=[256, 192, 1], point_cloud_range={{_base_.scene_range}})
model = dict(
    data_preprocessor=dict(voxel_layer=dict(point_cloud_range={{_base_.scene_range}})),
    pts_voxel_encoder=dict(in_channels=4, point_cloud_range={{_base_.scene_range}}),
    pts_middle_encoder=dict(output_shape=[192, 256]),
    pts_bbox_head=dict(
        tasks=[
            dict(num_class=1, class_names=["Pedestrian"]),
            dict(num_class=1, class_names=["Cyclist"]),
            dict(num_class=1, class_names=["Car"]),
        ],
        bbox_coder=dict(pc_range=corner, post_center_range=reach),
    ),
    train_cfg=dict(pts=size),
    test_cfg=dict(pts=dict(pc_range=corner, post_center_limit_range=reach)),
)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline={{_base_.velocity_train_pipeline}})))
default_hooks = dict(checkpoint=dict(save_best="kitti/moderate_3d_AP40", rule="greater"))
