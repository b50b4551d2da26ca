"""Kinds of figures, a module each: what a kind needs, measures and draws."""

# Each module defines `Settings` and `draw`.
KINDS = {
    "training_curves": "how trainings went: loss, accuracy, learning rate, annealing, flipped signs, gradients",
    "comparison": "accuracy against operations, size or latency: published networks and runs of ours",
    "binarization": "how binary networks are: parameters, products, operations",
    "graph": "a block, a module or a network as a graph: SVG, TensorBoard, ONNX",
    "landscape": "the loss around trained networks: line, contour, surface, and how sharp it is",
    "modules": "convolution modules side by side",
    "feature_maps": "what binary layers see of an image: inputs and their signs",
    "embedding": "penultimate features in the plane, colored by class: t-SNE or UMAP",
    "soft_label_heatmap": "the soft-label bank of self-knowledge distillation as a heat map",
    "signs": "signs of weights and activations, layer by layer",
    "surrogates": "value and gradient of binarizers",
    "pipeline": "a backbone, a block of it, and the block's convolution module",
}
