"""Figures from plain tables; each function returns a figure and saves nothing.

They need matplotlib, and `interactive_landscapes` plotly: `pip install 'bnn-lightning[visualize]'`.
"""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "soft_label_heatmap": ["plot_soft_labels", "soft_labels"],
        "binarization": ["binarization_bars", "binarization_table"],
        "comparison": ["ComparedNetwork", "accuracy_against_cost", "comparison_table", "counted", "published"],
        "embedding": ["plot_embedding"],
        "feature_maps": ["plot_feature_maps"],
        "graph_figures": ["draw_graph", "draw_graphs"],
        "landscape_figures": [
            "interactive_landscapes",
            "landscape_contours",
            "landscape_lines",
            "landscape_surfaces",
        ],
        "pipeline": ["draw_pipeline"],
        "training_curves": ["plot_training_curves", "summarize", "training_table"],
        "signs": ["plot_signs"],
        "style": ["COLORS", "new_figure", "new_interactive"],
        "surrogates": ["plot_surrogates"],
    },
)
