# UniDistill under mmdet3d's CenterPoint (voxels of 0.075 m, 57.6 mAP on val with rotated NMS) and its published
# weights. Its grid is that of the `full` models, so that all terms apply.
_base_ = ["./unidistill_lidar2camera_full.py"]

weights_url = "https://download.openmmlab.com/mmdetection3d/v1.0.0_models/centerpoint/"
name = "centerpoint_0075voxel_second_secfpn_circlenms_4x8_cyclic_20e_nus"
bev = dict(layout="yx", extent=(-54.0, -54.0, 54.0, 54.0))

model = dict(
    teachers=dict(
        _delete_=True,
        centerpoint=dict(
            config="mmdet3d::centerpoint/centerpoint_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py",
            checkpoint=f"{weights_url}{name}/{name}_20220810_011659-04cb3a3b.pth",
        ),
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
            weights=dict(feature=100.0, relation=40.0, response=10.0),
        )
    ],
)
