# One real nuScenes key frame, without sweeps and without augmentation: what a model can fit, not how it generalises.
# PERCEPTKD_REAL_DATA names the folder that holds mmdet3d_demo/nuscenes (mmdet3d's repository: demo/data/nuscenes).
data_root = "{{$PERCEPTKD_REAL_DATA:data}}/mmdet3d_demo/nuscenes"
frame_info = "n015-2018-07-24-11-22-45+0800.pkl"
scene_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
image_size = (256, 704)

load_lidar = dict(type="perceptkd.LoadPoints", sweeps=0)
load_cameras = dict(type="perceptkd.LoadMultiViewImages")
load_boxes = dict(type="mmdet3d.LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True)
resize_cameras = dict(
    type="perceptkd.AugmentImages", training=False, image_size=image_size, resize_range=(0.44, 0.44), test_resize=0.44
)
finish = [
    dict(type="perceptkd.FilterRange", point_cloud_range=scene_range),
    dict(type="perceptkd.FilterClasses", num_classes=10),
    dict(type="perceptkd.PackBEVInputs"),
]
pack_test = dict(type="perceptkd.PackBEVInputs", with_boxes=False)
train_pipeline = [load_lidar, load_cameras, load_boxes, resize_cameras, *finish]
lidar_train_pipeline = [load_lidar, load_boxes, *finish]
test_pipeline = [load_lidar, load_cameras, resize_cameras, pack_test]  # every sensor, for pictures
lidar_test_pipeline = [load_lidar, pack_test]
camera_test_pipeline = [load_cameras, resize_cameras, pack_test]

frame_dataset = dict(
    type="perceptkd.NuScenesDataset",
    data_root=data_root,
    ann_file=frame_info,
    data_prefix=dict(pts="", img=""),
    filter_empty_gt=False,
)
train_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="perceptkd.SeededDataset",
        dataset=dict(type="RepeatDataset", times=50, dataset=dict(pipeline=train_pipeline, **frame_dataset)),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(pipeline=lidar_test_pipeline, test_mode=True, **frame_dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="perceptkd.BoxRecallMetric", point_cloud_range=scene_range, distance_m=2.0, min_points=5)
test_evaluator = val_evaluator
