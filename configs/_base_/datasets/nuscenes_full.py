# nuScenes v1.0-trainval with the input and augmentation of UniDistill: 10 sweeps, 256 x 704, class-balanced resampling,
# no object paste. Info files: `python tools/create_data.py nuscenes --root data/nuscenes --version v1.0-trainval`.
data_root = "data/nuscenes"
scene_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
image_size = (256, 704)
sweeps = 10

load_lidar = dict(type="perceptkd.LoadPoints", sweeps=sweeps)
load_cameras = dict(type="perceptkd.LoadMultiViewImages")
augment_scene = [
    dict(type="mmdet3d.LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    dict(
        type="perceptkd.AugmentBEV",
        rotate_range_deg=(-45.0, 45.0),
        scale_range=(0.9, 1.1),
        translate_std_m=(0.5, 0.5, 0.5),
        flip_probability=0.5,
    ),
]
augment_cameras = dict(
    type="perceptkd.AugmentImages",
    training=True,
    image_size=image_size,
    resize_range=(0.386, 0.55),
    test_resize=0.44,
    rotate_range_deg=(-5.4, 5.4),
    flip=True,
)
resize_cameras = dict(
    type="perceptkd.AugmentImages", training=False, image_size=image_size, resize_range=(0.44, 0.44), test_resize=0.44
)
finish = [
    dict(type="perceptkd.FilterRange", point_cloud_range=scene_range),
    dict(type="perceptkd.FilterClasses", num_classes=10),
    dict(type="perceptkd.PackBEVInputs"),
]
pack_test = dict(type="perceptkd.PackBEVInputs", with_boxes=False)

train_pipeline = [load_lidar, load_cameras, *augment_scene, augment_cameras, *finish]
lidar_train_pipeline = [load_lidar, *augment_scene, *finish]
camera_train_pipeline = [load_cameras, *augment_scene, augment_cameras, *finish]
test_pipeline = [load_lidar, load_cameras, resize_cameras, pack_test]
lidar_test_pipeline = [load_lidar, pack_test]
camera_test_pipeline = [load_cameras, resize_cameras, pack_test]

train_dataloader = dict(
    batch_size=5,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="perceptkd.SeededDataset",
        dataset=dict(
            type="mmdet3d.CBGSDataset",
            dataset=dict(
                type="perceptkd.NuScenesDataset",
                data_root=data_root,
                ann_file="nuscenes_infos_train.pkl",
                filter_empty_gt=False,
                use_valid_flag=True,  # boxes with LiDAR or radar points, as UniDistill trains on
                pipeline=train_pipeline,
            ),
        ),
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="perceptkd.NuScenesDataset",
        data_root=data_root,
        ann_file="nuscenes_infos_val.pkl",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="perceptkd.NuScenesMetric", data_root=data_root, ann_file="nuscenes_infos_val.pkl")
test_evaluator = val_evaluator
