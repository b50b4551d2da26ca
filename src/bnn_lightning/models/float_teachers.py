"""Real-valued classifiers of torchvision and timm behind the interface of our backbones: teachers."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bnn_lightning.functional.elementwise import spatial_mean
from bnn_lightning.models.backbone import Backbone, Normalize
from bnn_lightning.models.published_file import differences, read_published
from bnn_lightning.utils.image_size import ImageSize
from bnn_lightning.utils.optional import require

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_REBUILDING: ContextVar[bool] = ContextVar("_REBUILDING", default=False)


@contextmanager
def rebuilding() -> Iterator[None]:
    """Build networks without reading the weights that their training started from: a checkpoint has later ones."""
    token = _REBUILDING.set(True)
    try:
        yield
    finally:
        _REBUILDING.reset(token)


def is_rebuilding() -> bool:
    """Whether this is within `rebuilding`."""
    return _REBUILDING.get()


class RealNetwork(Backbone):
    """A classifier of another library, from images in [0, 1] to logits.

    Its normalization comes first, as in every backbone. The classifier is its last linear layer, or a 1x1 convolution
    at its end. It becomes `linear`, and what comes before it `body`. In a sequence of modules, such as SqueezeNet,
    activations and pooling may follow the convolution. They become `tail`, and the features are a map.

    Args:
        network: From normalized images of three channels to logits.
        num_classes: Width of the logits.
        in_channels: 3, or 1: gray images are shown to it on three channels.
        image_size: Height and width of the images; most such networks take any.
        mean: Normalization of the three channels; None leaves them in [0, 1].
        std: See `mean`.
        stages: Names, in `network`, of the modules whose outputs distillation compares; None looks for those of ResNets
            (`layer1` ...) and of networks with `features`.

    Raises:
        ValueError: `network` does not end with such a layer of the width `num_classes`, or has several heads; other
            channels than 1 or 3.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> real = RealNetwork(network, num_classes=5, in_channels=1, image_size=8)
        >>> real(torch.rand(2, 1, 8, 8)).shape, real.num_features
        (torch.Size([2, 5]), 8)
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int,
        in_channels: int = 3,
        image_size: ImageSize = 224,
        mean: Sequence[float] | None = IMAGENET_MEAN,
        std: Sequence[float] | None = IMAGENET_STD,
        stages: Sequence[str] | None = None,
    ) -> None:
        name, linear = _classifier(network, num_classes)
        tail = _cut_tail(network, name) if isinstance(linear, nn.Conv2d) else []
        if in_channels not in (1, 3):
            raise ValueError(f"`in_channels` must be 1 or 3 for {type(network).__name__}, got {in_channels}.")
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            num_features=linear.weight.shape[1],
        )
        self.normalize = Normalize(mean, std, 3)
        network.set_submodule(name, nn.Identity())
        self.body, self.linear, self.tail = network, linear, nn.Sequential(*tail)
        self.stages = list(_stages(network) if stages is None else stages)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the input of the classifier from images (N, C, H, W): (N, num_features), or a map with a `tail`."""
        if self.in_channels == 1:
            x = x.expand(-1, 3, -1, -1)
        features: Tensor = self.body(self.normalize(x))
        return features

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Compute logits, or with `pre_logits` the penultimate features (N, num_features), from the features."""
        if pre_logits:
            return spatial_mean(x).flatten(1) if x.dim() == 4 else x
        logits: Tensor = self.tail(self.linear(x))
        return logits

    def reset_classifier(self, num_classes: int) -> None:
        """Exchange the classifier for one of another width, with new weights."""
        old, self.num_classes = self.linear, num_classes
        if isinstance(old, nn.Linear):
            self.linear = nn.Linear(old.in_features, num_classes)
        else:
            self.linear = nn.Conv2d(old.in_channels, num_classes, 1, bias=old.bias is not None)

    def feature_taps(self) -> list[str]:
        """Return the names of the stages, in order."""
        return [f"body.{name}" for name in self.stages]


def torchvision_classifiers() -> list[str]:
    """Return the names of torchvision's classifiers."""
    # Imported late: it takes seconds, and only those who have such a teacher need it.
    from torchvision import models

    return list(models.list_models(module=models))


def torchvision_network(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: ImageSize = 224,
    pretrained: bool = True,
    version: str = "IMAGENET1K_V1",
    weights: str | None = None,
) -> RealNetwork:
    """Build a classifier of torchvision.

    Args:
        name: As torchvision has it: resnet34, efficientnet_b0, convnext_tiny ...
        num_classes: Width of the logits; 1000 for torchvision's own weights.
        in_channels: 3, or 1 for gray images.
        image_size: Height and width of the images.
        pretrained: Take torchvision's weights: from its cache, or, where there is a network, from its site. Without,
            the weights are random.
        version: Name of the weights. V2 of the ResNets scores higher and was trained with label smoothing.
        weights: A file with weights for `num_classes` classes, instead of torchvision's own.

    Raises:
        ValueError: Unknown name or version; or weights that do not fit.
        FileNotFoundError: The weights are not at hand; the message says which file to put where.

    Example:
        >>> network = torchvision_network("resnet18", num_classes=10, pretrained=False)
        >>> network.feature_taps()
        ['body.layer1', 'body.layer2', 'body.layer3', 'body.layer4']
    """
    from torchvision import models  # late: see `torchvision_classifiers`

    known = torchvision_classifiers()
    if name not in known:
        raise ValueError(f"torchvision has no classifier `{name}`. It has: {', '.join(known)}.")
    network = models.get_model(name, weights=None, num_classes=num_classes)
    if is_rebuilding():
        pass
    elif weights is not None:
        _load(network, read_published(weights, network.state_dict()).tensors, weights)
    elif pretrained:
        versions = models.get_model_weights(name)
        if version not in versions.__members__:
            raise ValueError(f"`version` of `{name}` must be one of {list(versions.__members__)}, got {version!r}.")
        _need_imagenet(name, num_classes)
        _load(network, _fetch(versions[version].url), name)
    if isinstance(network, models.SqueezeNet):  # its `forward`, as the sequence that it is
        parts = {"features": network.features, "classifier": network.classifier, "flatten": nn.Flatten()}
        network = nn.Sequential(OrderedDict(parts))
    return RealNetwork(network, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


def timm_network(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: ImageSize = 224,
    pretrained: bool = True,
    weights: str | None = None,
) -> RealNetwork:
    """Build a classifier of timm (`pip install 'bnn-lightning[teachers]'`), with its own normalization.

    Args:
        name: As timm has it, with the tag of its weights if there are several: convnext_tiny.fb_in1k ...
        num_classes: Width of the logits; 1000 for timm's own weights of ImageNet-1k.
        in_channels: 3, or 1 for gray images.
        image_size: Height and width of the images.
        pretrained: Take timm's weights: from its cache, or, where there is a network, from its site. Without, the
            weights are random.
        weights: A file with weights for `num_classes` classes (also safetensors), instead of timm's own.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: Unknown name, or weights that do not fit.
        FileNotFoundError: The weights are not at hand.
    """
    timm = require("timm", extra="teachers")
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0]}*")[:8]) or "nothing like it"
        raise ValueError(f"timm has no classifier `{name}`; it has {near}.")
    own = pretrained and weights is None and not is_rebuilding()
    if own:
        _need_imagenet(name, num_classes)
    try:
        network = timm.create_model(name, pretrained=own, num_classes=num_classes)
    except OSError as error:  # what reading the site or its cache ends with where there is no network
        raise FileNotFoundError(
            f"The weights of `{name}` cannot be fetched ({_reason(error)}). Fetch them where there is a network, and "
            "give the file: weights=<path>. For random weights: pretrained=false."
        ) from error
    except RuntimeError as error:
        raise ValueError(f"The weights of `{name}` cannot be loaded: {_reason(error)}") from error
    if weights is not None and not is_rebuilding():
        _load(network, _read_file(weights, network), weights)
    config = network.pretrained_cfg
    return RealNetwork(
        network,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=config.get("mean", IMAGENET_MEAN),
        std=config.get("std", IMAGENET_STD),
        stages=_timm_stages(network),
    )


def _classifier(network: nn.Module, num_classes: int) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return name and layer of a network's classifier, a convolution of averages as the linear layer that it is.

    Raises:
        ValueError: See `RealNetwork`.
    """
    modules = list(network.named_modules())
    fitting = [(name, m) for name, m in modules if isinstance(m, nn.Linear) and m.out_features == num_classes]
    heads = [name for name, _ in fitting if name.startswith("head")]
    if len(heads) > 1:
        raise ValueError(
            f"{type(network).__name__} must have one classifier, and has {len(heads)}: {', '.join(heads)}."
        )
    weighted = [(place, m) for place, (_, m) in enumerate(modules) if isinstance(m, nn.Linear | nn.Conv2d)]
    linears = [(name, m) for name, m in modules if isinstance(m, nn.Linear)]
    if linears and linears[-1] in fitting:
        return linears[-1]
    place, last = weighted[-1] if weighted else (0, None)
    has = f"the last is of width {linears[-1][1].out_features}" if linears else "it has none"
    if isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1) and last.out_channels == num_classes:
        behind = [m for _, m in modules[place + 1 :] if not isinstance(m, nn.Flatten | nn.Identity | nn.Dropout)]
        if not behind:
            return modules[place][0], _as_linear(last)
        if _in_sequences(network, modules[place][0]):
            return modules[place][0], last
        has = f"{type(behind[0]).__name__} follows its last convolution, `{modules[place][0]}`"
    raise ValueError(
        f"{type(network).__name__} must end with a linear layer of width `num_classes`={num_classes}; {has}."
    )


def _in_sequences(network: nn.Module, name: str) -> bool:
    """Whether a module lies in sequences alone, so that what follows it is known."""
    parents = [network.get_submodule(".".join(name.split(".")[:depth])) for depth in range(name.count(".") + 1)]
    return all(type(parent) is nn.Sequential for parent in parents)


def _cut_tail(network: nn.Module, name: str) -> list[nn.Module]:
    """Take the modules that follow one in its sequences out of the network, and return them in order."""
    tail: list[nn.Module] = []
    parts = name.split(".")
    for depth in reversed(range(len(parts))):
        sequence = network.get_submodule(".".join(parts[:depth]))
        names = [child for child, _ in sequence.named_children()]
        for child in names[names.index(parts[depth]) + 1 :]:
            tail.append(sequence.get_submodule(child))
            sequence.set_submodule(child, nn.Identity())
    return tail


def _as_linear(conv: nn.Conv2d) -> nn.Linear:
    linear = nn.Linear(conv.in_channels, conv.out_channels, conv.bias is not None, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().flatten(1))
    if conv.bias is not None:
        linear.bias = nn.Parameter(conv.bias.detach())
    return linear


def _timm_stages(network: nn.Module) -> list[str] | None:
    names = [entry["module"] for entry in getattr(network, "feature_info", []) if "." not in entry["module"]]
    return names if len(names) > 1 else None  # where the stages are in a container, the one name is that of the stem


def _stages(network: nn.Module) -> list[str]:
    named = [name for name, _ in network.named_children() if name.startswith("layer") and name[5:].isdigit()]
    features = getattr(network, "features", None)
    if named or not isinstance(features, nn.Sequential):
        return named
    # The last batch norm of a DenseNet is followed by a ReLU in place.
    return [f"features.{name}" for name, child in features.named_children() if not isinstance(child, nn.BatchNorm2d)]


def _need_imagenet(name: str, num_classes: int) -> None:
    if num_classes != 1000:
        raise ValueError(
            f"The published weights of `{name}` know 1000 classes, and `num_classes` is {num_classes}: give a file of "
            "your own (weights=<path>), or take random weights (pretrained=false)."
        )


def _read_file(path: str, network: nn.Module) -> Mapping[str, Tensor]:
    if not path.endswith(".safetensors"):
        return read_published(path, network.state_dict()).tensors
    if not Path(path).is_file():
        raise FileNotFoundError(f"`weights`: `{path}` is not a file.")
    return load_file(path)


def _fetch(url: str) -> Mapping[str, Tensor]:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (URLError, OSError) as error:
        file = url.rpartition("/")[2]
        raise FileNotFoundError(
            f"`{url}` cannot be fetched ({_reason(error)}). Put `{file}` into `{folder}`, or give the file: "
            "weights=<path>. For random weights: pretrained=false."
        ) from error
    return state


def _load(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    wanted = network.state_dict()
    # Files of before 2017 have no counters of batches.
    missing = [k for k in wanted if k not in tensors and not k.endswith("num_batches_tracked")]
    unknown = [k for k in tensors if k not in wanted]
    found = differences(wanted, tensors, missing=missing, unknown=unknown)
    if found:
        raise ValueError(f"The weights of `{source}` do not fit {type(network).__name__}. {' '.join(found)}")
    network.load_state_dict(tensors, strict=False)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
