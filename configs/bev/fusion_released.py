# UniDistill's fusion detector with the head of its released code: nine hard positives a box, IoU-ranked NMS.
_base_ = ["./fusion_full.py"]

model = dict(
    bbox_head=dict(type="perceptkd.IoUCenterHead", legacy=True, common_heads=dict(iou=(1, 2))),
    test_cfg=dict(nms_thr=0.1, pre_max_size=1500, post_max_size=100),
)
