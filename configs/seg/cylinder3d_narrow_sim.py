# Cylinder3D with a quarter of the channels, the student of pvd_cylinder3d_sim.py.
_base_ = ["./cylinder3d_sim.py"]

model = {{_base_.narrow}}
