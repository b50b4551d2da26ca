"""Numbers from networks: loss landscapes, sharpness, graphs, signs, features, teachers' knowledge and latency."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "directions": ["Direction", "filter_norms", "perturbed_parameters", "random_direction", "shifted"],
        "embedding": ["embed", "neighbor_accuracy", "penultimate_features"],
        "feature_maps": ["LayerMaps", "record_maps"],
        "graph_blocks": ["block_title", "create_block", "list_blocks"],
        "graph_files": ["onnx_model", "tensorboard_graph"],
        "graph_views": ["module_graphs", "pipeline_graphs"],
        "hessian": ["Eigenvalue", "cross_entropies", "hessian_product", "largest_eigenvalue"],
        "knowledge": ["Knowledge", "knowledge_complexity", "knowledge_of", "knowledge_sums"],
        "landscape": ["Landscape", "grid", "grid_points", "landscape_of"],
        "latency": ["Timing", "quartiles", "time_in_turns"],
        "loss_grid": ["Measured", "Problem", "Surroundings", "eager"],
        "processes": ["scan"],
        "sharpness": ["Basin", "basin", "curvature", "loss_at_radius"],
        "signs": ["LayerSigns", "sign_rows", "sign_statistics"],
        "surrogates": ["Surrogate", "surrogate_rows", "surrogates_of"],
        "trace": ["TraceError", "trace_graph"],
    },
)
