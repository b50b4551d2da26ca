"""`bnn visualize embedding=...`: penultimate features of a run's network in the plane."""

from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from omegaconf import DictConfig

from bnn_lightning.analysis.embedding import Method, embed, neighbor_accuracy, penultimate_features
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualize.output import place_of, run_name, save, save_arrays, save_table
from bnn_lightning.cli.visualize.runs import read_run
from bnn_lightning.figures.embedding import plot_embedding
from bnn_lightning.utils.optional import require
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.log_filters import silence

_TITLES = {"tsne": "t-SNE", "umap": "UMAP"}
_LIBRARIES = {"tsne": ("sklearn", "visualize"), "umap": ("umap", "umap")}


@dataclass
class EmbeddingSettings:
    """The keys of `visualize/embedding.yaml`."""

    embedding: str
    out: str
    formats: list[str]
    dpi: int
    method: Any
    seed: int
    perplexity: float
    neighbors: int
    split: Any
    images: int
    batch_size: int
    trust: list[str] = field(default_factory=list)


def draw(config: DictConfig) -> None:
    """Embed the penultimate features of images, and draw them.

    Args:
        config: As composed by Hydra from `visualize/embedding.yaml`.

    Raises:
        UserError: A run that cannot be read, missing data or a missing library, or a value out of its range.
    """
    choices = {"split": ("train", "test"), "method": get_args(Method)}
    settings = read_settings(EmbeddingSettings, config, choices)
    silence()
    name = f"{settings.method}_{run_name(settings.embedding)}"
    place = place_of(settings.out, name, formats=settings.formats, dpi=settings.dpi)
    try:  # before anything long begins
        library, extra = _LIBRARIES[settings.method]
        require(library, extra=extra)
        run = read_run(settings.embedding, config, trust=settings.trust)
        images, labels = run.images(settings.split, settings.images)
        features, logits = penultimate_features(run.network, torch.split(images, settings.batch_size))
        points = embed(
            features,
            settings.method,
            seed=settings.seed,
            perplexity=settings.perplexity,
            neighbors=settings.neighbors,
        )
    except (ValueError, ModuleNotFoundError) as error:
        raise UserError(str(error)) from error
    top1 = 100 * float((logits.argmax(1) == labels).float().mean())
    near = 100 * neighbor_accuracy(features, labels)
    title = (
        f"{_TITLES[settings.method]} of the penultimate features of {len(labels):,} {settings.split} images\n"
        f"top-1 {top1:.1f} %; nearest feature of the same class {near:.1f} %"
    )
    save({"": plot_embedding(points, labels, class_names=run.class_names(), title=title)}, place)
    rows = zip(*points.T.tolist(), labels.tolist(), logits.argmax(1).tolist(), strict=True)
    save_table(["x", "y", "label", "predicted"], (list(row) for row in rows), place.path("csv"))
    arrays = {"features": features.numpy(), "logits": logits.numpy(), "labels": labels.numpy()}
    save_arrays(arrays, place.path("npz"))
