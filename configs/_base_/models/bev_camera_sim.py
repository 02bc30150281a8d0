# The camera encoder of bev_shared_sim.py, images normalised one by one; LiDAR points are read in training only.
_base_ = ["./bev_shared_sim.py"]

model = dict(
    data_preprocessor=dict(with_points=True, per_image=True),
    camera_encoder={{_base_.camera_encoder}},
)
