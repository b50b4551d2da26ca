import pytest
import torch
from torchvision.transforms.v2.functional import normalize

from bnn_lightning.models import Normalize, create_backbone

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def test_normalize_is_torchvisions():
    images = torch.rand(5, 3, 7, 6)
    assert torch.equal(Normalize(MEAN, STD, 3)(images), normalize(images, list(MEAN), list(STD)))


def test_without_constants_images_pass_as_they_are():
    images = torch.rand(2, 1, 3, 3)
    module = Normalize(None, None, 1)
    assert module(images) is images
    assert not module.state_dict()


def test_constants_travel_in_the_state_dict_and_are_not_learned():
    network = create_backbone("mlp", num_classes=2, image_size=4, width=4, mean=MEAN, std=STD)
    assert not [name for name, _ in network.named_parameters() if name.startswith("normalize")]
    other = create_backbone("mlp", num_classes=2, image_size=4, width=4, mean=STD, std=MEAN)
    other.load_state_dict(network.state_dict())
    images = torch.rand(3, 3, 4, 4)
    assert torch.equal(other.eval()(images), network.eval()(images))
    # A network that was built without normalization says that the checkpoint has one.
    with pytest.raises(RuntimeError, match=r"normalize\.mean"):
        create_backbone("mlp", num_classes=2, image_size=4, width=4).load_state_dict(network.state_dict())


def test_normalisation_is_the_first_module():
    network = create_backbone("resnet20", num_classes=10, image_size=32)
    assert next(iter(dict(network.named_children()))) == "normalize"


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (MEAN, None, "`mean` and `std` must be given together"),
        (MEAN[:1], STD, "`mean` must have one value for each of 3 channels"),
        (MEAN, STD[:2], "`std` must have one value for each of 3 channels"),
        (MEAN, (0.2, 0.0, 0.2), "`std` must be positive"),
    ],
)
def test_constants_that_do_not_fit_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Normalize(mean, std, 3)


def test_wrong_images_are_refused():
    module = Normalize(MEAN, STD, 3)
    with pytest.raises(ValueError, match=r"shape \(N, 3, H, W\), got \(2, 1, 4, 4\)"):
        module(torch.rand(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"got \(3, 4, 4\)"):
        module(torch.rand(3, 4, 4))
    with pytest.raises(TypeError, match=r"in \[0, 1\], got torch\.uint8"):
        module(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("option", ["num_classes", "in_channels"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "a", True, None])
def test_sizes_must_be_positive_whole_numbers(option, value):
    with pytest.raises(ValueError, match=f"`{option}` must be"):
        create_backbone("mlp", **{"num_classes": 2, "in_channels": 1, "image_size": 4, "width": 4, option: value})
