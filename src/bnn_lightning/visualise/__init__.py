"""Pictures: functions of callables and plain tables that return a figure and save nothing."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "directions": ["Direction", "filter_norms", "random_direction", "shifted"],
        "landscape": ["Landscape", "Point", "grid", "measure"],
        "landscape_figures": ["landscape_contours", "landscape_lines"],
        "style": ["COLOURS", "new_figure"],
    },
)
