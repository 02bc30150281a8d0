# Clouds and boxes of your own, as `tools/create_data.py custom --out data/custom` writes them (docs/own_data.md).
# What a config over this one sets: data_root and the classes of the datasets and the model, and the range.
data_root = "data/custom"
scene_range = [-28.8, -28.8, -5.0, 28.8, 28.8, 3.0]

load_lidar = dict(type="perceptkd.LoadPoints")
train_pipeline = [
    load_lidar,
    dict(type="mmdet3d.LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    dict(type="perceptkd.AugmentBEV", rotate_range_deg=(-22.5, 22.5), scale_range=(0.95, 1.05), flip_probability=0.5),
    dict(type="perceptkd.FilterRange", point_cloud_range=scene_range),
    dict(type="perceptkd.PackBEVInputs"),
]
test_pipeline = [load_lidar, dict(type="perceptkd.PackBEVInputs", with_boxes=False)]

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="perceptkd.SeededDataset",
        dataset=dict(
            type="perceptkd.CustomDataset",
            data_root=data_root,
            ann_file="custom_infos_train.pkl",
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
        type="perceptkd.CustomDataset",
        data_root=data_root,
        ann_file="custom_infos_val.pkl",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="perceptkd.CenterDistanceMetric", point_cloud_range=scene_range)
test_evaluator = val_evaluator
