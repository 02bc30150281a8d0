"""The ops tests reach upstream code too, which needs the patches."""

import perceptkd.compat  # noqa: F401
