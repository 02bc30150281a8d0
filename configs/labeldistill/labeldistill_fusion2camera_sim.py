# LabelDistill: a detector with LiDAR and cameras and the labels teach a camera detector, on SimWorld's splits.
# The weights are those of lidar2camera, a tenth of the published ones.
_base_ = ["../unidistill/unidistill_fusion2camera_sim.py"]

label = dict(type="warmup", value=0.03, end=0.2)
distiller = dict(
    type="perceptkd.LabelDistill",
    teacher="fusion",
    student_channels=(64, 128),
    teacher_channels=(64, 128),
    hidden_channels=64,
    weights=dict(encoder=0.1, label=label, lidar=0.03, response_cls=0.1, response_reg=0.025),
)
model = dict(distillers=[distiller])
