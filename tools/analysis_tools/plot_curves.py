#!/usr/bin/env python
"""Draws training curves of one or more runs; `python tools/analysis_tools/plot_curves.py -h` lists the options."""

import sys

from perceptkd.cli.plot_curves import main

if __name__ == "__main__":
    sys.exit(main())
