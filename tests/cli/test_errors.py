"""Bad input: one clear message, exit code 2, no traceback, before training starts."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bnn_lightning.cli.errors import explain
from bnn_lightning.data import MNISTDataModule
from bnn_lightning.models import create_backbone
from bnn_lightning.tasks import ClassificationTask
from bnn_lightning.workflows.checks import check_sizes
from bnn_lightning.workflows.errors import UserError, did_you_mean

Bnn = Callable[..., Any]

# words of the command line: parts of the message
ERRORS: dict[str, tuple[str, ...]] = {
    "model=resnt20": ("`model=resnt20`: no such option", "Did you mean `resnet20`?", "`model` has: "),
    "modle=resnet20": ("`modle`: no such key", "Did you mean `model`?"),
    "experiment=cifar10_resnet20": ("no such option", "cifar10_resnet20_recu"),
    "callbacks=[default,erly_stopping]": ("no such option", "Did you mean `early_stopping`?"),
    "recipe=resnet20_cifar": ("no such option", "resnet20_cifar10"),
    "recipe=null": ("`recipe=null`", "recipe=none"),
    "optimizer=adm": ("no such option", "Did you mean `adam`?"),
    "hydra/sweeper=optna": ("no such option", "bnn-lightning[sweep]"),
    "trainer.devcies=2": ("`trainer.devcies`: no such key", "Did you mean `trainer.devices`?", "max_epochs"),
    "devices=2": ("`devices`: no such key", "trainer.devices"),
    "+model.depth=3": ("`model.depth`: mlp has no argument `depth`", "It takes:", "width"),
    "model.width=abc": ("`model.width` must be a whole number, got 'abc'",),
    "model.width=2.5": ("`model.width` must be a whole number, got 2.5",),
    "model.binary=1": ("`model.binary` must be true or false or activations, got 1",),
    "model.width=": ("`model.width` is empty",),
    "trainer.devices=": ("`trainer.devices` is empty",),
    "optimizer.lr=fast": ("`optimizer.lr` must be", "got 'fast'"),
    "data.mean=0.5": ("`data.mean` must be", "a list", "got 0.5"),
    "seed=abc": ("`seed`", "'abc'", "Integer"),
    "epochs=0": ("`epochs` must be 1 or more, got 0",),
    "matmul_precision=low": ("`matmul_precision` must be", "got low"),
    "model.dropout=2.0": ("`dropout`", "got 2.0"),
    "model.image_size=-3": ("`image_size` must be at least", "got -3"),
    "task.progress_interval=week": ("must be one of epoch, step", "'week'"),
    "trainer.precision=17": ("`trainer.precision` must be", "bf16-mixed", "got 17"),
    "data.batch_size=15 trainer.devices=2": ("divisible", "2 x 1", "14 and 16"),
    "data.batch_size=2 trainer.accumulate_grad_batches=4": ("divisible", "1 x 4"),
    "trainer.accelerator=auto trainer.devices=64": ("trainer.devices=64: this machine has",),
    "precision=fp16": ("16-mixed needs a GPU", "precision=bf16"),
    "matmul_precision=high": ("matmul_precision=high", "NVIDIA"),
    "data=mnist data.download=false recipe=none": ("MNIST", "data"),
    "data=imagenet recipe=none": ("ImageNet", "train"),
    "paths.run_dir=elsewhere": ("`paths.run_dir=elsewhere`", "hydra.run.dir=elsewhere"),
    "ckpt_path=last": ("ckpt_path=last: no run in", "has a checkpoint"),
    "ckpt_path=nowhere.ckpt": ("`nowhere.ckpt`: no such file",),
    "init_from=nowhere.ckpt": ("`nowhere.ckpt`: no such file",),
    "experiment=imagenet_resnet18_skd_stage2": ("`init_from` has no value", "init_from=<checkpoint>"),
    "objective=val/acc": ("objective looks at `val/acc`", "data.val_fraction"),
    "objective=test/acc": ("nothing is chosen on the test set", "data.val_fraction"),
    "callbacks=[default,best]": ("BestCheckpoint looks at `val/acc`", "data.val_fraction"),
    "callbacks=[default,early_stopping]": ("EarlyStopping looks at `val/acc`", "data.val_fraction"),
    "callbacks=[default,best] callbacks.best.monitor=test/acc data.val_fraction=0.5": ("test set", "`val/acc`"),
    "callbacks=[default,best] callbacks.best.monitor=test/acc +callbacks.more._target_="
    "pytorch_lightning.callbacks.ModelCheckpoint": ("nothing is chosen on the test set",),
    "data=cifar10 model=resnet20 optimizer=adam": (
        "`optimizer=adam`: the recipe resnet20_cifar10 sets optimizer.lr=0.1",
        "optimizer.lr=...",
        "recipe=none",
    ),
    "optimizer._target_=os.system": ("'os.system' is not on the list", "trust=[os]"),
    "optimizer._target_=torch.hub.load": ("'torch.hub.load' is not on the list",),
    "optimizer._target_=torch.optim.Adm": ("not on the list",),
    "distill._target_=bnn_lightning.distill.SelfKnowledge": ("does not exist",),
    "x=(": ("cannot read the override `x=(`", "quotes"),
    "-cd nowhere": ("nowhere", "not found"),
    "hydra.mode=MULTIRUN trainer.num_nodes=2 seed=1": ("trainer.num_nodes=2", "submitit", "each job by itself"),
}


@pytest.mark.parametrize("words", ERRORS)
def test_one_clear_message_and_exit_code_2(words: str, bnn: Bnn, small: tuple[str, ...]) -> None:
    if torch.cuda.is_available() and words.startswith(("precision", "trainer.accelerator")):
        pytest.skip("the device has it")
    fixed = [word for word in small if not (words.startswith("data=") and word.startswith("data."))]
    done = bnn("train", *fixed, *words.split())
    assert done.code == 2
    for part in ERRORS[words]:
        assert part in done.err
    assert "Traceback" not in done.out + done.err
    assert done.err.count("error: ") == 1
    assert len(done.err.strip().splitlines()) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_damaged_and_missing_data_files(damage: str, bnn: Bnn, workplace: Path) -> None:
    folder = workplace / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in MNISTDataModule.checksums:
        size = 784 if "images" in name else 1
        content = bytes([0, 0, 8, 3 if "images" in name else 1, 0, 0, 0, 10])
        content += bytes([0, 0, 0, 28, 0, 0, 0, 28] if "images" in name else []) + bytes(10 * size)
        (folder / name).write_bytes(content[:-1] if damage == "cut" else content)
    if damage == "missing":
        (folder / "t10k-labels-idx1-ubyte").unlink()
    words = ("data=mnist", "data.download=false", f"data.verify={str(damage == 'changed').lower()}")
    done = bnn("train", *words, "model.width=8", "trainer.accelerator=cpu", "debug=fast")
    assert done.code == 2
    assert "error: `data`: " in done.err
    assert "ubyte" in done.err
    assert "Traceback" not in done.err


def test_the_variable_keeps_the_traceback(bnn: Bnn, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="must be 1 or more"):
        bnn("train", *small, "epochs=0")


def test_a_bug_is_not_dressed_up(bnn: Bnn, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: object) -> float:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("bnn_lightning.cli.train.train", broken)
    with pytest.raises(ZeroDivisionError):
        bnn("train", *small)


def test_a_model_of_ones_own_needs_to_name_no_optimizer(bnn: Bnn, workplace: Path, small: tuple[str, ...]) -> None:
    (workplace / "mine" / "model").mkdir(parents=True)
    (workplace / "mine" / "model" / "tiny.yaml").write_text("defaults: [_backbone, _self_]\nname: mlp\nwidth: 8\n")
    for words in ((), ("optimizer=sgd",)):
        done = bnn("train", "-cd", "mine", *small, "model=tiny", *words, "debug=fast")
        assert done.code == 0, done.err


def test_an_option_in_a_folder_that_is_not_named(bnn: Bnn, workplace: Path) -> None:
    (workplace / "own" / "model").mkdir(parents=True)
    (workplace / "own" / "model" / "tiny.yaml").write_text("_target_: mine.Tiny\n")
    done = bnn("train", "model=tiny")
    assert done.code == 2
    assert all(part in done.err for part in ("no such option", "own/model/tiny.yaml", "-cd own"))


def test_did_you_mean() -> None:
    assert did_you_mean("trian", ["train"]) == " Did you mean `train`?"
    assert did_you_mean("bake", ["train"]) == ""


def test_explain_passes_messages_on() -> None:
    assert explain(ValueError("as it is")) == "as it is"


@pytest.mark.parametrize("callback", ["ema", "gradient_share"])
def test_callbacks_that_need_whole_weights_are_refused_where_these_are_shared_out(
    callback: str, small: tuple[str, ...], bnn: Bnn
) -> None:
    done = bnn("train", *small, "strategy=fsdp", "trainer.devices=2", f"callbacks=[default,{callback}]")
    assert done.code == 2
    assert "`strategy=fsdp`: " in done.err
    assert "Take strategy=ddp" in done.err


@pytest.mark.parametrize("sizes", [[16, 32], [32, 48]])
def test_training_sizes_that_the_network_does_not_take_are_refused(sizes: list[int]) -> None:
    def check(name: str, **options: Any) -> None:
        model = {"num_classes": 2, "image_size": 32, "width": 4} | options
        task = ClassificationTask(create_backbone(name, **model), num_classes=2, optimizer=torch.optim.SGD)
        check_sizes(task, data, {"_target_": "bnn_lightning.models.create_backbone", "name": name} | model)

    data = SimpleNamespace(in_channels=3, options=SimpleNamespace(train_sizes=sizes))
    check("resnet20")
    wrong = next(size for size in sizes if size != 32)
    with pytest.raises(UserError, match=f"`data.train_sizes`: VGGSmall does not take images of {wrong} pixels"):
        check("vgg_small")
    least = pytest.raises(UserError, match="`image_size` must be at least 17 for `bnext_tiny`, got 16")
    with least if min(sizes) < 17 else nullcontext():
        check("bnext_tiny", stem="imagenet", depths=(1, 1, 1, 1))
    data.options.train_sizes = None
    check("vgg_small")
