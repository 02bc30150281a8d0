#!/usr/bin/env python
"""Converts checkpoints of UniDistill; `python tools/model_converters/unidistill.py -h` lists the options."""

import sys

from perceptkd.cli.convert_checkpoint import main

if __name__ == "__main__":
    sys.exit(main(["unidistill", *sys.argv[1:]]))
