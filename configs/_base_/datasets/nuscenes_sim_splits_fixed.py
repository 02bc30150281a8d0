# The splits without augmentation: for a camera detector that sees a frame no more than four times.
_base_ = ["./nuscenes_sim_splits.py"]

fixed_train_pipeline = [
    {{_base_.load_lidar}},
    {{_base_.load_cameras}},
    dict(type="mmdet3d.LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    {{_base_.resize_cameras}},
    dict(type="perceptkd.FilterRange", point_cloud_range={{_base_.scene_range}}),
    dict(type="perceptkd.FilterClasses", num_classes=10),
    dict(type="perceptkd.PackBEVInputs"),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=fixed_train_pipeline)))
