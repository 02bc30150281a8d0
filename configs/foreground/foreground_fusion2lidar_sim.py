# Foreground distillation: a detector with LiDAR and cameras teaches a compact LiDAR detector, on SimWorld's splits.
_base_ = ["../unidistill/unidistill_fusion2lidar_sim.py"]

model = dict(
    distillers=[
        dict(type="perceptkd.ForegroundDistill", teacher="fusion", inherit=["backbone", "neck", "bbox_head"]),
    ]
)
