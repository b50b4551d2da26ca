"""Measure landscapes: networks, images, evaluators and files put together."""

import math
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from bnn_lightning.analysis.directions import filter_norms, layer_weights, perturbed_parameters, random_direction
from bnn_lightning.analysis.hessian import cross_entropies, largest_eigenvalue
from bnn_lightning.analysis.landscape import Landscape, grid, grid_points
from bnn_lightning.analysis.loss_grid import Classify, Evaluator, Problem, Surroundings, eager
from bnn_lightning.analysis.processes import scan
from bnn_lightning.cli.visualize.images import data_of, labelled_images
from bnn_lightning.cli.visualize.landscape_file import Identity, LandscapeFile, digest, empty_landscape
from bnn_lightning.cli.visualize.output import place_of, typeable
from bnn_lightning.cli.visualize.progress import clock, progress
from bnn_lightning.deploy.frontend.pack import check_binary
from bnn_lightning.deploy.runtime.repack import Repacker
from bnn_lightning.workflows.checkpoint import embedded_config, load_backbone, network_file, read_checkpoint
from bnn_lightning.workflows.errors import UserError

if TYPE_CHECKING:
    from bnn_lightning.cli.visualize.landscape import LandscapeSettings

Extras = dict[str, float]
# A packed loss that differs by more from the eager one, relative to it or to 1, is a fault.
_TOLERANCE = 0.01
# Images of a batch of the Hessian: it keeps the graph of the gradient as well.
_HESSIAN_BATCH = 64


def measure_runs(
    config: DictConfig, settings: "LandscapeSettings", runs: list[tuple[str, str]]
) -> dict[str, tuple[Landscape, Identity, Extras]]:
    """Measure what is missing in the files of runs, on the same images with the same seeds.

    Args:
        config: Of the command.
        settings: Read from it.
        runs: Path and name of each.

    Returns:
        By path: the landscape, what it was measured with, and the eigenvalues beside it.

    Raises:
        UserError: A run that cannot be read, runs that take different images, missing data, a file measured with
            something else, or a packed network that disagrees.
    """
    networks = {run: load_backbone(run, trust=settings.trust) for run, _ in runs}
    _check_alike(networks)
    first = network_file(runs[0][0])
    data = data_of(embedded_config(read_checkpoint(first), first), config)
    take = partial(labelled_images, data, networks[runs[0][0]], first, trust=settings.trust)
    images, labels = take(split=settings.split, count=settings.images)
    num_classes = getattr(networks[runs[0][0]], "num_classes", None)
    if num_classes is not None and int(labels.max()) >= num_classes:
        raise UserError(f"`{first}` is a network with num_classes={num_classes}, and the data have more classes.")
    bn_images = take(split="train", count=settings.bn_images)[0] if settings.bn_images else None
    found = {}
    for run, name in runs:
        problem = _problem(networks[run], images, labels, bn_images, settings)
        try:
            file = _file(problem, name, settings, alone=len(runs) == 1)
            _measure_missing(file, problem, settings)
            _measure_eigenvalues(file, problem, settings)
        except BrokenProcessPool as error:
            raise UserError(
                f"`{run}`: a worker ended by itself, perhaps for want of memory: take fewer (workers=1), or a smaller "
                "batch_size. The points that were measured are kept."
            ) from error
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"`{run}`: {error}") from error
        found[run] = (file.landscape, file.identity, file.extras)
    return found


def repacking(model: nn.Module) -> Callable[[], Classify]:
    """Evaluate on bits; at each point the network is packed again."""
    return Repacker(model)


def choose_evaluator(settings: "LandscapeSettings", network: nn.Module) -> tuple[str, Evaluator]:
    """Return how points are evaluated, and the name of it.

    Raises:
        ValueError: `evaluator=packed`, and the network cannot be packed.
    """
    if settings.evaluator == "eager" or (settings.evaluator == "auto" and on_gpu(settings)):
        return "eager", eager
    try:
        check_binary(network)
    except ValueError:
        if settings.evaluator == "packed":
            raise
        return "eager", eager
    return "packed", repacking


def on_gpu(settings: "LandscapeSettings") -> bool:
    """Whether points are measured on GPUs."""
    return settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())


def devices_of(settings: "LandscapeSettings") -> list[str]:
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
    network: nn.Module, images: Tensor, labels: Tensor, bn_images: Tensor | None, settings: "LandscapeSettings"
) -> Problem:
    try:
        directions = [
            random_direction(
                network, seed=settings.seed + index, perturb=settings.perturb, normalize=settings.normalize
            )
            for index in range(settings.dimensions)
        ]
        _, evaluator = choose_evaluator(settings, network)
    except ValueError as error:
        raise UserError(str(error)) from error
    return Problem(network, directions, images, labels, settings.batch_size, evaluator, bn_images)


def _file(problem: Problem, name: str, settings: "LandscapeSettings", *, alone: bool) -> LandscapeFile:
    kind = "landscape_line" if settings.dimensions == 1 else "landscape"
    suffix = "_bn" if settings.bn_images else ""
    stem = f"{kind}_{name}{suffix}"
    place = place_of(settings.out, stem)
    path = place.path("npz", "" if alone or place.stem == typeable(stem) else name)
    keys = ("dimensions", "points", "radius", "seed", "perturb", "normalize", "batch_size", "bn_images")
    identity: Identity = {key: getattr(settings, key) for key in keys}
    identity["network"] = digest(problem.model.state_dict())
    identity["images"] = digest({"images": problem.images, "labels": problem.labels})
    identity["evaluator"] = "eager" if problem.evaluator is eager else "packed"
    label = f"{name} (BN re-estimated)" if settings.bn_images else name
    return LandscapeFile(
        path, identity, empty_landscape(label, grid(settings.points, settings.radius), settings.dimensions)
    )


def _measure_missing(file: LandscapeFile, problem: Problem, settings: "LandscapeSettings") -> None:
    points = grid_points(file.landscape.steps, settings.dimensions)
    missing = file.missing
    label, total = file.landscape.name, len(points)
    print(f"{label}: {total - len(missing)} of {total} points are in {file.path}", flush=True)
    if not missing:
        return
    if problem.evaluator is not eager:
        print(f"{label}: packed and eager losses differ by {_check_packed(problem, points[0]):.2g} at most", flush=True)
    devices = devices_of(settings)
    started = time.monotonic()
    found = scan(problem, [(index, points[index]) for index in missing], devices=devices)
    for index, measured in progress(found, label=label, total=total, done=total - len(missing)):
        file.add(index, measured)
    seconds = clock(time.monotonic() - started)
    print(f"{label}: {len(missing)} points {file.identity['evaluator']}, {len(devices)} workers, {seconds}", flush=True)


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


def _measure_eigenvalues(file: LandscapeFile, problem: Problem, settings: "LandscapeSettings") -> None:
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
        print(f"{file.landscape.name}: {name} ...", flush=True)
        found = largest_eigenvalue(
            losses, list(parameters.values()), scales=by, iterations=settings.hessian_iterations, seed=settings.seed
        )
        if math.isnan(found.value):
            print(f"{name} did not converge in {found.products} products: raise hessian_iterations", flush=True)
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
