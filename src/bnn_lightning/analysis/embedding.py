"""2-D embeddings of penultimate features: t-SNE or UMAP."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from bnn_lightning.distill.hooks import watch
from bnn_lightning.layers.module_utils import evaluation
from bnn_lightning.utils.checks import check_choice
from bnn_lightning.utils.optional import require

Method = Literal["tsne", "umap"]


@torch.no_grad()
def penultimate_features(network: nn.Module, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the classifier's inputs and the logits of images, in evaluation mode.

    Args:
        network: A backbone; its mode is put back.
        batches: Images, (N, C, H, W) each.

    Returns:
        Features, (N, D), and logits, (N, num_classes).

    Raises:
        ValueError: No images.
    """
    features, logits = [], []
    with evaluation(network):
        for images in batches:
            with watch(network, penultimate=True) as taps:
                logits.append(network(images))
            assert taps.features is not None
            features.append(taps.features.flatten(1))
    if not features:
        raise ValueError("There are no images to embed.")
    return torch.cat(features), torch.cat(logits)


def embed(
    features: Tensor, method: Method = "tsne", *, seed: int = 1, perplexity: float = 30.0, neighbors: int = 15
) -> Tensor:
    """Embed features in two dimensions by t-SNE or UMAP; equal seeds give equal embeddings.

    Args:
        features: (N, D).
        method: "tsne" (scikit-learn) or "umap" (umap-learn).
        seed: Seed of the method.
        perplexity: Perplexity of t-SNE, below N: about how many neighbors count.
        neighbors: Neighbors of UMAP.

    Returns:
        Points, (N, 2).

    Raises:
        ValueError: An unknown method, or a value out of its range.
        ModuleNotFoundError: The method's library is not installed.

    References:
        van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008; McInnes et al., UMAP, 2018.
    """
    check_choice("method", method, Method)
    values = features.detach().float().cpu().numpy()
    if method == "tsne":
        if not 0 < perplexity < len(values):
            raise ValueError(
                f"`perplexity` must be positive and below the number of images, {len(values)}, got {perplexity}."
            )
        manifold = require("sklearn.manifold", extra="visualize")
        made = manifold.TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    else:
        if not 2 <= neighbors < len(values):
            raise ValueError(
                f"`neighbors` must be at least 2 and below the number of images, {len(values)}, got {neighbors}."
            )
        made = require("umap", extra="umap").UMAP(n_neighbors=neighbors, random_state=seed)
    return torch.from_numpy(made.fit_transform(values)).float()


def neighbor_accuracy(points: Tensor, labels: Tensor) -> float:
    """Return the share of points whose nearest other point has the same label.

    Args:
        points: (N, D).
        labels: (N,).

    Example:
        >>> neighbor_accuracy(torch.tensor([[0.0], [0.1], [5.0]]), torch.tensor([3, 3, 4]))
        0.6666666865348816
    """
    distances = torch.cdist(points.float(), points.float()).fill_diagonal_(torch.inf)
    return float((labels[distances.argmin(1)] == labels).float().mean())
