"""The frame that XNOR-Net, Bi-Real Net, ReActNet and Real-to-Binary share on a ResNet: no batch norm in the head."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from bnn_lightning.models.backbone import Stem, check_image_size, check_size
from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.models.builder import register_binary
from bnn_lightning.models.conv_blocks import Unit
from bnn_lightning.models.resnet import StagedResNet


class UnitResNet(StagedResNet):
    """A binary ResNet: stem, four stages of units or blocks of units, global average, linear classifier.

    Stem and classifier are real. The stem is a 7x7 convolution with stride 2, batch norm and 3x3 max-pooling with
    stride 2 ("imagenet"), or a 3x3 convolution and batch norm ("cifar").

    Args:
        name: Name of the network, for messages.
        stem: "imagenet" or "cifar".
        width: Channels of the first stage; the others have 2, 4 and 8 times as many, and halve the resolution.
        depths: Blocks of each stage.
        **options: As `StagedResNet` takes them.

    Raises:
        ValueError: A value out of range; images that a stage would have to halve at a single pixel.
    """

    unit = Unit

    def __init__(self, name: str, *, stem: Stem, width: int, depths: Sequence[int], **options: Any) -> None:
        check_image_size(options["image_size"], stem, (17, 5), of=name)
        large = stem == "imagenet"
        check_size("width", width, of=name)
        widths = [width << stage for stage in range(len(depths))]
        super().__init__(stem=(7, 2) if large else (3, 1), widths=widths, depths=depths, **options)
        self.linear = nn.Linear(self.num_features, self.num_classes)


_DOC = """{title}

{counts}

Args:
    image_size: Height and width of the images, at least 17, or 5 with the stem for CIFAR.
    input_binarizer: None takes {binarizers[0]}.
    weight_binarizer: None takes {binarizers[1]}.
    width: Channels of the first stage; the others have 2, 4 and 8 times as many.
    stem: "imagenet" (7x7, stride 2, max-pooling) or "cifar" (3x3).

Raises:
    ValueError: A value out of range.

References:
    {papers}
"""


def register_unit_resnet(
    name: str,
    *,
    title: str,
    counts: str,
    papers: str,
    binarizers: tuple[str, str],
    unit: type[Unit],
    depths: Sequence[int],
    init: Callable[[nn.Module], object],
    block: Callable[..., nn.Module] | None = None,
    stem_act: Callable[[], nn.Module] | None = None,
) -> None:
    """Register the builder of a network of units.

    Args:
        name: The registered name.
        title: Summary line of the builder's docstring.
        counts: Parameters and multiply-accumulates, a paragraph of the docstring.
        papers: References of the docstring.
        binarizers: Names of the paper's own, of inputs and of weights, for the docstring.
        unit: Class of the units; it has the paper's own binarizers.
        depths: Blocks of each stage.
        init: Initializes the network in place.
        block: Makes a block of units; None makes a unit.
        stem_act: Makes what follows the stem's batch norm.
    """
    doc = _DOC.format(title=title, counts=counts, papers=papers, binarizers=binarizers)

    @register_binary(*unit.default_binarizers, name=name, doc=doc)
    def build(layers: LayerFactory, *, width: int = 64, stem: Stem = "imagenet", **frame: Any) -> UnitResNet:
        network = UnitResNet(
            name,
            stem=stem,
            act=nn.Identity() if stem_act is None else stem_act(),
            width=width,
            depths=depths,
            block=partial(unit if block is None else block, layers=layers),
            **frame,
        )
        init(network)
        return network
