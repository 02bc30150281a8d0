# UniDistill: a detector with LiDAR and cameras teaches a camera detector, on SimWorld's splits.
# The weights are a tenth of the published ones, as those of lidar2camera.
_base_ = ["./unidistill_lidar2camera_sim.py"]

model = dict(
    teachers=dict(
        _delete_=True,
        fusion=dict(
            config="configs/unidistill/fusion_sim_splits.py",
            checkpoint="work_dirs/teachers/fusion_sim_splits/epoch_8.pth",
        ),
    ),
    distillers=[
        dict(
            type="perceptkd.UniDistill",
            teacher="fusion",
            weights=dict(feature=1.0, relation=0.5, response=1.0),
        )
    ],
)
