#!/usr/bin/env python
"""Prints where a model can be tapped; `python tools/list_taps.py -h` lists the options."""

import sys

from perceptkd.cli.list_taps import main

if __name__ == "__main__":
    sys.exit(main())
