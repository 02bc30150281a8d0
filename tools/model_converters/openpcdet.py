#!/usr/bin/env python
"""Converts OpenPCDet's checkpoints to mmdet3d's; `python tools/model_converters/openpcdet.py -h` lists the options."""

import sys

from perceptkd.cli.convert_checkpoint import main

if __name__ == "__main__":
    sys.exit(main(["openpcdet", *sys.argv[1:]]))
