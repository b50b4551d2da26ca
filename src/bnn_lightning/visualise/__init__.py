"""Pictures: functions of callables and plain tables that return a figure and save nothing."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "binarization": ["binarization_bars", "binarization_table"],
        "comparison": ["Entry", "accuracy_against_cost", "comparison_table", "counted", "published"],
        "directions": ["Direction", "filter_norms", "random_direction", "shifted"],
        "graph_blocks": ["block_title", "create_block", "list_blocks"],
        "graph_figures": ["draw_graph", "draw_graphs"],
        "graph_files": ["onnx_model", "tensorboard_graph"],
        "landscape": ["Landscape", "Point", "grid", "measure"],
        "landscape_figures": ["landscape_contours", "landscape_lines"],
        "network_graph": ["Edge", "NetworkGraph", "Node", "to_depth", "with_repeats", "without_weights"],
        "pipeline": ["draw_modules", "draw_pipeline", "module_graphs", "pipeline_graphs"],
        "procedure": ["procedure_table", "summarise", "training_curves"],
        "style": ["COLOURS", "new_figure"],
        "trace": ["TraceError", "trace_graph"],
    },
)
