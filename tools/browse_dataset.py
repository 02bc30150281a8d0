#!/usr/bin/env python
"""Draws samples of a data set as training gets them; `python tools/browse_dataset.py -h` lists the options."""

import sys

from perceptkd.cli.browse_dataset import main

if __name__ == "__main__":
    sys.exit(main())
