"""Pictures: functions of callables and plain tables that return a figure and save nothing."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "bank_figure": ["plot_bank", "soft_labels"],
        "binarization": ["binarization_bars", "binarization_table"],
        "comparison": ["Entry", "accuracy_against_cost", "comparison_table", "counted", "published"],
        "directions": ["Direction", "filter_norms", "random_direction", "shifted"],
        "embedding": ["embed", "neighbour_accuracy", "penultimate_features", "plot_embedding"],
        "feature_maps": ["LayerMaps", "plot_feature_maps", "record_maps"],
        "graph_blocks": ["block_title", "create_block", "list_blocks"],
        "graph_figures": ["draw_graph", "draw_graphs"],
        "graph_files": ["onnx_model", "tensorboard_graph"],
        "landscape": ["Landscape", "Point", "grid", "measure"],
        "landscape_figures": ["landscape_contours", "landscape_lines"],
        "network_graph": ["Edge", "NetworkGraph", "Node", "to_depth", "with_repeats", "without_weights"],
        "pipeline": ["draw_modules", "draw_pipeline", "module_graphs", "pipeline_graphs"],
        "procedure": ["procedure_table", "summarise", "training_curves"],
        "signs": ["LayerSigns", "plot_signs", "sign_rows", "sign_statistics"],
        "style": ["COLOURS", "new_figure"],
        "surrogates": ["Surrogate", "plot_surrogates", "surrogate_rows", "surrogates_of"],
        "trace": ["TraceError", "trace_graph"],
    },
)
