"""Losses at a point: beside plain torch, on one process and on two, packed and eager."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.analysis import Measured, Problem, Surroundings, eager, random_direction, scan
from bnn_lightning.deploy import Repacker
from bnn_lightning.layers.module_utils import binary_layers
from bnn_lightning.models import create_backbone


def problem(**options: object) -> Problem:
    torch.manual_seed(0)
    model = create_backbone("resnet20", num_classes=4, image_size=32, width=4).eval()
    images, labels = torch.rand(10, 3, 32, 32), torch.randint(0, 4, (10,))
    directions = [random_direction(model, seed=seed) for seed in (1, 2)]
    return Problem(model, directions, images, labels, **({"batch_size": 4} | options))  # type: ignore[arg-type]


def moved(given: Problem, steps: tuple[float, ...]) -> nn.Module:
    model = copy.deepcopy(given.model)
    with torch.no_grad():
        for step, direction in zip(steps, given.directions, strict=True):
            for name, tensor in direction.items():
                model.get_parameter(name).add_(tensor, alpha=step)
    return model


@pytest.mark.parametrize("steps", [(0.0, 0.0), (0.5, -0.25), (1.0, 1.0)])
def test_point_is_that_of_plain_torch(steps: tuple[float, float]) -> None:
    given = problem()
    found = Surroundings(given).at(steps)
    model = moved(given, steps)
    with torch.no_grad():
        logits = model(given.images)
    assert found.loss == pytest.approx(F.cross_entropy(logits, given.labels).item(), rel=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(1) == given.labels).float().mean().item())
    pairs = zip(binary_layers(model).values(), binary_layers(given.model).values(), strict=True)
    flips = [one.binary_weight != other.binary_weight for one, other in pairs]
    assert found.flipped == pytest.approx(sum(f.sum().item() for f in flips) / sum(f.numel() for f in flips))


@pytest.mark.parametrize("step", [0.25, 0.5, 1.0])
def test_share_of_flipped_gaussian_signs_is_an_angle(step: float) -> None:
    """Gaussian latents and direction: arctan(step) / pi, by the symmetry of the Gaussian."""
    model = create_backbone("mlp", num_classes=4, in_channels=1, image_size=8, width=512).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for layer in binary_layers(model).values():
            layer.weight.normal_()
    given = Problem(model, [random_direction(model, seed=1)], torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
    around = Surroundings(given)
    for side in (step, -step):
        assert around.at((side,)).flipped == pytest.approx(math.atan(step) / math.pi, abs=0.005)


def test_float_network_has_no_signs() -> None:
    model = create_backbone("resnet20", num_classes=4, image_size=32, width=4, binary=False).eval()
    given = Problem(model, [random_direction(model, seed=1)], torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    assert math.isnan(Surroundings(given).at((0.5,)).flipped)


def test_packed_losses_are_the_eager_ones() -> None:
    packed, simulated = Surroundings(problem(evaluator=Repacker)), Surroundings(problem(evaluator=eager))
    for steps in ((0.0, 0.0), (0.3, 0.1), (-1.0, 1.0), (0.0, 0.0)):
        one, other = packed.at(steps), simulated.at(steps)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one[1:] == other[1:]


def test_batch_norm_estimated_anew_and_put_back() -> None:
    bn_images = torch.rand(8, 3, 32, 32)
    given = problem(bn_images=bn_images)
    state = {name: tensor.clone() for name, tensor in given.model.state_dict().items()}
    found = Surroundings(given).at((0.5, 0.0))
    assert all(torch.equal(tensor, state[name]) for name, tensor in given.model.state_dict().items())
    model = moved(given, (0.5, 0.0))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:  # two batches of four: means of their means and variances
            norm.momentum = None
            norm.reset_running_stats()
            norm.train()
        model(bn_images[:4])
        model(bn_images[4:])
        logits = model.eval()(given.images)
    assert found.loss == pytest.approx(F.cross_entropy(logits, given.labels).item(), rel=1e-5)
    assert found.loss != pytest.approx(Surroundings(problem()).at((0.5, 0.0)).loss, rel=1e-3)


@pytest.mark.slow
def test_two_processes_measure_what_one_does() -> None:
    points = [(index, (0.25 * index, -0.5)) for index in range(5)]
    one = list(scan(problem(), points))
    assert [index for index, _ in one] == list(range(5))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert sorted(scan(problem(evaluator=Repacker), points, devices=["cpu", "cpu"])) == sorted(
            scan(problem(evaluator=Repacker), points)
        )
    finally:
        torch.set_num_threads(threads)
    assert all(isinstance(found, Measured) for _, found in one)


def test_what_cannot_be_sent_or_measured_is_refused() -> None:
    def here(model: nn.Module) -> Callable[[], Callable[[Tensor], Tensor]]:
        return lambda: model

    points = [(0, (0.0, 0.0)), (1, (0.1, 0.0))]
    with pytest.raises(ValueError, match="cannot be sent to 2 processes"):
        list(scan(problem(evaluator=here), points, devices=["cpu", "cpu"]))
    with pytest.raises(ValueError, match="`devices` is empty"):
        list(scan(problem(), points, devices=[]))
    given = problem()
    with pytest.raises(ValueError, match="must be as many, got 10 and 3"):
        Surroundings(Problem(given.model, given.directions, given.images, given.labels[:3]))
