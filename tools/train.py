#!/usr/bin/env python
"""Trains a model, distilling or not; `python tools/train.py -h` lists the options."""

import sys

from perceptkd.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
