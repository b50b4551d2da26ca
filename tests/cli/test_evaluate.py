"""`bnn evaluate`: ours from the checkpoint alone, published files, and every image scored."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import bnn_lightning
from bnn_lightning.data import SyntheticDataModule
from bnn_lightning.models import create_backbone
from bnn_lightning.workflows.checkpoint import CONFIG_KEY
from bnn_lightning.workflows.errors import UserError

Bnn = Callable[..., Any]
QUIET = "trainer.enable_progress_bar=false"


def printed(out: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(images|top-1|top-5|loss): +([\d.]+)", out, flags=re.M)}


def test_scores_every_image_as_plain_torch_does(trained: Any, bnn: Bnn) -> None:
    done = bnn("evaluate", f"ckpt={trained.final}", "data.batch_size=7", QUIET)  # 24 images: the last batch has 3
    assert done.code == 0, done.err
    images, labels = SyntheticDataModule(image_size=8, num_train=64, num_test=24).read(train=False)
    with torch.no_grad():
        logits = bnn_lightning.load_task(trained.final)(images / 255)
    top5 = (logits.topk(5).indices == labels[:, None]).any(1)
    assert printed(done.out) == {
        "images": 24,
        "top-1": pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item(), abs=0.006),
        "top-5": pytest.approx(100 * top5.double().mean().item(), abs=0.006),
        "loss": pytest.approx(F.cross_entropy(logits, labels).item(), abs=6e-5),
    }


def test_the_score_is_that_of_the_run(trained: Any, bnn: Bnn) -> None:
    done = bnn("evaluate", f"ckpt={trained.final}", QUIET)
    top1, loss = re.search(r"^test accuracy: +top-1 ([\d.]+) %.*loss ([\d.]+)", trained.out, flags=re.M).groups()
    assert printed(done.out)["top-1"] == float(top1)
    assert printed(done.out)["loss"] == pytest.approx(float(loss), abs=2e-4)


def test_nothing_is_written(trained: Any, bnn: Bnn, workplace: Path) -> None:
    assert bnn("evaluate", f"ckpt={trained.final}", QUIET).code == 0
    assert list(workplace.iterdir()) == []


def test_other_data_of_the_same_kind(trained: Any, bnn: Bnn) -> None:
    words = ("data=synthetic", "data.image_size=8", "data.num_test=50", QUIET)
    done = bnn("evaluate", f"ckpt={trained.final}", *words)
    assert done.code == 0, done.err
    assert printed(done.out)["images"] == 50


def published_file(path: Path, width: int = 16) -> dict[str, torch.Tensor]:
    """Write a file as SKD-BNN does: prefix of DataParallel, nested, with the entries beside."""
    torch.manual_seed(0)
    network = create_backbone("resnet20", num_classes=10, image_size=32, width=width)
    ours = ("normalize.", "binarizer")
    state = {k: v for k, v in network.state_dict().items() if not any(part in k for part in ours)}
    content = {
        "epoch": 698,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "best_prec1": torch.tensor(87.1494),
    }
    torch.save(content, path)
    return state


def test_published_file(bnn: Bnn, workplace: Path) -> None:
    state = published_file(workplace / "best-checkpoint.th")
    words = (
        "ckpt=best-checkpoint.th",
        "model=resnet20",
        "data=synthetic",
        "data.num_test=21",
        "data.batch_size=8",
        QUIET,
    )
    done = bnn("evaluate", *words)
    assert done.code == 0, done.err
    assert f"best-checkpoint.th: {len(state)} tensors for resnet20; the file says 87.15 %" in done.out
    assert printed(done.out)["images"] == 21
    images, labels = SyntheticDataModule(num_test=21).read(train=False)
    network = create_backbone("resnet20", num_classes=10, image_size=32)
    network.load_state_dict(state, strict=False)
    with torch.no_grad():
        loss = F.cross_entropy(network.eval()(images / 255), labels).item()
    assert printed(done.out)["loss"] == pytest.approx(loss, abs=1e-3)


def with_config(trained: Any, path: Path, change: Callable[[dict[str, Any]], None]) -> str:
    checkpoint = torch.load(trained.final, weights_only=True)
    change(checkpoint[CONFIG_KEY])
    torch.save(checkpoint, path)
    return f"ckpt={path}"


def set_target(target: str) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["distill"].update(_target_=target)


@pytest.mark.parametrize(
    "change, message",
    [
        (set_target("os.system"), "'os.system' is not on the list of what may be built"),
        (set_target("bnn_lightning.cli.launch.os.system"), "not on the list of what may be built"),
        (lambda config: config["model"].update(width="${oc.env:HOME}"), "holds an interpolation"),
        (lambda config: config["model"].update(width=32), "is a checkpoint of another network"),
        (lambda config: config["model"].update(name="mpl"), "Unknown backbone `mpl`"),
        (lambda config: config.pop("model"), "is damaged"),
    ],
)
def test_a_configuration_from_elsewhere(
    change: Callable[[dict[str, Any]], None], message: str, trained: Any, bnn: Bnn, workplace: Path
) -> None:
    ckpt = with_config(trained, workplace / "x.ckpt", change)
    done = bnn("evaluate", ckpt, QUIET)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    with pytest.raises(UserError):
        bnn_lightning.load_task(workplace / "x.ckpt")


@pytest.mark.parametrize("section", ["model", "distill", "task"])
def test_a_configuration_from_elsewhere_overwrites_no_file(section: str, trained: Any, workplace: Path) -> None:
    victim = workplace / "victim.txt"
    victim.write_text("precious")
    evil = {
        "_target_": "bnn_lightning.callbacks.checkpoint_io.save_atomically",
        "checkpoint": {"a": 1},
        "path": {
            "_target_": "bnn_lightning.workflows.resumption.find_checkpoint",
            "wanted": str(victim),
            "run_dir": "x",
        },
    }
    with_config(trained, workplace / "x.ckpt", lambda config: config.update({section: evil}))
    with pytest.raises(UserError, match="save_atomically' is not on the list"):
        bnn_lightning.load_task(workplace / "x.ckpt")
    assert victim.read_text() == "precious"


def test_all_of_a_configuration_is_checked_before_a_part_is_built(
    trained: Any, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    monkeypatch.setattr("bnn_lightning.workflows.building.build", lambda node, *, at, trust: built.append(at))
    with_config(trained, workplace / "x.ckpt", lambda config: config["lr_scheduler"].update(_target_="os.system"))
    with pytest.raises(UserError, match="not on the list"):
        bnn_lightning.load_task(workplace / "x.ckpt")
    assert built == []


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "`ckpt` has no value: give `ckpt=...`"),
        ("ckpt=nowhere.ckpt", "`nowhere.ckpt`: no such file"),
        ("ckpt=.", "is a folder"),
        ("ckpt=published.th", "name the network and the data"),
        ("ckpt=published.th model=resnet20", "name the network and the data"),
        ("ckpt=published.th model=mlp data=synthetic", "does not fit this MLP"),
        ("ckpt=published.th model=resnet20 data=cifar100", "does not fit this ResNet"),
        ("ckpt=text.th model=resnet20 data=synthetic", "is not a checkpoint, is truncated"),
        ("ckpt=text.th model=resnet20 data=cifar10 recipe=resnet20_cifar", "Did you mean `resnet20_cifar10`"),
        ("ckpt=TRAINED model=mlp data=synthetic", "says itself which network it is"),
        ("ckpt=TRAINED data=mnist", "in_channels=3"),
        ("ckpt=TRAINED data.rot=x", "`data.rot`: no such key. Did you mean `data.root`?"),
        ("ckpt=TRAINED trainer.devices=64 trainer.accelerator=auto", "this machine has"),
    ],
)
def test_one_clear_message(words: str, message: str, trained: Any, bnn: Bnn, workplace: Path) -> None:
    published_file(workplace / "published.th")
    (workplace / "text.th").write_text("no checkpoint")
    done = bnn("evaluate", *words.replace("TRAINED", str(trained.final)).split(), QUIET)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_checkpoint_of_lightning_without_our_configuration(trained: Any, workplace: Path) -> None:
    checkpoint = torch.load(trained.final, weights_only=True)
    del checkpoint[CONFIG_KEY]
    torch.save(checkpoint, workplace / "x.ckpt")
    with pytest.raises(UserError, match="of Lightning, without our configuration"):
        bnn_lightning.load_task(workplace / "x.ckpt")


@pytest.mark.data
def test_cifar_scores_all_ten_thousand_images(data_root: Path, bnn: Bnn, workplace: Path) -> None:
    published_file(workplace / "best-checkpoint.th", width=4)
    words = ("model=resnet20", "model.width=4", "data=cifar10", f"data.root={data_root}", "data.download=false")
    done = bnn("evaluate", "ckpt=best-checkpoint.th", *words, QUIET)
    assert done.code == 0, done.err
    assert printed(done.out)["images"] == 10_000


def test_a_network_that_is_not_binary_yet_is_said_to_be(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    temperature = ("binarizer@model.weight_binarizer=temperature", "model.weight_binarizer.binary_from=0.5")
    for epochs, binary in ((1, False), (2, True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            done = bnn("train", *small, *temperature, "epochs=2", f"trainer.max_epochs={epochs}", f"name=e{epochs}")
        assert done.code == 0, done.err
        assert ("NOT BINARY: 3 binarizers (TemperatureSign)" in done.out) == (not binary)
        assert any("will not be binary at the end" in str(w.message) for w in caught) == (not binary)
        (final,) = workplace.glob(f"runs/e{epochs}/*/checkpoints/final.ckpt")
        scored = bnn("evaluate", f"ckpt={final}", QUIET)
        assert scored.code == 0, scored.err
        assert ("NOT BINARY: 3 binarizers" in scored.out) == (not binary)
        assert ("NOT BINARY: 3 binarizers" in repr(bnn_lightning.evaluate(final))) == (not binary)
