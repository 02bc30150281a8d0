# LabelDistill: a LiDAR detector and the labels teach a camera detector, on SimWorld's splits train, tune and report.
# The weights are three tenths of the published ones, chosen on tune; that of the label maps rises while their encoder
# learns.
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
                encoder=0.3,
                label=dict(type="warmup", value=0.1, end=0.2),
                lidar=0.1,
                response_cls=0.3,
                response_reg=0.075,
            ),
        )
    ]
)
