#!/usr/bin/env python
"""Evaluates the student of any checkpoint; `python tools/test.py -h` lists the options."""

import sys

from perceptkd.cli.test import main

if __name__ == "__main__":
    sys.exit(main())
