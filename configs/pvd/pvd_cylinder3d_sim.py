# PVD: Cylinder3D teaches one with a quarter of its channels. Supervoxels of 10 m x 30 degrees x 6 m.
_base_ = ["../seg/cylinder3d_narrow_sim.py"]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        wide=dict(config="configs/seg/cylinder3d_sim.py", checkpoint="work_dirs/teachers/cylinder3d_sim/epoch_8.pth")
    ),
    distillers=[
        dict(
            type="perceptkd.PVD",
            teacher="wide",
            minority_classes=[1, 2, 5, 6, 7, 17, 18],  # two-wheelers, riders, persons, poles, signs
            supervoxel_size=(20, 10, 8),
            num_voxels=512,
        )
    ],
)
