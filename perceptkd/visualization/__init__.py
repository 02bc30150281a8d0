"""Pictures without a display: bird's-eye views, camera overlays, training curves and comparisons, as PNG files."""

from perceptkd.visualization.bev import draw_bev
from perceptkd.visualization.cameras import draw_cameras
from perceptkd.visualization.comparison import draw_comparison
from perceptkd.visualization.curves import draw_curves

__all__ = ["draw_bev", "draw_cameras", "draw_comparison", "draw_curves"]
