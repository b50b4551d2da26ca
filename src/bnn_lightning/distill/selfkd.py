"""Self-knowledge distillation of SKD-BNN."""

from collections import defaultdict
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from bnn_lightning.distill.bank import BankMode, SoftLabelBank
from bnn_lightning.distill.base import Batch, Distiller, Outputs, check_label_smoothing
from bnn_lightning.distill.hooks import Taps, parts_of, watch
from bnn_lightning.distill.self_teacher import latent_dot, leave_statistics_alone, run_self_teacher
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.module_utils import binary_layers, trial, trial_images
from bnn_lightning.losses.cluster import cluster_loss
from bnn_lightning.losses.feature import (
    Normalization,
    channel_spatial_means,
    flat_feature_loss,
    unit_difference,
)
from bnn_lightning.losses.soft import soft_label_kl
from bnn_lightning.utils.checks import check_choice, check_not_negative, check_positive

ClusterOn = Literal["penultimate", "logits"]
FeaturePooling = Literal["channel_spatial", "none"]
TeacherDtype = Literal["bfloat16", "float16", "float32"]


class SelfKD(Distiller):
    r"""A binary network as its own teacher.

    The loss is "hard" + alpha * "feature" + beta * "label" + gamma * "cluster":

    - hard: cross-entropy with the labels;
    - feature: mean over the binary layers of the difference to the features of the self-teacher (`run_self_teacher`),
      which multiplies with the latent weights (`channel_spatial_loss`; `flat_feature_loss` for features (N, D));
    - label: `soft_label_kl` with the soft label of the class from the last epoch (`SoftLabelBank`); 0 in the first
      epoch, and for classes without a correct prediction so far;
    - cluster: `cluster_loss` of the classifier's inputs.

    A weight of 0 leaves the term out together with its work. In evaluation there is "hard" only.

    Of mixed images (`MixupCutmix`) the soft label is the mean of those of the classes, in their shares, and counts
    where all of these have one; the bank and the clusters take the class with the largest share.

    Under data parallelism the feature loss's norms and the cluster loss's means are those of each rank's part of the
    batch; the bank is that of all ranks (all-reduced once an epoch).

    Args:
        num_classes: Number of classes.
        alpha: Weight of "feature".
        beta: Weight of "label".
        temperature: T of "label".
        gamma: Weight of "cluster".
        normalization: Normalization of the feature loss: "reference" as published (almost inert), or "per_sample".
        feature_pooling: "channel_spatial" compares means of features (N, C, H, W), "none" the features themselves;
            features (N, D) are never pooled.
        cluster_on: "penultimate", the classifier's inputs, or "logits", as published for the network on MNIST.
        bank_mode: Predictions that enter the bank: "correct" ones, or "all".
        teacher_dtype: Precision of the teacher's products, of which only the signs are used: "bfloat16", "float16" or
            "float32"; None is that of the student. `sign_agreement` reports what it costs.
        label_smoothing: Label smoothing of "hard".

    Raises:
        ValueError: A value is out of its range.

    Example:
        >>> from bnn_lightning.models import create_backbone
        >>> backbone = create_backbone("resnet20", num_classes=10, in_channels=1, image_size=8)
        >>> distiller = SelfKD(num_classes=10)
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 1, 5]))
        >>> with distiller.watch(backbone) as taps:
        ...     logits = backbone(batch.images)
        >>> losses = distiller(batch, Outputs(logits, taps.features, taps))
        >>> list(losses), losses["label"].item()
        (['hard', 'feature', 'label', 'cluster'], 0.0)
        >>> distiller.total(losses).backward()

    References:
        Zeng, Wan, Gu, Shen, Self-knowledge distillation enhanced binary neural networks derived from underutilized
        information, Applied Intelligence 54(6), 2024, doi 10.1007/s10489-024-05444-8.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 1.0,
        beta: float = 0.05,
        temperature: float = 4.0,
        gamma: float = 0.01,
        normalization: Normalization = "reference",
        feature_pooling: FeaturePooling = "channel_spatial",
        cluster_on: ClusterOn = "penultimate",
        bank_mode: BankMode = "correct",
        teacher_dtype: TeacherDtype | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        for name, weight in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            check_not_negative(name, weight)
        check_positive("temperature", temperature)
        check_choice("normalization", normalization, Normalization)
        check_choice("feature_pooling", feature_pooling, FeaturePooling)
        check_choice("cluster_on", cluster_on, ClusterOn)
        if teacher_dtype is not None:
            check_choice("teacher_dtype", teacher_dtype, TeacherDtype)
        self.temperature = temperature
        self.normalization: Normalization = normalization
        self.feature_pooling = feature_pooling
        self.cluster_on = cluster_on
        self.teacher_dtype = teacher_dtype
        self.label_smoothing = check_label_smoothing(label_smoothing)
        terms = {"feature": alpha, "label": beta, "cluster": gamma}
        self.weights = {"hard": 1.0} | {name: weight for name, weight in terms.items() if weight > 0}
        self.bank = SoftLabelBank(num_classes, bank_mode)

    @property
    def records(self) -> bool:
        return "feature" in self.weights or self._reads_classifier

    @property
    def _reads_classifier(self) -> bool:
        return "cluster" in self.weights and self.cluster_on == "penultimate"

    def prepare(self, backbone: nn.Module) -> None:
        with self.watch(backbone):  # refuses a network without binary layers
            images = trial_images(backbone)
            if self._reads_classifier and not hasattr(backbone, "classifier_name") and images is not None:
                with trial(backbone):
                    backbone(images)  # finds it

    def watch(self, backbone: nn.Module) -> AbstractContextManager[Taps]:
        penultimate, stream = self._reads_classifier, "feature" in self.weights
        if not self.training or not (penultimate or stream):
            return nullcontext(Taps())
        return watch(backbone, penultimate=penultimate, stream=stream)

    def forward(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        logits, labels = outputs.logits, batch.labels
        losses = {"hard": self.hard_loss(logits, batch)}
        if not self.training:
            return losses
        if "feature" in self.weights:
            losses["feature"] = self.feature_loss(outputs.taps)
        if "label" in self.weights:
            target, valid = self.bank.target(batch.target)
            self.bank.update(logits, labels)
            losses["label"] = soft_label_kl(logits, target, self.temperature, valid=valid)
        if "cluster" in self.weights:
            features = logits if self.cluster_on == "logits" else outputs.features
            if features is None:
                raise RuntimeError('"cluster" needs `Outputs.features`: pass `taps.features` of `distiller.watch`.')
            losses["cluster"] = cluster_loss(features, labels, self.bank.num_classes)
        return losses

    def feature_loss(self, taps: Taps | None) -> Tensor:
        """Run the self-teacher and compare: mean over the tapped features of their losses, a scalar."""
        losses: list[Tensor] = []
        # Means of equal shape are compared at once: a few kernels instead of some forty for each feature.
        means: defaultdict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)

        def take(student: Tensor, teacher: Tensor) -> None:
            if student.ndim != 4 or self.feature_pooling == "none":
                losses.append(flat_feature_loss(student, teacher, self.normalization))
                return
            for pair in zip(channel_spatial_means(student), channel_spatial_means(teacher), strict=True):
                means[pair[0].shape].append(pair)

        number = 0 if taps is None else len(taps.tapped)
        run_self_teacher(Taps() if taps is None else taps, take, dot=partial(latent_dot, dtype=self._dtype))
        for pairs in means.values():
            student, teacher = (torch.stack(part) for part in zip(*pairs, strict=True))
            losses.append(unit_difference(student, teacher, self.normalization).sum())
        return torch.stack(losses).sum() / number

    @property
    def _dtype(self) -> torch.dtype | None:
        return None if self.teacher_dtype is None else getattr(torch, self.teacher_dtype)

    @torch.no_grad()
    def sign_agreement(self, backbone: nn.Module, images: Tensor) -> dict[str, float]:
        """Compare the teacher's signs in `teacher_dtype` with those of the precision of the images, for information.

        The backbone runs as it is, in training or evaluation; its statistics stay as they are.

        Args:
            backbone: A network that is or will be distilled.
            images: Shape (N, C, H, W).

        Returns:
            Share of equal signs by layer name; the stream goes on with those of `teacher_dtype`.
        """
        counts: dict[int, list[Tensor]] = {}

        def compare(layer: BinaryLayer, x: Tensor) -> Tensor:
            low, full = latent_dot(layer, x, self._dtype), latent_dot(layer, x, images.dtype)
            counts.setdefault(id(layer), []).append(((low < 0) == (full < 0)).double().mean())
            return low

        with watch(backbone, stream=True) as taps, ExitStack() as stack:
            leave_statistics_alone(parts_of(backbone).norms, stack)
            backbone(images)
        run_self_teacher(taps, lambda student, teacher: None, dot=compare)
        layers = binary_layers(backbone)
        return {name: torch.stack(counts[id(layer)]).mean().item() for name, layer in layers.items()}

    def sync(self) -> None:
        self.bank.sync()

    def end_epoch(self) -> None:
        self.bank.commit()
