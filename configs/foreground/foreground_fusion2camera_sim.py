# Foreground distillation: a detector with LiDAR and cameras teaches a camera detector, on SimWorld's splits.
_base_ = ["../unidistill/unidistill_fusion2camera_sim.py"]

model = dict(
    distillers=[
        dict(type="perceptkd.ForegroundDistill", teacher="fusion", inherit=["backbone", "neck", "bbox_head"]),
    ]
)
