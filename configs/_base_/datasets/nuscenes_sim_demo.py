# SimWorld as `make demo` writes it: short scenes, because many streets teach a detector more than many frames of one.
# `python tools/create_data.py simworld --out data/simworld_demo --splits train=56 tune=12 --keyframes 5`.
_base_ = ["./nuscenes_sim.py"]

data_root = "data/simworld_demo/nuscenes"
held_out = dict(data_root=data_root, ann_file="nuscenes_infos_tune.pkl")

train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root, ann_file="nuscenes_infos_train.pkl")))
val_dataloader = dict(dataset=held_out)
val_evaluator = held_out
test_dataloader = dict(dataset=held_out)
test_evaluator = held_out
