#!/usr/bin/env python
"""Estimates what a training needs; `python tools/analysis_tools/estimate.py -h` lists the options."""

import sys

from perceptkd.cli.estimate import main

if __name__ == "__main__":
    sys.exit(main())
