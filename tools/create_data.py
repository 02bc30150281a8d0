#!/usr/bin/env python
"""Writes the simulated world or the info files of nuScenes; `python tools/create_data.py -h` lists the options."""

import sys

from perceptkd.cli.create_data import main

if __name__ == "__main__":
    sys.exit(main())
