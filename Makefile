# Every target creates the virtual environment first when it is missing; all of them can be run again at any time.
VENV ?= $(CURDIR)/.venv
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1 \
	&& { command -v $$candidate; exit; }; done; command -v python3)
DEVICE ?= cpu
PYTEST_ARGS ?= --slow=sample
RUN = $(VENV)/bin/python

ifeq ($(DEVICE),cpu)
export CUDA_VISIBLE_DEVICES :=
else ifneq ($(DEVICE),cuda)
$(error DEVICE is cpu or cuda, not '$(DEVICE)')
endif

.PHONY: help install demo test lint bench docs clean

help:
	@echo "make install   create .venv and install the locked stack"
	@echo "make demo      a LiDAR detector teaches a camera detector: world, training, evaluation, table, pictures"
	@echo "make test      lint, types and tests; of the slow ones another half every day (PYTEST_ARGS=--slow=all for all of them)"
	@echo "make lint      ruff and mypy alone"
	@echo "make bench     measure the figures of docs/benchmarks.md that need no training; PERCEPTKD_REAL_DATA names the clouds"
	@echo "make docs      write docs/benchmarks.md and docs/zoo.md from benchmarks/results"
	@echo "make clean     remove what the targets made, except .venv"
	@echo "DEVICE=cuda moves demo and test to a GPU; PYTHON=/path/to/python3.12 chooses the Python of .venv"

install:
	@test -n "$(PYTHON)" || { echo "perceptkd: no python3 on the PATH. Install Python 3.11 or 3.12, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" tools/install.py --venv "$(VENV)" --device $(DEVICE)
	@test $(DEVICE) = cpu || $(RUN) -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "perceptkd: DEVICE=cuda, but torch finds no CUDA device")'

demo: install
	$(RUN) tools/demo.py

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

test: lint
	$(RUN) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

bench: install
	@test -n "$$PERCEPTKD_REAL_DATA" || { echo "perceptkd: set PERCEPTKD_REAL_DATA to the folder that holds spconv/benchmark-pc.npz, spconv's benchmark cloud" >&2; exit 1; }
	$(RUN) benchmarks/voxelization.py
	$(RUN) benchmarks/sparse_conv.py
	$(RUN) benchmarks/ops.py
	$(RUN) benchmarks/gpu.py
	$(RUN) benchmarks/distill_step.py
	$(RUN) benchmarks/nuscenes_eval.py
	$(RUN) benchmarks/kitti_eval.py
	$(RUN) benchmarks/edge_conv.py

docs: install
	$(RUN) benchmarks/render.py

clean:
	rm -rf work_dirs/demo work_dirs/teachers/lidar_voxel_demo data/simworld_demo build dist *.egg-info .dist_test .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find perceptkd tests tools configs -name __pycache__ -type d -prune -exec rm -rf {} +
