"""Names that have changed: on the command line they are errors that give the new name, in checkpoints they are read."""

from collections.abc import Collection, Mapping
from typing import Any

# The last commit that wrote all of the old names into checkpoints, and resumes them; some went later.
COMMIT = "d261637"
# Keys and groups, and what is below them.
KEYS = {
    "schedule": "lr_scheduler",
    "rivals": "baselines",
    "callbacks.mix_clip": "callbacks.channel_blend_clip",
    "callbacks.anneal.epochs": "task.progress_epochs",
    "callbacks.anneal.interval": "task.progress_interval",
    "callbacks.anneal": "task.progress_epochs",
    "callbacks.distill_progress.epochs": "task.progress_epochs",
    "callbacks.distill_progress.interval": "task.progress_interval",
    "callbacks.distill_progress": "task.progress_epochs",
    "distill.grain": "distill.weighting",
    "distill.share": "distill.scale",
}
# Options of groups.
OPTIONS = {
    **{
        f"experiment={data}_{model}": f"model={model} data={data}"
        for data, models in {
            "cifar10": ("bnext18", "bnext_tiny", "resnet18_adabin", "resnet20_adabin", "vgg_small_adabin"),
            "cifar100": ("bnext18", "bnext_tiny"),
            "imagenet": ("bnext_large", "bnext_middle", "bnext_small", "bnext_tiny"),
        }.items()
        for model in models
    },
    **{f"experiment=cifar10_{m}_skd": f"model={m} data=cifar10" for m in ("resnet18", "resnet20", "vgg_small")},
    "experiment=imagenet_reactnet_a_step1": "model=reactnet_a data=imagenet",
    "experiment=imagenet_real2binary18_step1": "model=real2binary18 data=imagenet",
    "experiment=imagenet_resnet18_skd": "model=resnet18_double_skip data=imagenet",
    **{
        f"teacher={name}": f"teacher=torchvision network.name={name}"
        for name in (
            *("convnext_tiny", "efficientnet_b0", "efficientnet_b2", "efficientnet_b4"),
            *("resnet18", "resnet34", "resnet50", "resnet101"),
        )
    },
    "distill=bnext_small": "distill=bnext_tiny",
    "distill=consecutive": "distill=ensemble teacher@distill.assistants.second=checkpoint",
    **{f"binarizer=temperature_{base}": f"binarizer=temperature base={base}" for base in ("libra", "xnor")},
    "lr_scheduler=cosine": "lr_scheduler=warmup_cosine warmup_epochs=0",
    "lr_scheduler=warmup_cosine_step": "lr_scheduler=warmup_cosine lr_scheduler.interval=step",
    "logger=none": "logger=csv",
    "precision=tf32": "matmul_precision=high",
    "param_groups=bnext": "param_groups.weight_decay=1e-3 param_groups.filter_weight_decay=1e-8",
    "callbacks=latent_clip": "callbacks.latent_clip.limit=1.0",
    "callbacks=bias_clip": "callbacks.bias_clip.limit=1.0",
    "callbacks=bn_reestimate": "callbacks.bn_reestimate.num_batches=100",
}
# Verbs, which run with a line that gives the new name.
VERBS = {"visualise": "visualize"}
# Kinds of figures of `visualize`.
FIGURES = {"procedure": "training_curves", "bank": "soft_label_heatmap"}
# Extras of the package; None is installed always.
EXTRAS = {"visualise": "visualize", "wandb": None, "rivals": "larq"}
# A scheduler without a warm-up, whose state and rates are those of its successor: it resumes.
_COSINE = "bnn_lightning.optim.cosine"
# `_target_`s in checkpoints.
TARGETS = {
    "bnn_lightning.data.Mix": "bnn_lightning.data.MixupCutmix",
    "bnn_lightning.data.TrivialAugment": "torchvision.transforms.v2.TrivialAugmentWide",
    "bnn_lightning.callbacks.MixClip": "bnn_lightning.callbacks.ChannelBlendClip",
    _COSINE: "bnn_lightning.optim.warmup_cosine",
}
_WEIGHTINGS = {"instance": "per_sample", "batch": "per_batch"}
_ENSEMBLE = "bnn_lightning.distill.GapEnsemble"
# Callbacks whose work the task does, and whose settings are the task's.
_PROGRESS = ("anneal", "distill_progress")


def new_key(key: str) -> str | None:
    """Return the new name of a key or group; None for one that was not renamed.

    Example:
        >>> new_key("schedule.interval"), new_key("callbacks.anneal.interval"), new_key("optimizer.lr")
        ('lr_scheduler.interval', 'task.progress_interval', None)
    """
    for old, new in KEYS.items():
        if key == old:
            return new
        if key.startswith(f"{old}.") and not new.startswith("task."):
            return new + key.removeprefix(old)
    return None


def with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a checkpoint with the names of today; it is equal where none was renamed.

    Args:
        config: As it lies in a checkpoint, which may come from elsewhere and be damaged.
    """
    renamed = _renamed({key: _retargeted(node) for key, node in config.items()}, "")
    callbacks, task, distill = (renamed.get(section) for section in ("callbacks", "task", "distill"))
    followed: Mapping[str, Any] = {}
    if isinstance(callbacks, Mapping):
        followed = next((callbacks[name] for name in _PROGRESS if isinstance(callbacks.get(name), Mapping)), {})
        kept = {key: node for key, node in callbacks.items() if key not in _PROGRESS}
        renamed["callbacks"] = _renamed(kept, "callbacks.")
    if isinstance(task, Mapping):
        progress = {f"progress_{key}": followed[key] for key in ("epochs", "interval") if key in followed}
        renamed["task"] = progress | dict(task)
    if isinstance(distill, Mapping) and distill.get("_target_") == _ENSEMBLE:
        own = renamed["distill"] = _renamed(distill, "distill.")
        weighting = own.get("weighting")
        if isinstance(weighting, str):
            own["weighting"] = _WEIGHTINGS.get(weighting, weighting)
    return renamed


def is_resumable(config: Mapping[str, Any]) -> bool:
    """Whether a run can resume from a checkpoint with this configuration: no changed name has a state.

    Example:
        >>> is_resumable({"lr_scheduler": {"_target_": "bnn_lightning.optim.cosine"}}), is_resumable({"schedule": None})
        (True, False)
    """
    kept = {key: _retargeted(node, (_COSINE,)) for key, node in config.items()}
    return with_new_names(config) == kept


def _renamed(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {KEYS.get(f"{prefix}{key}", f"{prefix}{key}").removeprefix(prefix): node for key, node in section.items()}


def _retargeted(node: Any, targets: Collection[str] = tuple(TARGETS)) -> Any:
    """Return a node with the names of today for these `_target_`s, wherever they stand in it."""
    if isinstance(node, list):
        return [_retargeted(item, targets) for item in node]
    if not isinstance(node, Mapping):
        return node
    new = {key: _retargeted(value, targets) for key, value in node.items()}
    if isinstance(target := new.get("_target_"), str) and target in targets:
        new["_target_"] = TARGETS[target]
        return {"warmup_epochs": 0, **new} if target == _COSINE else new
    return new
