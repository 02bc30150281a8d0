# SimWorld as SemanticKITTI: `python tools/create_data.py simworld --out data/simworld_splits --format semantickitti
# --splits train=60 tune=12 report=12 --keyframes 4`; train, tune and report are its splits train, val and test.
# With data_root = "data/semantickitti" in this file it is the real one, evaluated on val: report has no labels there.
data_root = "data/simworld_splits/semantickitti"

load = dict(type="perceptkd.LoadLabelledPoints", max_range_m=40.0)
augment = [
    dict(type="mmdet3d.RandomFlip3D", sync_2d=False, flip_ratio_bev_horizontal=0.5, flip_ratio_bev_vertical=0.5),
    dict(
        type="mmdet3d.GlobalRotScaleTrans",
        rot_range=[-3.1415927, 3.1415927],
        scale_ratio_range=[0.95, 1.05],
        translation_std=[0.1, 0.1, 0.1],
    ),
]
pack = dict(type="mmdet3d.Pack3DDetInputs", keys=["points", "pts_semantic_mask"])
train_pipeline = [load, *augment, pack]
test_pipeline = [load, pack]

train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="perceptkd.SeededDataset",
        dataset=dict(
            type="perceptkd.SemanticKittiDataset",
            data_root=data_root,
            ann_file="semantickitti_infos_train.pkl",
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
        type="perceptkd.SemanticKittiDataset",
        data_root=data_root,
        ann_file="semantickitti_infos_val.pkl",
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
        type="perceptkd.SemanticKittiDataset",
        data_root=data_root,
        ann_file="semantickitti_infos_test.pkl",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="perceptkd.PointIoUMetric", ranges_m=[(0, 20), (20, 40)])
test_evaluator = val_evaluator
