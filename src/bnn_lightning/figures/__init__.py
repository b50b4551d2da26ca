"""Pictures: functions of callables and plain tables that return a figure and save nothing."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "bank_figure": ["plot_bank", "soft_labels"],
        "binarization": ["binarization_bars", "binarization_table"],
        "comparison": ["Entry", "accuracy_against_cost", "comparison_table", "counted", "published"],
        "directions": ["Direction", "filter_norms", "perturbed_parameters", "random_direction", "shifted"],
        "embedding": ["embed", "neighbour_accuracy", "penultimate_features", "plot_embedding"],
        "feature_maps": ["LayerMaps", "plot_feature_maps", "record_maps"],
        "graph_blocks": ["block_title", "create_block", "list_blocks"],
        "graph_figures": ["draw_graph", "draw_graphs"],
        "graph_files": ["onnx_model", "tensorboard_graph"],
        "hessian": ["Eigenvalue", "cross_entropies", "hessian_product", "largest_eigenvalue"],
        "landscape": ["Landscape", "grid", "grid_points", "landscape_of"],
        "landscape_figures": [
            "interactive_landscapes",
            "landscape_contours",
            "landscape_lines",
            "landscape_surfaces",
        ],
        "network_graph": ["Edge", "NetworkGraph", "Node", "to_depth", "with_repeats", "without_weights"],
        "pipeline": ["draw_modules", "draw_pipeline", "module_graphs", "pipeline_graphs"],
        "procedure": ["procedure_table", "summarise", "training_curves"],
        "processes": ["scan"],
        "sharpness": ["Basin", "basin", "curvature", "loss_at_radius"],
        "signs": ["LayerSigns", "plot_signs", "sign_rows", "sign_statistics"],
        "style": ["COLOURS", "new_figure", "new_interactive"],
        "surrogates": ["Surrogate", "plot_surrogates", "surrogate_rows", "surrogates_of"],
        "surroundings": ["Measured", "Problem", "Surroundings", "eager"],
        "trace": ["TraceError", "trace_graph"],
    },
)
