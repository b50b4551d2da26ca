"""Published recipes on the command line: in sweeps, without the weights of teachers, and mistyped."""

import shlex
import sys
from collections.abc import Callable
from typing import Any
from urllib.error import URLError

import pytest
import torch
import yaml
from omegaconf import DictConfig

from bnn_lightning.cli.launch import launch

Bnn = Callable[..., Any]


def test_each_job_of_a_sweep_takes_the_recipe_of_its_own_pair(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}

    def job(config: DictConfig) -> None:
        augment = config.data.get("auto_augment")
        teachers = [config.distill.main.network.name] if "main" in config.distill else []
        names = [None if node is None else node._target_.rpartition(".")[2] for node in (config.distill, augment)]
        found[config.model.name, config.data.name] = (*names, teachers, config.epochs)

    monkeypatch.setattr(sys, "argv", ["bnn", "-m", "model=bnext,mlp", "data=imagenet,mnist"])
    launch(job, config_name="train")
    assert found == {
        ("bnext_tiny", "imagenet"): ("GapEnsemble", "RandAugment", ["efficientnet_b2"], 512),
        ("bnext_tiny", "mnist"): ("HardLabels", None, [], 30),
        ("mlp", "imagenet"): ("HardLabels", None, [], 30),
        ("mlp", "mnist"): ("SelfKD", None, [], 100),
    }


def test_weights_that_cannot_be_fetched_are_all_named_with_their_keys(
    bnn: Bnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(url: str, **_: Any) -> None:
        raise URLError(f"no network for {url}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    done = bnn("train", "model=bnext", "data=imagenet", "model.width=4", "model.depths=[1]", "trainer.accelerator=cpu")
    assert done.code == 2
    for word in (
        *("efficientnet_b2_rwightman-c35c1473.pth", "efficientnet_b0_rwightman-7f5810bc.pth"),
        *("distill.main.network.weights=", "distill.assistants.efficientnet_b0.network.weights=", "distill=none"),
    ):
        assert word in done.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("auto_augment@data.auto_augment=rnd", "`rand`"),
        ("recipe=mlp_mnst", "`mlp_mnist`"),
        ("~recipe", "recipe=none"),
        ("model@distill.teacher.network=resnet20", "distill.teacher.network.name=resnet20"),
    ],
)
def test_words_that_hydra_would_pass_over(words: str, named: str, bnn: Bnn) -> None:
    done = bnn("train", "data=mnist", words, "trainer.accelerator=cpu")
    assert done.code == 2
    assert named in done.err


def test_a_network_that_cannot_teach_itself_is_refused_before_the_training(bnn: Bnn) -> None:
    done = bnn("train", "model=resnet20", "data=cifar10", "model.binary=false", "trainer.accelerator=cpu")
    assert done.code == 2
    assert "binary layer" in done.err
    assert "distill=none" in done.err


def test_the_command_of_the_next_stage_can_be_pasted(bnn: Bnn, workplace: Any) -> None:
    words = ("model=real2binary18", "data=imagenet", "recipe=real2binary18_imagenet_step2", "trainer.accelerator=cpu")
    done = bnn("train", *words, "distill=none", "init_from=x", "seed=3", "epochs=7", "hydra.run.dir=runs/second")
    line = next(line for line in done.out.splitlines() if "step3" in line)
    following = shlex.split(line)
    assert {"seed=3", "epochs=7", "distill=none", "init_from=runs/second"} <= set(following)
    assert not [word for word in following if word.startswith("distill.") or "<" in word]
    shown = bnn(*following[following.index("train") :], "--cfg", "job")
    assert shown.code == 0, shown.err
    assert yaml.safe_load(shown.out)["init_from"] == "runs/second"
