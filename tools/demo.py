#!/usr/bin/env python3
"""``make demo``; see ``python tools/demo.py --help``."""

import sys

from perceptkd.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
