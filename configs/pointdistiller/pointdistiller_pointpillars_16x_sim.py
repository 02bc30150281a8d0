# The same with a sixteenth of the parameters.
_base_ = ["./pointdistiller_pointpillars_4x_sim.py"]

bev = dict(path="neck[0]", layout="yx", extent=(0.0, -19.2, 51.2, 19.2))
model = dict(
    student=dict(compression=16),
    distillers=[
        dict(
            type="perceptkd.PointDistiller",
            teacher="wide",
            on="maps",
            student_taps=dict(feature=bev),
            teacher_taps=dict(feature=bev),
            student_channels=96,
            teacher_channels=384,
            out_channels=64,
            importance="boxes",
            k=16,
        )
    ],
)
