# SimWorld with splits to train, tune and report on, for comparisons:
# `python tools/create_data.py simworld --out data/simworld_splits --splits train=40 tune=12 report=12 --keyframes 12`.
_base_ = ["./nuscenes_sim.py"]

data_root = "data/simworld_splits/nuscenes"

train_dataloader = dict(dataset=dict(dataset=dict(data_root=data_root, ann_file="nuscenes_infos_train.pkl")))
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file="nuscenes_infos_tune.pkl"))
val_evaluator = dict(data_root=data_root, ann_file="nuscenes_infos_tune.pkl")
test_dataloader = dict(dataset=dict(data_root=data_root, ann_file="nuscenes_infos_report.pkl"))
test_evaluator = dict(data_root=data_root, ann_file="nuscenes_infos_report.pkl")
