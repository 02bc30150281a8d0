# LabelDistill: a detector with LiDAR and cameras and the labels teach a camera detector, on SimWorld's splits.
# The weights are those of lidar2camera, three tenths of the published ones.
_base_ = ["../unidistill/unidistill_fusion2camera_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.LabelDistill",
            teacher="fusion",
            student_channels=(64, 128),
            teacher_channels=(64, 128),
            hidden_channels=64,
            weights=dict(
                encoder=0.3,
                label=dict(type="warmup", value=0.1, end=0.2),
                lidar=0.1,
                response_cls=0.3,
                response_reg=0.075,
            ),
        )
    ]
)
