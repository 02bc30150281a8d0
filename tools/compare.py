#!/usr/bin/env python3
"""Teacher, control and distilled student side by side; see ``python tools/compare.py --help``."""

import sys

from perceptkd.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
