# ruff: noqa: C408  (mm configs are written with dict())
# The tiny RetinaNet taught by one of its own size.
_base_ = "./retinanet.py"

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(big=dict(config="{{ fileDirname }}/retinanet.py", allow_random=True)),
    distillers=[dict(type="TinyMimic", teacher="big")],
    dry_batch=dict(image_size=(64, 64)),
)
