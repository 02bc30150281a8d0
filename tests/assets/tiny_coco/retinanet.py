# ruff: noqa: C408  (mm configs are written with dict())
# A RetinaNet of a few thousand weights on six 64x64 images: trains an epoch in about a second.
default_scope = "mmdet"
data_root = "{{ fileDirname }}/"
classes = dict(classes=("brick", "leaf"))

model = dict(
    type="RetinaNet",
    data_preprocessor=dict(type="DetDataPreprocessor", mean=[100, 100, 100], std=[50, 50, 50], pad_size_divisor=32),
    backbone=dict(
        type="ResNet",
        depth=50,
        base_channels=4,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type="BN"),
        stem_channels=8,
        # draws from torch's random state in training, as dropout does
        plugins=[
            dict(
                cfg=dict(type="DropBlock", drop_prob=0.3, block_size=1, warmup_iters=0),
                stages=(False, True, True, False),
                position="after_conv3",
            )
        ],
    ),
    neck=dict(
        type="FPN",
        in_channels=[16, 32, 64, 128],
        out_channels=8,
        start_level=1,
        add_extra_convs="on_output",
        num_outs=3,
    ),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=2,
        in_channels=8,
        stacked_convs=1,
        feat_channels=8,
        anchor_generator=dict(
            type="AnchorGenerator", octave_base_scale=2, scales_per_octave=1, ratios=[1.0], strides=[8, 16, 32]
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type="PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
dataset = dict(
    type="CocoDataset",
    data_root=data_root,
    ann_file="annotations.json",
    data_prefix=dict(img="images/"),
    metainfo=classes,
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="perceptkd.SeededDataset", dataset=dict(pipeline=train_pipeline, **dataset)),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(test_mode=True, pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CocoMetric", ann_file=data_root + "annotations.json", metric="bbox")
test_evaluator = val_evaluator

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.002), clip_grad=dict(max_norm=10.0, norm_type=2)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4),
    dict(type="MultiStepLR", by_epoch=True, milestones=[3], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(type="perceptkd.StudentCheckpointHook", interval=1))
custom_hooks = [dict(type="perceptkd.SeedEpochHook")]
randomness = dict(seed=3)
auto_scale_lr = dict(enable=False, base_batch_size=2)
