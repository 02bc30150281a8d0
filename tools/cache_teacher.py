#!/usr/bin/env python
"""Stores a teacher's outputs for a training; `python tools/cache_teacher.py -h` lists the options."""

import sys

from perceptkd.cli.cache_teacher import main

if __name__ == "__main__":
    sys.exit(main())
