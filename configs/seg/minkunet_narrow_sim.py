# MinkUNet with a quarter of the channels, the student of pvd_minkunet_sim.py.
_base_ = ["./minkunet_sim.py"]

model = {{_base_.narrow}}
