# nuscenes_full.py with the sweeps of UniDistill's released code: points on the vehicle are kept, and frames with fewer
# than ten sweeps repeat the oldest.
_base_ = ["./nuscenes_full.py"]

load_lidar = dict(type="perceptkd.LoadPoints", sweeps=10, remove_close_m=0.0, repeat_oldest=True)
train_pipeline = [load_lidar, *_base_.train_pipeline[1:]]
lidar_train_pipeline = [load_lidar, *_base_.lidar_train_pipeline[1:]]
test_pipeline = [load_lidar, *_base_.test_pipeline[1:]]
lidar_test_pipeline = [load_lidar, *_base_.lidar_test_pipeline[1:]]

train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(pipeline=train_pipeline))))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
