"""The published hyper-parameters (of papers, of their code and logs), number by number."""

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.models import create_backbone
from bnn_lightning.workflows.building import build, check_sections

sys.path.insert(0, str(Path(__file__).parent))
from runs import words_of_run

Composed = Callable[..., dict[str, Any]]
RECIPES = Path(__file__).parents[2] / "conf" / "recipe"

#          run: epochs, warm-up, peak rate, first rate, decay, batch
PUBLISHED = {
    "cifar10_vgg_small_skd": (600, 8, 0.05, 0.005556, 1e-4, 128),
    "cifar10_resnet20_skd": (700, 8, 0.1, 0.011111, 1e-4, 128),
    "cifar10_resnet18_skd": (800, 16, 0.3, 0.017647, 1e-5, 128),
    "imagenet_resnet18_skd": (128, 8, 0.1, 0.011111, 1e-5, 256),
    "imagenet_resnet18_skd_stage2": (128, 0, 0.001, 0.001, 1e-5, 256),
    "mnist_mlp_skd": (100, 0, 0.01, 0.01, 0.0, 256),
}


@pytest.mark.parametrize("distill", ["skd", "none"])
@pytest.mark.parametrize("experiment", PUBLISHED)
def test_published_recipe(experiment: str, distill: str, composed: Composed) -> None:
    epochs, warmup, peak, first, decay, batch = PUBLISHED[experiment]
    chosen = [] if distill == "skd" else ["distill=none"]
    config = composed(*words_of_run(experiment), "init_from=x", *chosen)
    check_sections(config)
    assert config["distill"]["_target_"].endswith("SelfKD" if distill == "skd" else "HardLabels")
    assert (config["epochs"], config["trainer"]["max_epochs"], config["lr_scheduler"]["epochs"]) == (epochs,) * 3
    assert config["task"]["progress_epochs"] == epochs
    assert config["data"]["batch_size"] == batch
    assert config["trainer"]["precision"] == "32-true"
    network = nn.Linear(2, 2)
    groups = build(config["param_groups"], at="param_groups")(network)
    assert {group["weight_decay"] for group in groups} == {decay}
    optimizer = build(config["optimizer"], at="optimizer")(groups)
    assert config["lr_scheduler"]["warmup_epochs"] == warmup
    assert optimizer.param_groups[0]["lr"] == peak
    build(config["lr_scheduler"], at="lr_scheduler")(optimizer, steps_per_epoch=10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize("experiment", [name for name in PUBLISHED if "mnist" not in name])
def test_published_sgd(experiment: str, composed: Composed) -> None:
    optimizer = composed(*words_of_run(experiment), "init_from=x")["optimizer"]
    assert (optimizer["_target_"], optimizer["momentum"], optimizer["nesterov"]) == ("torch.optim.SGD", 0.9, False)


def test_published_mnist(composed: Composed) -> None:
    config = composed("experiment=mnist_mlp_skd")
    assert config["optimizer"]["_target_"] == "torch.optim.Adam"
    assert config["model"]["width"] == 6144
    assert config["data"]["drop_last"] is False
    assert config["callbacks"]["bias_clip"]["limit"] == 1.0
    assert config["callbacks"]["latent_clip"]["limit"] is None
    assert config["distill"]["cluster_on"] == "logits"
    adam = torch.optim.Adam([torch.zeros(1)], lr=0.01)
    scheduler = build(config["lr_scheduler"], at="lr_scheduler")(adam, steps_per_epoch=1)["scheduler"]
    assert 0.01 * scheduler.lr_lambdas[0](50) == pytest.approx(0.01 * (1 + 1e-3) / 2)
    assert 0.01 * scheduler.lr_lambdas[0](99) == pytest.approx(1e-5, rel=0.3)


@pytest.mark.parametrize("experiment", [name for name in PUBLISHED if "cifar" in name])
def test_published_cifar_data(experiment: str, composed: Composed) -> None:
    data = composed(*words_of_run(experiment))["data"]
    augment = {key: data["augment"][key] for key in ("flip", "padding", "padding_mode")}
    assert augment == {"flip": 0.5, "padding": 4, "padding_mode": "edge"}
    assert (data["mean"], data["std"]) == ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
    assert data["drop_last"] is True
    assert data["val_fraction"] == 0


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_published_distillation(experiment: str, composed: Composed) -> None:
    distill = composed(*words_of_run(experiment), "init_from=x")["distill"]
    assert {k: distill[k] for k in ("alpha", "beta", "temperature", "gamma", "normalization")} == {
        "alpha": 1.0,
        "beta": 0.05,
        "temperature": 4.0,
        "gamma": 0.01,
        "normalization": "reference",
    }


def test_the_schedule_is_longer_than_a_run_that_stops_early(composed: Composed) -> None:
    config = composed("model=resnet20", "data=cifar10", "trainer.max_epochs=10")
    assert config["trainer"]["max_epochs"] == 10
    assert config["lr_scheduler"]["epochs"] == config["task"]["progress_epochs"] == 700


def test_data_alone_change_the_head_and_the_input(composed: Composed) -> None:
    for data, classes, channels, size in (("cifar100", 100, 3, 32), ("mnist", 10, 1, 28), ("imagenet", 1000, 3, 224)):
        model = composed(f"data={data}")["model"]
        assert (model["num_classes"], model["in_channels"], model["image_size"]) == (classes, channels, size)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("[!_]*_imagenet.yaml")))
def test_streamed_images_have_the_recipe_of_the_folder(name: str, composed: Composed) -> None:
    model = name.removesuffix("_imagenet")
    folder, stream = (composed(f"model={model}", f"data={data}") for data in ("imagenet", "imagenet_stream"))
    for section in ("epochs", "model", "optimizer", "lr_scheduler", "param_groups", "trainer", "callbacks", "distill"):
        assert stream[section] == folder[section]
    for key in ("batch_size", "interpolation", "crop_ratio"):
        assert stream["data"][key] == folder["data"][key]


def test_options_are_taken_over_the_models_own_optimizer_and_the_recipe(composed: Composed) -> None:
    assert composed("model=mlp")["optimizer"]["_target_"] == "torch.optim.Adam"
    assert composed("model=mlp", "optimizer=adamw")["optimizer"]["_target_"] == "torch.optim.AdamW"
    without_recipe = composed("model=vgg_small", "data=mnist")["epochs"]
    assert composed("model=resnet20", "data=cifar10", "recipe=none")["epochs"] == without_recipe
    assert composed("model=resnet20", "data=cifar10", "epochs=5")["lr_scheduler"]["epochs"] == 5


@pytest.mark.parametrize(
    "option, precision, matmul",
    [
        ("fp32", "32-true", "highest"),
        ("bf16", "bf16-mixed", "highest"),
        ("fp16", "16-mixed", "highest"),
        ("fp64", "64-true", "highest"),
    ],
)
def test_precision_writes_into_the_trainer(option: str, precision: str, matmul: str, composed: Composed) -> None:
    config = composed(f"precision={option}")
    assert (config["trainer"]["precision"], config["matmul_precision"]) == (precision, matmul)


def test_callbacks_keep_their_order_whatever_the_order_of_their_options(composed: Composed) -> None:
    names = list(composed("callbacks=[early_stopping,ema,best,default]")["callbacks"])
    order = [names.index(name) for name in ("latent_clip", "ema", "bn_reestimate", "final_checkpoint")]
    assert order == sorted(order)


def test_averaging_brings_the_statistics_of_the_average(composed: Composed) -> None:
    callbacks = composed("callbacks=[default,ema]")["callbacks"]
    names = list(callbacks)
    assert callbacks["bn_reestimate"]["_target_"] == "bnn_lightning.callbacks.BNReestimate"
    assert names.index("ema") < names.index("bn_reestimate") < names.index("final_checkpoint")


def test_schedule_per_step(composed: Composed) -> None:
    node = composed("lr_scheduler.interval=step", "lr_scheduler.warmup_epochs=1", "epochs=3")["lr_scheduler"]
    optimizer = partial(torch.optim.SGD, lr=1.0)([torch.zeros(1)])
    config = build(node, at="lr_scheduler")(optimizer, steps_per_epoch=4)
    assert config["interval"] == "step"
    assert [config["scheduler"].lr_lambdas[0](t) for t in (0, 4, 12)] == pytest.approx([1 / 5, 1.0, 0.0], abs=0.04)


def published_schedule_of_bnext(epoch: int) -> float:
    if epoch < 5:
        return 1e-5 + epoch * (1e-3 - 1e-5) / 5
    return 1e-7 + 0.5 * (1e-3 - 1e-7) * (1 + math.cos(math.pi * (epoch - 5) / 512))


def rates(config: dict[str, Any], epochs: range) -> list[float]:
    """Return the learning rates of a configuration, epoch by epoch."""
    optimizer = build(config["optimizer"], at="optimizer")([torch.zeros(1)])
    scheduler = build(config["lr_scheduler"], at="lr_scheduler")(optimizer, steps_per_epoch=1)["scheduler"]
    return [config["optimizer"]["lr"] * scheduler.lr_lambdas[0](epoch) for epoch in epochs]


def decays(config: dict[str, Any], network: nn.Module) -> dict[str, float]:
    """Return the weight decay of each parameter by name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = build(config["param_groups"], at="param_groups")(network)
    return {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}


#          run: batch
BNEXT = {
    "imagenet_bnext_tiny": 512,
    "imagenet_bnext_small": 512,
    "imagenet_bnext_middle": 512,
    "imagenet_bnext_large": 128,
    "cifar10_bnext18": 128,
    "cifar10_bnext_tiny": 128,
    "cifar100_bnext18": 128,
    "cifar100_bnext_tiny": 128,
}


@pytest.mark.parametrize("experiment", BNEXT)
def test_published_recipe_of_bnext(experiment: str, composed: Composed) -> None:
    config = composed(*words_of_run(experiment))
    check_sections(config)
    assert config["data"]["batch_size"] == BNEXT[experiment]
    assert (config["epochs"], config["trainer"]["max_epochs"], config["task"]["progress_epochs"]) == (512,) * 3
    assert rates(config, range(512)) == pytest.approx([published_schedule_of_bnext(epoch) for epoch in range(512)])
    assert config["lr_scheduler"]["interval"] == "epoch"
    optimizer = {key: config["optimizer"][key] for key in ("_target_", "betas", "eps")}
    assert optimizer == {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.999], "eps": 1e-8}
    own = create_backbone("bnext_tiny", num_classes=10, image_size=32, width=8, depths=(1,))
    for name, decay in decays(config, own).items():
        small = dict(own.named_parameters())[name].ndim == 4 or name.endswith(("input_binarizer.bias", "mix.scale"))
        assert decay == (1e-8 if small else 1e-3), name
    trainer, callbacks = config["trainer"], config["callbacks"]
    assert (trainer["gradient_clip_val"], trainer["precision"], trainer["sync_batchnorm"]) == (5.0, "32-true", False)
    assert (callbacks["latent_clip"]["limit"], callbacks["ema"]) == (1.5, None)
    assert callbacks["channel_blend_clip"]["_target_"].endswith("ChannelBlendClip")
    assert config["task"]["mix"] is None
    assert config["model"]["weight_binarizer"] is None
    assert config["model"]["stem"] == experiment.partition("_")[0].rstrip("0123456789")


@pytest.mark.parametrize("experiment", [name for name in BNEXT if "imagenet" in name])
def test_published_images_of_bnext(experiment: str, composed: Composed) -> None:
    data = composed(*words_of_run(experiment))["data"]
    augment = {key: value for key, value in data["auto_augment"].items() if key in ("num_ops", "magnitude", "std")}
    assert augment == {"num_ops": 2, "magnitude": 7.0, "std": 0.5}
    keys = ("interpolation", "crop_ratio", "image_size", "min_area", "flip", "lighting", "repeats", "train_sizes")
    assert [data[key] for key in keys] == ["bicubic", 0.95, 224, 0.08, 0.5, 0.0, 1, None]
    assert (data["mean"], data["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("experiment", [name for name in BNEXT if "cifar" in name])
def test_published_cifar_images_of_bnext(experiment: str, composed: Composed) -> None:
    config = composed(*words_of_run(experiment))
    augment = {key: config["data"]["augment"][key] for key in ("flip", "padding", "padding_mode")}
    assert augment == {"flip": 0.5, "padding": 4, "padding_mode": "zero"}
    assert (config["data"]["mean"], config["data"]["std"]) == ([0.507, 0.487, 0.441], [0.267, 0.256, 0.276])
    assert config["data"]["auto_augment"] is None
    assert config["distill"] == {"_target_": "bnn_lightning.distill.HardLabels", "label_smoothing": 0.0}


@pytest.mark.parametrize(("step", "decay", "binary"), [("_step1", 1e-5, "activations"), ("", 0.0, True)])
def test_published_recipe_of_reactnet(step: str, decay: float, binary: Any, composed: Composed) -> None:
    config = composed(*words_of_run(f"imagenet_reactnet_a{step}"), *([] if step else ["init_from=x"]))
    check_sections(config)
    assert (config["epochs"], config["data"]["batch_size"], config["data"]["lighting"]) == (128, 256, 0.1)
    assert config["optimizer"]["_target_"] == "torch.optim.Adam"
    assert rates(config, range(128)) == pytest.approx([1.25e-3 * (1 - epoch / 128) for epoch in range(128)])
    assert config["model"]["binary"] == binary
    network = create_backbone("reactnet_a", num_classes=10, image_size=32, width=2, binary=binary)
    shifts = (".shift_in.bias", ".shift_out.bias", ".input_binarizer.bias")
    for name, found in decays(config, network).items():
        convolution = dict(network.named_parameters())[name].ndim == 4 or name.endswith(shifts)
        assert found == (decay if convolution else 0.0), name


@pytest.mark.parametrize(
    ("stage", "binary", "divergence"),
    [("_step1", False, 3.0), ("_step2", "activations", 3.0), ("", True, 0.8)],
)
def test_published_recipe_of_real2binary(stage: str, binary: Any, divergence: float, composed: Composed) -> None:
    words = [] if stage == "_step1" else ["init_from=x", "distill.teacher.ckpt=x"]
    config = composed(*words_of_run(f"imagenet_real2binary18{stage}"), *words)
    check_sections(config)
    assert (config["epochs"], config["model"]["binary"]) == (75, binary)
    weights = {key: config["distill"][key] for key in ("hard", "soft", "kl", "attention", "attention_scale")}
    assert weights == {"hard": 1.0, "soft": 0.0, "kl": divergence, "attention": 30.0, "attention_scale": "max"}


#          run: epochs, warm-up, decay, batch, published top-1
METHODS = {
    **{
        f"cifar10_{name}_adabin": (400, 0, 1e-4, 128, top1)
        for name, top1 in {"resnet20": 88.2, "resnet18": 93.1, "vgg_small": 92.3}.items()
    },
    **{
        f"cifar10_{name}_recu": (600, 4, 5e-4, 256, top1)
        for name, top1 in {"resnet20": 87.5, "resnet18": 92.8, "vgg_small": 92.2}.items()
    },
}


@pytest.mark.parametrize("experiment", METHODS)
def test_published_recipes_of_adabin_and_recu(experiment: str, composed: Composed) -> None:
    epochs, warmup, decay, batch, top1 = METHODS[experiment]
    config = composed(*words_of_run(experiment))
    check_sections(config)
    assert (config["epochs"], config["trainer"]["max_epochs"], config["task"]["progress_epochs"]) == (epochs,) * 3
    assert (config["published"]["top1"], config["data"]["batch_size"], config["data"]["drop_last"]) == (
        top1,
        batch,
        True,
    )
    optimizer = {key: config["optimizer"][key] for key in ("_target_", "lr", "momentum", "nesterov")}
    assert optimizer == {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "nesterov": False}
    falling = [0.05 * (1 + math.cos(math.pi * epoch / (epochs - warmup))) for epoch in range(epochs - warmup)]
    assert rates(config, range(epochs))[warmup:] == pytest.approx(falling)
    rising = [0.1 * (epoch + 1) / (warmup + 1) for epoch in range(warmup)]
    assert rates(config, range(warmup)) == pytest.approx(rising)
    augment = {key: config["data"]["augment"][key] for key in ("flip", "padding", "padding_mode")}
    assert augment == {"flip": 0.5, "padding": 4, "padding_mode": "zero"}
    assert (config["data"]["mean"], config["data"]["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert config["distill"]["_target_"].endswith("HardLabels")
    network = create_backbone(config["model"]["name"], num_classes=10, image_size=32, width=4)
    assert set(decays(config, network).values()) == {decay}
    binarizers = [(config["model"][f"{where}_binarizer"] or {}).get("name") for where in ("input", "weight")]
    assert binarizers == (["ReCUInput", "ReCUWeights"] if "recu" in experiment else [None, None])


def test_explicit_binarizers_win_over_those_of_an_experiment(composed: Composed) -> None:
    chosen = "binarizer@model.weight_binarizer=xnor"
    model = composed("experiment=cifar10_resnet20_recu", chosen)["model"]
    assert (model["input_binarizer"]["name"], model["weight_binarizer"]["name"]) == ("ReCUInput", "XNORScale")
    assert "tau_start" not in model["weight_binarizer"]
