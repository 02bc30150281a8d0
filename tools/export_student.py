#!/usr/bin/env python
"""Writes the student of any checkpoint as a plain model; `python tools/export_student.py -h` lists the options."""

import sys

from perceptkd.cli.export_student import main

if __name__ == "__main__":
    sys.exit(main())
