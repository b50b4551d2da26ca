"""Kinds of figures, one module each: settings, measurement and drawing."""

from bnn_lightning.workflows.errors import did_you_mean
from bnn_lightning.workflows.old_names import FIGURES

# Each module defines its settings, such as `SignsSettings`, and `draw`.
KINDS = {
    "training_curves": "training curves: loss, accuracy, learning rate, annealing, flipped signs, gradients",
    "comparison": "accuracy against operations, size or latency: published networks and runs of ours",
    "binarization": "share of binary parameters, products and operations",
    "graph": "graph of a block, a module or a network: SVG, TensorBoard, ONNX",
    "landscape": "loss landscape of trained networks: line, contour, surface, and sharpness",
    "modules": "convolution modules side by side",
    "feature_maps": "feature maps of binary layers for an image: inputs and their signs",
    "embedding": "2-D embedding of penultimate features, colored by class: t-SNE or UMAP",
    "soft_label_heatmap": "soft-label bank of SKD-BNN, as a heat map",
    "signs": "sign statistics of weights and activations by layer",
    "surrogates": "value and surrogate gradient of binarizers",
    "pipeline": "network at three levels: backbone, block, convolution module",
}


def unknown_kind(name: str) -> str:
    """Return the message about a name that is none of `KINDS`: what it is called now, or the nearest name.

    Example:
        >>> unknown_kind("procedure"), unknown_kind("graphs")
        ('`procedure` is called `training_curves` now.', '`graphs`: no such figure. Did you mean `graph`?')
    """
    if (new := FIGURES.get(name)) is not None:
        return f"`{name}` is called `{new}` now."
    return f"`{name}`: no such figure.{did_you_mean(name, KINDS)}"
