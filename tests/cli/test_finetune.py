"""From trained and published networks to another task: a new head, frozen parts, and the packed file of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bnn_lightning.models import create_backbone

Bnn = Callable[..., Any]

# Three of the digits, with labels 0, 1 and 2; two classes of CIFAR-10.
OWN = """
from dataclasses import replace

from bnn_lightning.data import CIFAR10DataModule, DigitsDataModule


def only(labels, number):
    return labels < number


class ThreeDigits(DigitsDataModule):
    spec = replace(DigitsDataModule.spec, name="three", num_classes=3, class_names=("zero", "one", "two"))

    def read(self, train):
        images, labels = super().read(train)
        return images[only(labels, 3)], labels[only(labels, 3)]


class TwoOfCIFAR(CIFAR10DataModule):
    spec = replace(CIFAR10DataModule.spec, name="two", num_classes=2, class_names=("airplane", "automobile"))

    def read(self, train):
        images, labels = CIFAR10DataModule(root=self.root).read(train)  # its files hold ten
        return images[only(labels, 2)], labels[only(labels, 2)]
"""
QUICK = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false")


@pytest.fixture
def own(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Data of one's own: options `three` and `two`."""
    (workplace / "finetune_data.py").write_text(OWN)
    monkeypatch.syspath_prepend(workplace)
    folder = workplace / "mine" / "data"
    folder.mkdir(parents=True)
    for option, base, name, classes in (("three", "digits", "ThreeDigits", 3), ("two", "cifar10", "TwoOfCIFAR", 2)):
        target = f"_target_: finetune_data.{name}\nnum_classes: {classes}\nname: {option}\n"
        (folder / f"{option}.yaml").write_text(f"defaults: [{base}, _self_]\n{target}")
    return ("-cd", "mine", "trust=[finetune_data]", *QUICK)


def weights(path: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("backbone."): w for name, w in state.items() if name.startswith("backbone.")}


def test_digits_to_three_classes_of_ones_own(own: tuple[str, ...], bnn: Bnn, workplace: Path) -> None:
    model = ("model=mlp", "model.width=16", "data.image_size=8", "recipe=none")
    assert bnn("train", *QUICK, *model, "data=digits", "epochs=3", "hydra.run.dir=ten", "test=false").code == 0
    given = (*own, *model, "data=three", "init_from=ten")
    done = bnn("train", *given, "freeze=[fc1,bn1,fc2*,fc3,bn2]", "epochs=4", "hydra.run.dir=three", "optimizer.lr=0.01")
    assert done.code == 0, done.err
    assert "The head is for other classes, and starts anew: fc4.weight, fc4.bias." in done.out + done.err
    before, after = weights("ten/checkpoints/final.ckpt"), weights("three/checkpoints/final.ckpt")
    assert after["fc4.weight"].shape == (3, 16)
    for name in (
        "fc1.weight",
        "fc1.bias",
        "fc2.weight",
        "fc3.weight",
        "bn1.weight",
        "bn1.running_mean",
        "bn2.running_var",
    ):
        assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["bn3.weight"], after["bn3.weight"])
    assert not torch.equal(before["bn3.running_mean"], after["bn3.running_mean"])
    ended = bnn("export", "ckpt=three", "out=three.bnn", "trust=[finetune_data]", "images=null")
    assert ended.code == 0, ended.err
    scores = [
        bnn("evaluate", word, "trust=[finetune_data]", *QUICK[:2]).out for word in ("ckpt=three", "packed=three.bnn")
    ]
    trained, packed = (float(out.split("top-1:")[1].split("%")[0]) for out in scores)
    assert trained == packed > 50  # a third by chance
    resumed = bnn(
        "train", *own, *model, "data=three", "ckpt_path=three/checkpoints/last.ckpt", "freeze=fc1", "epochs=5"
    )
    assert resumed.code == 2
    assert "freeze" in resumed.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("freeze=fc9", "`freeze`: no parameter is called 'fc9'. The network has: fc1, bn1"),
        ("freeze=*", "leaves no parameter to train"),
        ("freeze=3", "`freeze` must be a pattern or a list of patterns"),
        ("model.width=8 init_from=RUN", "is a checkpoint of another network"),
        ("model.width=8 init_from=RUN", "With other settings of the network than there: model.width 16 -> 8."),
    ],
)
def test_mistakes(words: str, message: str, trained: Any, bnn: Bnn, small: tuple[str, ...]) -> None:
    done = bnn("train", *small, *words.replace("RUN", str(trained.folder)).split())
    assert done.code == 2
    assert message in done.err


def published(path: Path, **options: Any) -> torch.nn.Module:
    """Write a file as papers publish it, without our normalization, and return its network."""
    torch.manual_seed(0)
    network = create_backbone("resnet20", num_classes=10, image_size=32, **options)
    for _ in range(5):
        network(torch.rand(16, 3, 32, 32))
    state = {f"module.{name}": w for name, w in network.state_dict().items() if "normalize" not in name}
    state = {name: w for name, w in state.items() if "binarizer" not in name}
    torch.save({"state_dict": state, "epoch": 1}, path)
    return network


def test_a_published_file_in_every_verb(bnn: Bnn, workplace: Path) -> None:
    published(workplace / "paper.th", width=8)
    words = ("model=resnet20", "model.width=8", "data=synthetic", "data.image_size=32", "data.num_test=16")
    exported = bnn("export", "ckpt=paper.th", *words, "out=paper.bnn")
    assert exported.code == 0, exported.err
    alone = bnn("profile", *words, "format=json").out
    profile = bnn("profile", "ckpt=paper.th", *words, "format=json")
    assert profile.code == 0, profile.err
    assert '"ckpt": "paper.th"' in profile.out
    assert alone.split('"layers"')[1] == profile.out.split('"layers"')[1]
    benchmark = bnn("benchmark", "ckpt=paper.th", *words, "baselines=[]", "repeats=1", "threads=[1]", "out=times.json")
    assert benchmark.code == 0, benchmark.err
    assert (workplace / "times.json").is_file()
    assert bnn("evaluate", "ckpt=paper.th", *words, *QUICK[:2]).code == 0
    for verb in ("export", "profile", "benchmark"):
        done = bnn(verb, "ckpt=paper.th")
        assert done.code == 2
        assert "`bnn evaluate ckpt=paper.th model=resnet20 data=cifar10`" in done.err


def test_predict_takes_checkpoints(trained: Any, bnn: Bnn, workplace: Path) -> None:
    from PIL import Image

    published(workplace / "paper.th")
    (workplace / "images").mkdir()
    for number in range(3):
        Image.effect_noise((40, 36), 20 + 40 * number).convert("RGB").save(workplace / "images" / f"{number}.png")
    words = ("model=resnet20", "data=cifar10")
    assert bnn("predict", "ckpt=paper.th", *words, "images=images", "out=a.csv").code == 0
    assert len((workplace / "a.csv").read_text().splitlines()) == 4
    assert bnn("export", f"ckpt={trained.final}", "out=net.bnn").code == 0
    ours = bnn("predict", f"ckpt={trained.final}", "images=images", "resize=1.0", "top=3", "out=b.csv")
    packed = bnn("predict", "packed=net.bnn", "images=images", "resize=1.0", "top=3", "out=c.csv")
    assert (ours.code, packed.code) == (0, 0), ours.err + packed.err
    assert (workplace / "b.csv").read_text() == (workplace / "c.csv").read_text()
    assert bnn("predict", "images=images").code == 2


@pytest.mark.data
@pytest.mark.slow
def test_cifar_to_two_classes(own: tuple[str, ...], bnn: Bnn, workplace: Path, request: pytest.FixtureRequest) -> None:
    root = request.config.rootpath / "data"
    if not (root / "cifar-10-batches-py").is_dir():
        pytest.skip("CIFAR-10 is not here")
    published(workplace / "paper.th", width=4)
    given = (
        *own,
        "model=resnet20",
        "model.width=4",
        "data=two",
        f"data.root={root}",
        "recipe=none",
        "init_from=paper.th",
    )
    done = bnn("train", *given, "freeze=[conv1,layer1]", "epochs=1", "optimizer.lr=0.05", "hydra.run.dir=two")
    assert done.code == 0, done.err
    assert "The head is for other classes, and starts anew: linear.weight, linear.bias." in done.out + done.err
    ended = bnn("export", "ckpt=two", "out=two.bnn", "trust=[finetune_data]", f"data.root={root}", "images=500")
    assert ended.code == 0, ended.err
    scored = bnn("evaluate", "packed=two.bnn", f"data.root={root}", "trust=[finetune_data]", *QUICK[:2])
    assert float(scored.out.split("top-1:")[1].split("%")[0]) > 60


def test_other_settings_of_a_network_with_the_same_tensors_are_named(bnn: Bnn, small: tuple[str, ...]) -> None:
    words, std = ("train", *small, "data.mean=[0.5,0.5,0.5]", "data.std=[1,1,1]", "test=false"), "data.std=[2,2,2]"
    assert bnn(*words, "epochs=1", "hydra.run.dir=before").code == 0
    start = ("init_from=before", "debug=fast", "freeze=[]")
    done = bnn(*words, *start, "model.dropout=0.25", std)
    assert done.code == 0, done.err
    said = done.out + done.err
    assert "settings of the network than there: model.dropout 0.5 -> 0.25." in said
    assert "Images are normalized as there" in said
    assert "Frozen" not in said
    done = bnn(*words, *start)
    assert done.code == 0, done.err
    assert "as there" not in done.out + done.err
    assert "than there" not in done.out + done.err
