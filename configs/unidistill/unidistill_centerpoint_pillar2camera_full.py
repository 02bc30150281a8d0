# UniDistill under mmdet3d's CenterPoint with pillars of 0.2 m (its head on 128 x 128 cells) with its published weights.
_base_ = ["../bev/camera_51m.py"]

weights_url = "https://download.openmmlab.com/mmdetection3d/v1.0.0_models/centerpoint/"
name = "centerpoint_02pillar_second_secfpn_circlenms_4x8_cyclic_20e_nus"
bev = dict(layout="yx", extent=(-51.2, -51.2, 51.2, 51.2))

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        centerpoint=dict(
            config="mmdet3d::centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
            checkpoint=f"{weights_url}{name}/{name}_20220811_031844-191a3822.pth",
        )
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="centerpoint",
            teacher_taps=dict(
                low=dict(path="pts_middle_encoder", **bev),
                high=dict(path="pts_neck[0]", **bev),
                response=dict(path="pts_bbox_head", **bev),
            ),
            adapters=dict(low=dict(type="conv", in_channels=256, out_channels=64)),
            weights=dict(feature=100.0, relation=40.0, response=10.0),
        )
    ],
)
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(pipeline={{_base_.train_pipeline}}))))
