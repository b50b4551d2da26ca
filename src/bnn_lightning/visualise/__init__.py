"""Pictures: functions of callables and plain tables that return a figure and save nothing."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "binarization": ["binarization_bars", "binarization_table"],
        "comparison": ["Entry", "accuracy_against_cost", "comparison_table", "counted", "published"],
        "directions": ["Direction", "filter_norms", "random_direction", "shifted"],
        "landscape": ["Landscape", "Point", "grid", "measure"],
        "landscape_figures": ["landscape_contours", "landscape_lines"],
        "procedure": ["procedure_table", "summarise", "training_curves"],
        "style": ["COLOURS", "new_figure"],
    },
)
