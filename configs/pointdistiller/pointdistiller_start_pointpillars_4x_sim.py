# PointDistiller and SparseKD together, for a student that starts from the teacher's channels with the largest weights.
_base_ = ["./pointdistiller_logit_pointpillars_4x_sim.py"]

model = dict(
    student=dict(checkpoint="work_dirs/teachers/pointpillars_sim/epoch_8.pth"),
    dry_batch=dict(dataset={{_base_.train_dataloader.dataset}}),
)
