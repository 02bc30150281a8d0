"""Transform tests import mmdet3d, which needs perceptkd.compat first."""

import perceptkd.compat  # noqa: F401
