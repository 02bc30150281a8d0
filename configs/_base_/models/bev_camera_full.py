# UniDistill's camera model. Its encoder and where its ImageNet weights come from: see bev_shared_full.py.
_base_ = ["./bev_shared_full.py"]

model = dict(
    data_preprocessor=dict(image_mean=[123.675, 116.28, 103.53], image_std=[58.395, 57.12, 57.375]),
    camera_encoder={{_base_.camera_encoder}},
)
