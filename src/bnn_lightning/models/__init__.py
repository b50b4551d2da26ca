"""Backbones: the networks that are trained, one paper family a file, built by name through a registry."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "backbone": ["Backbone", "Normalize"],
        "binary_alexnet": ["BinaryAlexNet"],
        "binary_densenet": ["BinaryDenseNet"],
        "binarized": ["binary_timm", "binary_torchvision"],
        "bnext": ["BNext", "BNextBlock"],
        "bnext18": ["BNext18"],
        "bnext_units": ["BNextConv", "BNextUnit"],
        "checkpoints": ["ImportReport", "load_published"],
        "meliusnet": ["MeliusNet"],
        "mlp": ["MLP"],
        "float_teachers": ["RealNetwork", "timm_network", "torchvision_network"],
        "conv_blocks": ["BiRealUnit", "RealToBinaryUnit", "ReActUnit", "XNORUnit"],
        "network_graph": ["Edge", "NetworkGraph", "GraphNode", "to_depth", "with_repeats", "without_weights"],
        "quicknet": ["QuickNet"],
        "reactnet": ["ReActNetA"],
        "registry": ["backbone_signature", "create_backbone", "list_backbones", "register_backbone"],
        "resnet": ["ResNet"],
        "resnet_e": ["ResNetE"],
        "resnet_bnn": ["UnitResNet"],
        "vgg_small": ["VGGSmall"],
    },
)
