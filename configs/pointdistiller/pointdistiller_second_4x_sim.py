# PointDistiller on the map of the neck, with graphs around the cells of objects: SECOND teaches one with a quarter of
# its parameters, on SimWorld as KITTI.
_base_ = [
    "../_base_/datasets/kitti_sim_splits.py",
    "../_base_/runtime/default.py",
    "../_base_/schedules/kitti_sim.py",
]

bev = dict(path="neck[0]", layout="yx", extent=(0.0, -19.2, 51.2, 19.2))
model = dict(
    type="perceptkd.DistillModel",
    student=dict(config="configs/kitti/second_sim.py", compression=4),
    teachers=dict(
        wide=dict(config="configs/kitti/second_sim.py", checkpoint="work_dirs/teachers/second_sim/epoch_8.pth")
    ),
    distillers=[
        dict(
            type="perceptkd.PointDistiller",
            teacher="wide",
            on="maps",
            student_taps=dict(feature=bev),
            teacher_taps=dict(feature=bev),
            student_channels=256,
            teacher_channels=512,
            out_channels=64,
            importance="boxes",
            num_samples=1000,
            k=16,
            weights=dict(graph=5.0),
        )
    ],
)
default_hooks = dict(checkpoint=dict(save_best="kitti/moderate_3d_AP40", rule="greater"))
