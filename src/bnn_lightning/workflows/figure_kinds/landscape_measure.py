"""Measure landscapes: networks, images, evaluators and files put together."""

import logging
import math
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bnn_lightning.analysis.directions import (
    Normalized,
    Perturbed,
    filter_norms,
    layer_weights,
    perturbed_parameters,
    random_direction,
)
from bnn_lightning.analysis.hessian import cross_entropies, largest_eigenvalue
from bnn_lightning.analysis.landscape import Landscape, grid, grid_points, landscape_of
from bnn_lightning.analysis.loss_grid import Evaluator, Problem, Surroundings, eager
from bnn_lightning.analysis.processes import scan
from bnn_lightning.deploy.frontend.pack import check_binary
from bnn_lightning.deploy.runtime.repack import Repacker
from bnn_lightning.workflows.checkpoint import load_backbone
from bnn_lightning.workflows.ending import duration
from bnn_lightning.workflows.errors import UserError, as_user_error
from bnn_lightning.workflows.figure_kinds.base import FigureSettings, place_of, typeable
from bnn_lightning.workflows.figure_kinds.landscape_file import Identity, LandscapeFile, digest
from bnn_lightning.workflows.figure_kinds.runs import read_run
from bnn_lightning.workflows.messages import LOGGER, say
from bnn_lightning.workflows.opened import Described
from bnn_lightning.workflows.settings import choice

Extras = dict[str, float]
# A packed loss that differs by more from the eager one, relative to it or to 1, is a fault.
_TOLERANCE = 0.01
# Images of a batch of the Hessian: it keeps the graph of the gradient as well.
_HESSIAN_BATCH = 64


@dataclass(kw_only=True)
class MeasureSettings(FigureSettings):
    """Keys of the measurement."""

    dimensions: int = 2
    points: int = 51
    radius: float = 1.0
    seed: int = 1
    perturb: Any = field(default="weights", metadata={"choices": get_args(Perturbed)})
    normalize: Any = field(default="filter", metadata={"choices": get_args(Normalized)})
    split: str = choice("train", "test")
    images: int = 1000
    batch_size: int = 250
    bn_images: int = 0
    evaluator: str = choice("auto", "packed", "eager")
    device: str = choice("auto", "cpu", "cuda")
    workers: int | None = None
    hessian_images: int = 256
    hessian_iterations: int = 20

    @property
    def kind(self) -> str:
        """First part of the files' names."""
        return "landscape_line" if self.dimensions == 1 else "landscape"


def measure_runs(
    described: Described, settings: MeasureSettings, runs: list[tuple[str, str]], ending: str = ""
) -> dict[str, tuple[Landscape, Identity, Extras]]:
    """Measure the missing points in the files of runs, on the same images with the same seeds.

    Args:
        described: Data in the place of the first run's own.
        settings: Settings of the measurement.
        runs: Path and name of each.
        ending: See `place_of`.

    Returns:
        By path: the landscape, what it was measured with, and the eigenvalues beside it.

    Raises:
        UserError: A run that cannot be read, runs that take different images, missing data, a file measured with
            something else, or a packed network that disagrees.
    """
    networks = {run: load_backbone(run, trust=settings.trust) for run, _ in runs}
    _check_alike(networks)
    first = read_run(runs[0][0], described, trust=settings.trust)
    images, labels = first.images(settings.split, settings.images)
    num_classes = getattr(first.network, "num_classes", None)
    if num_classes is not None and int(labels.max()) >= num_classes:
        raise UserError(f"`{first.file}` is a network with num_classes={num_classes}, and the data have more classes.")
    bn_images = first.images("train", settings.bn_images)[0] if settings.bn_images else None
    found = {}
    for run, name in runs:
        problem = _problem(networks[run], images, labels, bn_images, settings)
        try:
            with as_user_error(f"`{run}`: ", (ValueError,)):
                file = _file(problem, name, settings, ending, alone=len(runs) == 1)
                _measure_missing(file, problem, settings)
                _measure_eigenvalues(file, problem, settings)
        except BrokenProcessPool as error:
            raise UserError(
                f"`{run}`: a worker ended by itself, perhaps for want of memory: take fewer (workers=1), or a smaller "
                "batch_size. The points that were measured are kept."
            ) from error
        found[run] = (file.landscape, file.identity, file.extras)
    return found


def choose_evaluator(settings: MeasureSettings, network: nn.Module) -> Evaluator:
    """Return the evaluator of points: the network itself, or its bits, packed again at each point.

    Raises:
        ValueError: `evaluator=packed`, and the network cannot be packed.
    """
    if settings.evaluator == "eager" or (settings.evaluator == "auto" and on_gpu(settings)):
        return eager
    try:
        check_binary(network)
    except ValueError:
        if settings.evaluator == "packed":
            raise
        return eager
    return Repacker


def on_gpu(settings: MeasureSettings) -> bool:
    """Whether points are measured on GPUs."""
    return settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())


def devices_of(settings: MeasureSettings) -> list[str]:
    """Return the device of each worker: all GPUs, or as many processes on the CPU as torch has threads.

    Raises:
        UserError: A GPU is asked for where there is none.
    """
    if not on_gpu(settings):
        return ["cpu"] * (settings.workers or torch.get_num_threads())
    if not torch.cuda.is_available():
        raise UserError("`device` is cuda, and there is no GPU here; on the CPU: device=cpu.")
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [gpus[index % len(gpus)] for index in range(settings.workers or len(gpus))]


def _problem(
    network: nn.Module, images: Tensor, labels: Tensor, bn_images: Tensor | None, settings: MeasureSettings
) -> Problem:
    directions = [
        random_direction(network, seed=settings.seed + index, perturb=settings.perturb, normalize=settings.normalize)
        for index in range(settings.dimensions)
    ]
    evaluator = choose_evaluator(settings, network)
    return Problem(network, directions, images, labels, settings.batch_size, evaluator, bn_images)


def _file(problem: Problem, name: str, settings: MeasureSettings, ending: str, *, alone: bool) -> LandscapeFile:
    stem = f"{settings.kind}_{name}{'_bn' if settings.bn_images else ''}"
    place = place_of(settings.out, stem, ending=ending)
    path = place.path("npz", "" if alone or place.stem == typeable(stem) + ending else name)
    keys = ("dimensions", "points", "radius", "seed", "perturb", "normalize", "batch_size", "bn_images")
    identity: Identity = {key: getattr(settings, key) for key in keys}
    identity["network"] = digest(problem.model.state_dict())
    identity["images"] = digest({"images": problem.images, "labels": problem.labels})
    identity["evaluator"] = "eager" if problem.evaluator is eager else "packed"
    label = f"{name} (BN re-estimated)" if settings.bn_images else name
    nothing = landscape_of(label, grid(settings.points, settings.radius), settings.dimensions, [])
    return LandscapeFile(path, identity, nothing)


def _measure_missing(file: LandscapeFile, problem: Problem, settings: MeasureSettings) -> None:
    points = grid_points(file.landscape.steps, settings.dimensions)
    missing = file.missing
    label, total = file.landscape.name, len(points)
    say(f"{label}: {total - len(missing)} of {total} points are in {file.path}")
    if not missing:
        return
    if problem.evaluator is not eager:
        say(f"{label}: packed and eager losses differ by {_check_packed(problem, points[0]):.2g} at most")
    devices = devices_of(settings)
    found = scan(problem, [(index, points[index]) for index in missing], devices=devices)
    pause = 0.2 if sys.stderr.isatty() else 60.0  # of a log
    hidden = not LOGGER.isEnabledFor(logging.INFO)  # called from Python, where messages are not shown either
    shown = {"initial": total - len(missing), "mininterval": pause, "maxinterval": pause, "disable": hidden}
    with tqdm(found, label, total, **shown) as bar:
        for index, measured in bar:
            file.add(index, measured)
        seconds = bar.format_dict["elapsed"]
    evaluator = file.identity["evaluator"]
    say(f"{label}: {len(missing)} points {evaluator}, {len(devices)} workers, {duration(seconds)}")


def _check_packed(problem: Problem, corner: tuple[float, ...]) -> float:
    """Return by how much packed losses differ from eager ones at the center, halfway to a corner, and there.

    Raises:
        UserError: By too much.
    """
    few = replace(problem, images=problem.images[: problem.batch_size], labels=problem.labels[: problem.batch_size])
    packed, simulated = Surroundings(few), Surroundings(replace(few, evaluator=eager))
    largest = 0.0
    for share in (0.0, 0.5, 1.0):
        steps = [share * step for step in corner]
        one, other = packed.at(steps).loss, simulated.at(steps).loss
        largest = max(largest, abs(one - other))
        if not abs(one - other) <= _TOLERANCE * max(1.0, abs(other)):
            raise UserError(
                f"The packed loss is {one:.6g}, and the eager one {other:.6g}, at {steps}: evaluator=eager."
            )
    return largest


def _measure_eigenvalues(file: LandscapeFile, problem: Problem, settings: MeasureSettings) -> None:
    asked = {"hessian_images": settings.hessian_images, "hessian_iterations": settings.hessian_iterations}
    if not settings.hessian_images or asked.items() <= file.extras.items():
        return
    device = devices_of(settings)[0]
    model = problem.model.to(device).eval()
    weights = layer_weights(model)
    parameters = perturbed_parameters(model, settings.perturb)
    scales = [filter_norms(name, p, weights=weights).expand_as(p) for name, p in parameters.items()]
    images, labels = (part[: settings.hessian_images].to(device) for part in (problem.images, problem.labels))
    losses = cross_entropies(model, images, labels, batch_size=min(_HESSIAN_BATCH, settings.batch_size))
    for name, by in (("hessian_surrogate", None), ("hessian_surrogate_filter", scales)):
        say(f"{file.landscape.name}: {name} ...")
        found = largest_eigenvalue(
            losses, list(parameters.values()), scales=by, iterations=settings.hessian_iterations, seed=settings.seed
        )
        if math.isnan(found.value):
            say(f"{name} did not converge in {found.products} products: raise hessian_iterations")
        file.extras[name] = found.value
        file.extras[f"{name}_residual"] = found.residual
    file.extras |= asked
    file.write()


def _check_alike(networks: dict[str, nn.Module]) -> None:
    """Refuse networks that do not take the same images to the same classes."""
    facts = {
        run: tuple(getattr(network, key, None) for key in ("in_channels", "image_size", "num_classes"))
        for run, network in networks.items()
    }
    if len(set(facts.values())) > 1:
        shown = "; ".join(f"{run}: {channels} x {size}, {classes}" for run, (channels, size, classes) in facts.items())
        raise UserError(f"`landscape` names networks of different images or classes: {shown}.")
