# SimWorld as KITTI, with splits to train, tune and report on, for comparisons: `python tools/create_data.py simworld
# --format kitti --out data/simworld_splits --splits train=240 tune=144 report=288 --keyframes 3`. For KITTI itself
# change data_root in this file and no more; its test.txt has no labels, so that one chooses and reports on val.
# Turns are half of the published ones, since the range is narrower, and the range is higher: streets have slopes.
data_root = "data/simworld_splits/kitti"
default_scope = "mmdet3d"
scene_range = [0.0, -19.2, -5.0, 51.2, 19.2, 3.0]
class_names = ["Pedestrian", "Cyclist", "Car"]

load_lidar = dict(type="mmdet3d.LoadPointsFromFile", coord_type="LIDAR", load_dim=4, use_dim=4)
augment = [
    dict(type="mmdet3d.LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    dict(
        type="perceptkd.SampleObjects",
        data_root=data_root,
        classes=class_names,
        fill_up_to=dict(Car=15, Pedestrian=15, Cyclist=15),
    ),
    dict(type="mmdet3d.RandomFlip3D", flip_ratio_bev_horizontal=0.5),
    dict(type="mmdet3d.GlobalRotScaleTrans", rot_range=[-0.3927, 0.3927], scale_ratio_range=[0.95, 1.05]),
    dict(type="mmdet3d.PointsRangeFilter", point_cloud_range=scene_range),
    dict(type="mmdet3d.ObjectRangeFilter", point_cloud_range=scene_range),
    dict(type="mmdet3d.PointShuffle"),
]
pack = dict(type="mmdet3d.Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"])
train_pipeline = [load_lidar, *augment, pack]
velocity_train_pipeline = [load_lidar, *augment, dict(type="perceptkd.AddZeroVelocity"), pack]  # for CenterHead
test_pipeline = [
    load_lidar,
    dict(type="mmdet3d.PointsRangeFilter", point_cloud_range=scene_range),
    dict(type="mmdet3d.Pack3DDetInputs", keys=["points"]),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="perceptkd.SeededDataset",
        dataset=dict(
            type="mmdet3d.KittiDataset",
            data_root=data_root,
            ann_file="kitti_infos_train.pkl",
            data_prefix=dict(pts="training/velodyne_reduced"),
            metainfo=dict(classes=class_names),
            filter_empty_gt=False,
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmdet3d.KittiDataset",
        data_root=data_root,
        ann_file="kitti_infos_val.pkl",
        data_prefix=dict(pts="training/velodyne_reduced"),
        metainfo=dict(classes=class_names),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmdet3d.KittiDataset",
        data_root=data_root,
        ann_file="kitti_infos_test.pkl",
        data_prefix=dict(pts="testing/velodyne_reduced"),
        metainfo=dict(classes=class_names),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="perceptkd.KittiMetric", data_root=data_root, ann_file="kitti_infos_val.pkl")
test_evaluator = dict(type="perceptkd.KittiMetric", data_root=data_root, ann_file="kitti_infos_test.pkl")
