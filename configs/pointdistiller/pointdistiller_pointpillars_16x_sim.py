# The same with a sixteenth of the parameters.
_base_ = ["./pointdistiller_pointpillars_4x_sim.py"]

model = dict(
    student=dict(compression=16),
    distillers=[dict(_base_.model.distillers[0], student_channels=96)],
)
