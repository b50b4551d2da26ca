"""Workflows of the verbs: one function a verb, typed settings in, a result object out; nothing is printed."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "benchmarking": ["benchmark"],
        "checkpoint": ["load_backbone", "load_task"],
        "errors": ["UserError"],
        "evaluation": ["evaluate"],
        "exporting": ["export"],
        "prediction": ["predict"],
        "preparation": ["prepare"],
        "profiling": ["profile"],
        "ranking": ["rank"],
        "reporting": ["report"],
        "training": ["train"],
        "verification": ["verify"],
        "visualization": ["visualize"],
    },
)
