# Foreground distillation: a LiDAR detector teaches a camera detector, on SimWorld's splits.
_base_ = ["../unidistill/unidistill_lidar2camera_sim.py"]

model = dict(
    distillers=[
        dict(type="perceptkd.ForegroundDistill", teacher="lidar", inherit=["backbone", "neck", "bbox_head"]),
    ]
)
