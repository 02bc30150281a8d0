# SimWorld as nuScenes v1.0-mini: `python tools/create_data.py simworld --out data/simworld`.
# Augmentation is milder than the published one, for schedules of minutes. One pipeline serves every model: BEV
# augmentation comes first, so that a sample's scene does not depend on which sensors are loaded.
data_root = "data/simworld/nuscenes"
scene_range = [-28.8, -28.8, -5.0, 28.8, 28.8, 3.0]
image_size = (128, 352)
sweeps = 4

load_lidar = dict(type="perceptkd.LoadPoints", sweeps=sweeps)
load_key_cloud = dict(type="perceptkd.LoadPoints", sweeps=0)  # the depth targets of a camera model in training
load_cameras = dict(type="perceptkd.LoadMultiViewImages")
augment_scene = [
    dict(type="mmdet3d.LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    dict(type="perceptkd.AugmentBEV", rotate_range_deg=(-22.5, 22.5), scale_range=(0.95, 1.05), flip_probability=0.5),
]
augment_cameras = dict(
    type="perceptkd.AugmentImages",
    training=True,
    image_size=image_size,
    resize_range=(0.22, 0.25),  # less leaves columns black
    test_resize=0.22,
    rotate_range_deg=(-2.0, 2.0),
    flip=True,
)
resize_cameras = dict(
    type="perceptkd.AugmentImages", training=False, image_size=image_size, resize_range=(0.22, 0.22), test_resize=0.22
)
finish = [
    dict(type="perceptkd.FilterRange", point_cloud_range=scene_range),
    dict(type="perceptkd.FilterClasses", num_classes=10),
    dict(type="perceptkd.PackBEVInputs"),
]
pack_test = dict(type="perceptkd.PackBEVInputs", with_boxes=False)

train_pipeline = [load_lidar, load_cameras, *augment_scene, augment_cameras, *finish]
lidar_train_pipeline = [load_lidar, *augment_scene, *finish]
camera_train_pipeline = [load_key_cloud, load_cameras, *augment_scene, augment_cameras, *finish]
test_pipeline = [load_lidar, load_cameras, resize_cameras, pack_test]
lidar_test_pipeline = [load_lidar, pack_test]
camera_test_pipeline = [load_cameras, resize_cameras, pack_test]

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="perceptkd.SeededDataset",
        dataset=dict(
            type="perceptkd.NuScenesDataset",
            data_root=data_root,
            ann_file="nuscenes_infos_mini_train.pkl",
            filter_empty_gt=False,
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="perceptkd.NuScenesDataset",
        data_root=data_root,
        ann_file="nuscenes_infos_mini_val.pkl",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
# the official evaluation, and near_mAP for what the models see: 28.8 m, where the official one looks 30 to 50 m far
val_evaluator = dict(
    type="perceptkd.NuScenesMetric", data_root=data_root, ann_file="nuscenes_infos_mini_val.pkl", near_m=28.8
)
test_evaluator = val_evaluator
