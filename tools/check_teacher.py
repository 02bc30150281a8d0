#!/usr/bin/env python
"""Checks a teacher's weights and its metric; `python tools/check_teacher.py -h` lists the options."""

import sys

from perceptkd.cli.check_teacher import main

if __name__ == "__main__":
    sys.exit(main())
