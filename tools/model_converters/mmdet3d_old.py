#!/usr/bin/env python
"""Converts checkpoints of mmdet3d before 1.0; `python tools/model_converters/mmdet3d_old.py -h` lists the options."""

import sys

from perceptkd.cli.convert_checkpoint import main

if __name__ == "__main__":
    sys.exit(main(["mmdet3d-old", *sys.argv[1:]]))
