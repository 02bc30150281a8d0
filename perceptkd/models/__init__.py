"""Models that upstream lacks."""

import perceptkd.compat  # noqa: F401  (mmdet3d must be importable before any of the modules below)
from perceptkd.models import bev  # noqa: F401  (registers the BEV detector and its parts)
