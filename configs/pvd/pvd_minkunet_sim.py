# PVD: MinkUNet teaches one with a quarter of its channels. Supervoxels of 12.8 x 12.8 x 6.4 m.
_base_ = ["../seg/minkunet_narrow_sim.py"]

model = dict(
    _delete_=True,
    type="perceptkd.DistillModel",
    student={{_base_.model}},
    teachers=dict(
        wide=dict(config="configs/seg/minkunet_sim.py", checkpoint="work_dirs/teachers/minkunet_sim/epoch_8.pth")
    ),
    distillers=[
        dict(
            type="perceptkd.PVD",
            teacher="wide",
            minority_classes=[1, 2, 5, 6, 7, 17, 18],  # two-wheelers, riders, persons, poles, signs
            supervoxel_size=(32, 32, 16),
            num_voxels=512,
        )
    ],
)
