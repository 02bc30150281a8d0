# Foreground distillation as `make demo` runs it: foreground_lidar2camera_sim.py from scratch, on a smaller world.
_base_ = ["../unidistill/unidistill_lidar2camera_demo.py"]

model = dict(
    distillers=[
        dict(type="perceptkd.ForegroundDistill", teacher="lidar", inherit=["backbone", "neck", "bbox_head"]),
    ]
)
