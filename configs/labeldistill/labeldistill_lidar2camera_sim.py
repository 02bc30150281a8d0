# LabelDistill: a LiDAR detector and the labels teach a camera detector, on SimWorld's splits train, tune and report.
# The weights are a tenth of the published ones; that of the label maps rises while their encoder learns.
_base_ = ["../unidistill/unidistill_lidar2camera_sim.py"]

model = dict(
    distillers=[
        dict(
            type="perceptkd.LabelDistill",
            teacher="lidar",
            student_channels=(64, 128),
            teacher_channels=(64, 128),
            hidden_channels=64,
            weights=dict(
                encoder=0.1,
                label=dict(type="warmup", value=0.03, end=0.2),
                lidar=0.03,
                response_cls=0.1,
                response_reg=0.025,
            ),
        )
    ]
)
