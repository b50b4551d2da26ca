"""2-D embedding (t-SNE, UMAP) of the penultimate features of a run's network."""

from dataclasses import dataclass, field
from typing import Any, get_args

import torch

from bnn_lightning.analysis.embedding import Method, embed, neighbor_accuracy, penultimate_features
from bnn_lightning.figures.embedding import plot_embedding
from bnn_lightning.utils.optional import require
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, run_name
from bnn_lightning.workflows.figure_kinds.runs import read_run
from bnn_lightning.workflows.opened import Described
from bnn_lightning.workflows.settings import choice

_TITLES = {"tsne": "t-SNE", "umap": "UMAP"}
_LIBRARIES = {"tsne": ("sklearn", "visualize"), "umap": ("umap", "umap")}


@dataclass(kw_only=True)
class EmbeddingSettings(FigureSettings):
    """The keys of `visualize/embedding.yaml`."""

    embedding: str
    method: Any = field(default="tsne", metadata={"choices": get_args(Method)})
    seed: int = 1
    perplexity: float = 30.0
    neighbors: int = 15
    split: str = choice("train", "test", default="test")
    images: int = 2000
    batch_size: int = 250

    def stem(self, described: Described) -> str:
        return f"{self.method}_{run_name(self.embedding)}"


def draw(settings: EmbeddingSettings, described: Described, place: Place) -> Drawing:
    """Embed the penultimate features of images."""
    library, extra = _LIBRARIES[settings.method]
    require(library, extra=extra)  # before anything long begins
    run = read_run(settings.embedding, described, trust=settings.trust)
    images, labels = run.images(settings.split, settings.images)
    features, logits = penultimate_features(run.network, torch.split(images, settings.batch_size))
    options = {key: getattr(settings, key) for key in ("seed", "perplexity", "neighbors")}
    points = embed(features, settings.method, **options)
    top1 = 100 * float((logits.argmax(1) == labels).float().mean())
    near = 100 * neighbor_accuracy(features, labels)
    title = (
        f"{_TITLES[settings.method]} of the penultimate features of {len(labels):,} {settings.split} images\n"
        f"top-1 {top1:.1f} %; nearest feature of the same class {near:.1f} %"
    )
    rows = zip(*points.T.tolist(), labels.tolist(), logits.argmax(1).tolist(), strict=True)
    arrays = {"features": features.numpy(), "logits": logits.numpy(), "labels": labels.numpy()}
    figure = plot_embedding(points, labels, class_names=run.class_names(), title=title)
    return Drawing({"": figure}, (["x", "y", "label", "predicted"], rows), arrays)
