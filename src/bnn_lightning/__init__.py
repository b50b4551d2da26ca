"""Binary neural networks: train, distill and deploy."""

from bnn_lightning.utils.lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "layers.binarize": ["binarize"],
        "workflows.benchmarking": ["benchmark"],
        "workflows.checkpoint": ["load_task"],
        "workflows.errors": ["UserError"],
        "workflows.evaluation": ["evaluate"],
        "workflows.exporting": ["export"],
        "workflows.prediction": ["predict"],
        "workflows.preparation": ["prepare"],
        "workflows.profiling": ["profile"],
        "workflows.ranking": ["rank"],
        "workflows.reporting": ["report"],
        "workflows.training": ["train"],
        "workflows.verification": ["verify"],
        "workflows.visualization": ["visualize"],
    },
)
