"""The published hyper-parameters (Zeng et al. 2024, and the reference's code and logs), number by number."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.cli.build import build, check_sections

Composed = Callable[..., dict[str, Any]]

#          experiment: epochs, warm-up, peak rate, first rate, decay, batch
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
    config = composed(f"experiment={experiment}", "init_from=x", *chosen)
    check_sections(config)
    assert config["distill"]["_target_"].endswith("SelfKD" if distill == "skd" else "HardLabels")
    assert (config["epochs"], config["trainer"]["max_epochs"], config["schedule"]["epochs"]) == (epochs,) * 3
    assert config["callbacks"]["anneal"]["epochs"] == epochs
    assert config["data"]["batch_size"] == batch
    assert config["trainer"]["precision"] == "32-true"
    network = nn.Linear(2, 2)
    groups = build(config["param_groups"], at="param_groups")(network)
    assert {group["weight_decay"] for group in groups} == {decay}
    optimizer = build(config["optimizer"], at="optimizer")(groups)
    assert config["schedule"]["warmup_epochs"] == warmup
    assert optimizer.param_groups[0]["lr"] == peak
    build(config["schedule"], at="schedule")(optimizer, steps_per_epoch=10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize("experiment", [name for name in PUBLISHED if "mnist" not in name])
def test_published_sgd(experiment: str, composed: Composed) -> None:
    optimizer = composed(f"experiment={experiment}", "init_from=x")["optimizer"]
    assert (optimizer["_target_"], optimizer["momentum"], optimizer["nesterov"]) == ("torch.optim.SGD", 0.9, False)


def test_published_mnist(composed: Composed) -> None:
    config = composed("experiment=mnist_mlp_skd")
    assert config["optimizer"]["_target_"] == "torch.optim.Adam"
    assert config["model"]["width"] == 6144
    assert config["data"]["drop_last"] is False
    assert config["callbacks"]["bias_clip"]["limit"] == 1.0
    assert config["callbacks"]["latent_clip"] is None
    assert config["distill"]["cluster_on"] == "logits"
    adam = torch.optim.Adam([torch.zeros(1)], lr=0.01)
    scheduler = build(config["schedule"], at="schedule")(adam, steps_per_epoch=1)["scheduler"]
    assert 0.01 * scheduler.lr_lambdas[0](50) == pytest.approx(0.01 * (1 + 1e-3) / 2)
    assert 0.01 * scheduler.lr_lambdas[0](99) == pytest.approx(1e-5, rel=0.3)


@pytest.mark.parametrize("experiment", [name for name in PUBLISHED if "cifar" in name])
def test_published_cifar_data(experiment: str, composed: Composed) -> None:
    data = composed(f"experiment={experiment}")["data"]
    augment = {key: data["augment"][key] for key in ("flip", "padding", "padding_mode")}
    assert augment == {"flip": 0.5, "padding": 4, "padding_mode": "edge"}
    assert (data["mean"], data["std"]) == ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
    assert data["drop_last"] is True
    assert data["val_fraction"] == 0


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_published_distillation(experiment: str, composed: Composed) -> None:
    distill = composed(f"experiment={experiment}", "init_from=x")["distill"]
    assert {k: distill[k] for k in ("alpha", "beta", "temperature", "gamma", "normalization")} == {
        "alpha": 1.0,
        "beta": 0.05,
        "temperature": 4.0,
        "gamma": 0.01,
        "normalization": "reference",
    }


def test_the_schedule_is_longer_than_a_run_that_stops_early(composed: Composed) -> None:
    config = composed("experiment=cifar10_resnet20_skd", "trainer.max_epochs=10")
    assert config["trainer"]["max_epochs"] == 10
    assert config["schedule"]["epochs"] == config["callbacks"]["anneal"]["epochs"] == 700


def test_data_alone_change_the_head_and_the_input(composed: Composed) -> None:
    for data, classes, channels, size in (("cifar100", 100, 3, 32), ("mnist", 10, 1, 28), ("imagenet", 1000, 3, 224)):
        model = composed(f"data={data}")["model"]
        assert (model["num_classes"], model["in_channels"], model["image_size"]) == (classes, channels, size)


def test_options_are_taken_over_the_models_own_optimizer_and_the_recipe(composed: Composed) -> None:
    assert composed("model=mlp")["optimizer"]["_target_"] == "torch.optim.Adam"
    assert composed("model=mlp", "optimizer=adamw")["optimizer"]["_target_"] == "torch.optim.AdamW"
    without_recipe = composed("model=vgg_small", "data=mnist")["epochs"]
    assert composed("model=resnet20", "data=cifar10", "recipe=none")["epochs"] == without_recipe
    assert composed("experiment=cifar10_resnet20_skd", "epochs=5")["schedule"]["epochs"] == 5


@pytest.mark.parametrize(
    "option, precision, matmul",
    [
        ("fp32", "32-true", "highest"),
        ("tf32", "32-true", "high"),
        ("bf16", "bf16-mixed", "highest"),
        ("fp16", "16-mixed", "highest"),
        ("fp64", "64-true", "highest"),
    ],
)
def test_precision_writes_into_the_trainer(option: str, precision: str, matmul: str, composed: Composed) -> None:
    config = composed(f"precision={option}")
    assert (config["trainer"]["precision"], config["matmul_precision"]) == (precision, matmul)


def test_callbacks_keep_their_order_whatever_the_order_of_their_options(composed: Composed) -> None:
    names = list(composed("callbacks=[default,bn_reestimate,ema,latent_clip]")["callbacks"])
    order = [names.index(name) for name in ("latent_clip", "ema", "bn_reestimate", "final_checkpoint")]
    assert order == sorted(order)


def test_averaging_brings_the_statistics_of_the_average(composed: Composed) -> None:
    callbacks = composed("callbacks=[default,ema]")["callbacks"]
    names = list(callbacks)
    assert callbacks["bn_reestimate"]["_target_"] == "bnn_lightning.callbacks.BNReestimate"
    assert names.index("ema") < names.index("bn_reestimate") < names.index("final_checkpoint")


def test_schedule_per_step(composed: Composed) -> None:
    node = composed("schedule=warmup_cosine_step", "schedule.warmup_epochs=1", "epochs=3")["schedule"]
    optimizer = partial(torch.optim.SGD, lr=1.0)([torch.zeros(1)])
    config = build(node, at="schedule")(optimizer, steps_per_epoch=4)
    assert config["interval"] == "step"
    assert [config["scheduler"].lr_lambdas[0](t) for t in (0, 4, 12)] == pytest.approx([1 / 5, 1.0, 0.0], abs=0.04)
