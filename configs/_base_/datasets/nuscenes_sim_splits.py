# SimWorld with splits to train, tune and report on, for comparisons:
# `python tools/create_data.py simworld --out data/simworld_splits --splits train=120 tune=24 report=24 --keyframes 6`.
_base_ = ["./nuscenes_sim.py"]

data_root = "data/simworld_splits/nuscenes"

train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root, ann_file="nuscenes_infos_train.pkl")))
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file="nuscenes_infos_tune.pkl"))
val_evaluator = dict(data_root=data_root, ann_file="nuscenes_infos_tune.pkl")
test_dataloader = dict(dataset=dict(data_root=data_root, ann_file="nuscenes_infos_report.pkl"))
test_evaluator = dict(data_root=data_root, ann_file="nuscenes_infos_report.pkl")
