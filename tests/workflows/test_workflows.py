import inspect
import logging
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.utils import prune, weight_norm

import bnn_lightning
from bnn_lightning import zoo
from bnn_lightning.cli.train import compose_training
from bnn_lightning.deploy.runtime.network import load
from bnn_lightning.models import create_backbone
from bnn_lightning.workflows import settings
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.opened import describe
from bnn_lightning.workflows.prediction import Classified, Prediction
from bnn_lightning.workflows.sections import data_section
from bnn_lightning.workflows.settings import TrainSettings
from bnn_lightning.workflows.training_config import default_sections, training_config
from bnn_lightning.workflows.visualization import Visualized

VERBS = {
    "benchmark": settings.BenchmarkSettings,
    "evaluate": settings.EvaluateSettings,
    "export": settings.ExportSettings,
    "predict": settings.PredictSettings,
    "prepare": settings.PrepareSettings,
    "profile": settings.ProfileSettings,
    "rank": settings.RankSettings,
    "report": settings.ReportSettings,
    "train": settings.TrainSettings,
}


def test_workflows_do_without_hydra_and_services_and_no_module_hides_a_verb() -> None:
    code = """
import importlib, pkgutil, sys

def import_all(package):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".conf" not in module.name and "__main__" not in module.name:
            importlib.import_module(module.name)

sys.modules["hydra"] = sys.modules["omegaconf"] = None
import bnn_lightning.workflows.training
import_all(bnn_lightning.workflows)
assert {"wandb", "mlflow"}.isdisjoint(sys.modules), "imported before it is used"
del sys.modules["hydra"], sys.modules["omegaconf"]
import_all(bnn_lightning)
for name in bnn_lightning.__all__:
    assert callable(getattr(bnn_lightning, name)), name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_signatures_show_the_keys_of_the_settings(verb: str) -> None:
    shown = inspect.signature(getattr(bnn_lightning, verb)).parameters
    assert {field.name for field in fields(VERBS[verb])} <= set(shown)
    for field in fields(VERBS[verb]):
        if isinstance(field.default, str | int | float):
            assert shown[field.name].default == field.default


CPU = {"accelerator": "cpu"}


def test_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    lightning = logging.getLogger("pytorch_lightning")  # as it is where nothing has configured logging
    monkeypatch.setattr(lightning, "handlers", [logging.StreamHandler()])
    monkeypatch.setattr(lightning, "propagate", False)
    network, data = {"name": "mlp", "width": 32}, {"name": "digits", "image_size": 8}
    whole = bnn_lightning.train(network, data, epochs=2, optimizer={"lr": 3e-3}, trainer=CPU)
    assert whole.run_dir.parent == Path("runs", "mlp_digits")
    assert repr(whole).splitlines()[0].startswith(f"test accuracy:  top-1 {100 * whole.scores['test/acc']:.2f} %")
    assert bnn_lightning.evaluate(whole.run_dir).top1 == pytest.approx(whole.scores["test/acc"])
    first = {"run_dir": "first", "epochs": 2, "optimizer": {"lr": 3e-3}, "test": False}
    bnn_lightning.train(network, data, **first, trainer=CPU | {"max_epochs": 1})
    with pytest.raises(UserError, match="`first` holds a run"):
        bnn_lightning.train(network, data, **first, trainer=CPU)
    resumed = bnn_lightning.train(network, data, **first, ckpt_path="first", trainer=CPU)
    for name, tensor in whole.task.state_dict().items():
        assert tensor.equal(resumed.task.state_dict()[name]), name
    assert capsys.readouterr() == ("", "")
    bnn_lightning.train(network, data, epochs=1, test=False, trainer=CPU | {"enable_model_summary": True})
    assert "backbone" in capsys.readouterr().err


def test_a_failed_training_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`optimizer\.lr` must be a number"):
        bnn_lightning.train("mlp", "digits", run_dir=tmp_path / "a" / "b", optimizer={"lr": "fast"})
    assert not (tmp_path / "a").exists()


# Arguments of the Trainer that print: on for `bnn train`, off for `bnn_lightning.train`.
PRINTS = ("enable_progress_bar", "enable_model_summary")


def test_training_without_a_composed_configuration_has_its_defaults() -> None:
    words = ("model=mlp", "data=digits", "recipe=none", "distill=none", "lr_scheduler=warmup_cosine", "epochs=3")
    composed = compose_training(*words, "paths.run_dir=here", "warmup_epochs=1")
    made = TrainSettings(name="a", epochs=3, warmup_epochs=1)
    for name, section in default_sections(made, "here", num_classes=10).items():
        stated = composed[name]
        nodes = section if name in ("callbacks", "logger") else {name: section}
        for key, node in nodes.items():
            there = stated[key] if name in ("callbacks", "logger") else stated
            said = {key: value for key, value in (there or {}).items() if key not in PRINTS}
            assert {key: value for key, value in (node or {}).items() if key not in PRINTS}.items() <= said.items()
        if name == "callbacks":
            kept = [key for key in stated if key in section]
            assert kept == list(section)
            assert {key for key, node in stated.items() if node} == {key for key, node in section.items() if node}


def test_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score = bnn_lightning.evaluate(run)
    assert (score.images, score.partial, score.damaged) == (360, None, 0)
    assert 0.2 < score.top1 <= score.top5 <= 1
    assert repr(score).splitlines()[1] == f"top-1:  {100 * score.top1:.2f} %"
    named = bnn_lightning.evaluate(str(run), data={"eval_batch_size": 90})
    assert (named.images, named.top1) == (score.images, score.top1)
    other = bnn_lightning.evaluate(run, data=data_section({"name": "digits", "image_size": 8}))
    assert other.top1 == score.top1
    assert capsys.readouterr() == ("", "")


def test_a_name_of_the_zoo_is_its_packed_file() -> None:
    score, receipt = bnn_lightning.evaluate("zoo:digits_mlp"), zoo.receipt("zoo:digits_mlp")
    assert 100 * score.top1 == pytest.approx(receipt.accuracy)


def test_lightning_logs_nothing_of_a_workflow(run: Path, tmp_path: Path) -> None:
    records: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("pytorch_lightning")
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        bnn_lightning.evaluate(run)
        bnn_lightning.export(run, tmp_path / "mlp.bnn", images=None)
        bnn_lightning.rank(run, [run], data={"val_fraction": 0.2})
        bnn_lightning.report(run, tmp_path / "page.html", latency=False)
    finally:
        logger.removeHandler(handler)
    assert records == []


def test_export_and_predict(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = bnn_lightning.export(run, tmp_path / "mlp.bnn", rest="int8", max_drop=100.0)
    assert made.path.stat().st_size == made.size
    assert made.parity is not None
    assert load(made.path).info.name == "mlp"
    assert bnn_lightning.verify(made.path).size == made.size
    packed = bnn_lightning.evaluate(made.path)
    assert packed.images == 360
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    (tmp_path / "no.png").write_text("no picture")
    found = bnn_lightning.predict(made.path, tmp_path / "black.png", top=3)
    assert [len(prediction.classes) for prediction in found] == [3]
    assert found[0].probabilities == sorted(found[0].probabilities, reverse=True)
    of_run = bnn_lightning.predict(run, tmp_path, on_damaged="skip")
    assert (len(of_run), len(of_run.damaged)) == (1, 1)
    with pytest.raises(UserError, match=r"no\.png"):
        bnn_lightning.predict(made.path, tmp_path)
    assert capsys.readouterr().out == ""


def test_profile(run: Path) -> None:
    by_name = bnn_lightning.profile("resnet20", image_size=32, num_classes=10)
    assert by_name.profile.totals()["parameters"] == 269850
    assert "resnet20" in repr(by_name)
    module = bnn_lightning.profile(
        create_backbone("resnet20", num_classes=10, image_size=32), image_size=32, in_channels=3
    )
    assert module.profile.totals() == by_name.profile.totals()
    assert bnn_lightning.profile(run).profile.input_size == (1, 8, 8)
    plain = bnn_lightning.profile(nn.Conv2d(3, 4, 1), image_size=2)
    assert plain.profile.totals()["ops"] == 48
    with_data = bnn_lightning.profile(nn.Conv2d(3, 4, 1), data="cifar10")
    assert (with_data.data, with_data.profile.input_size) == ("cifar10", (3, 32, 32))
    backbone = bnn_lightning.load_task(run).backbone
    assert bnn_lightning.profile(backbone).profile.totals() == bnn_lightning.profile(run).profile.totals()


def test_folders_of_the_environment_hold_data_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, folder in (("BNN_DATA", "sets"), ("BNN_RUNS", "trained")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    config = training_config(TrainSettings(), "mlp", "mnist", {}, data_dir=None, run_dir=None, complete=False)
    assert config["data"]["root"] == config["paths"]["data_dir"] == str(tmp_path / "sets")
    assert Path(config["paths"]["run_dir"]).is_relative_to(tmp_path / "trained" / "mlp_mnist")
    assert describe(None, "mnist", None).data["root"] == str(tmp_path / "sets")
    assert describe(None, "mnist", "here").data["root"] == "here"


def test_a_run_is_resumed_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("runs/before/checkpoints/last.ckpt")
    file.parent.mkdir(parents=True)
    file.touch()
    words: Any = {"model": "mlp", "data": "digits", "given": {}, "data_dir": None, "complete": False}
    for start, run_dir, wanted in (
        ("runs/before", None, Path("runs/before")),
        (str(file), None, Path("runs/before")),
        ("runs/before", "runs/after", Path("runs/after")),
        (str(tmp_path / "weights.ckpt"), None, Path("runs/mlp_digits")),
    ):
        config = training_config(TrainSettings(ckpt_path=start), **words, run_dir=run_dir)
        assert Path(config["paths"]["run_dir"]).is_relative_to(wanted)


class KeepsItsMap(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.map = super().forward(x)
        return self.map


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of weight_norm
def test_a_profile_of_a_network_takes_what_a_call_in_training_left() -> None:
    pruned = prune.l1_unstructured(nn.Conv2d(3, 4, 1), "weight", 0.5)
    network = KeepsItsMap(pruned, weight_norm(nn.Conv2d(4, 4, 1)), nn.Flatten(), nn.Linear(16, 2))
    network(torch.zeros(1, 3, 2, 2)).sum().backward()
    kept = network.map
    assert bnn_lightning.profile(network, image_size=2).profile.totals()["ops"] == 48 + 64 + 32
    assert network.map is kept


def test_benchmark(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bnn_lightning.benchmark(run, baselines=["torch_simulated"], threads=[1], repeats=2)
    assert [entry.name for entry in found.entries] == ["packed", "torch_simulated"]
    assert "torch_simulated" in repr(found)
    assert found.footprint is not None
    monkeypatch.setattr("bnn_lightning.workflows.benchmarking.measure_footprint", lambda file: None)  # a process each
    network = create_backbone("mlp", num_classes=10, in_channels=1, image_size=8, width=32)
    built = bnn_lightning.benchmark(network, baselines=["torch_float"], threads=[1], repeats=2)
    assert set(built.absent) == {"torch_float"}
    model, data = {"name": "mlp", "width": 32}, {"name": "digits", "image_size": 8}
    named = bnn_lightning.benchmark(model=model, data=data, baselines=["torch_float"], threads=[1], repeats=2)
    assert (set(named.absent), len(named.entries)) == (set(), 2)


def test_a_result_of_many_images_shows_the_first() -> None:
    images = [Prediction(f"{index}.png", ["cat"], [0.5]) for index in range(25)]
    assert repr(Classified(images[:2])).splitlines() == ["0.png  cat 50.0 %", "1.png  cat 50.0 %"]
    shown = repr(Classified(images, ["x.png is damaged"])).splitlines()
    assert (len(shown), shown[-2:]) == (22, ["... and 5 more images", "damaged: 1 file left out"])
    assert repr(Classified(images[:21])).endswith("... and 1 more image")
    assert all(repr(result) for result in (Classified([]), Visualized([], {})))


def test_rank(run: Path) -> None:
    found = bnn_lightning.rank(run, [run], data={"val_fraction": 0.2})
    assert [candidate.teacher for candidate in found.candidates] == [str(run)]
    assert found.held.images > 0
    with pytest.raises(UserError, match="resnet34"):
        bnn_lightning.rank(run, ["resnet34"], data={"val_fraction": 0.2})


def test_prepare(tmp_path: Path) -> None:
    for label in ("a", "b"):
        folder = tmp_path / "pictures" / "train" / label
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "x.jpeg")
    made = bnn_lightning.prepare(tmp_path / "pictures", tmp_path / "small", size=20, num_workers=1)
    assert (made.report.written, made.report.damaged) == (2, [])
    assert max(Image.open(tmp_path / "small" / "train" / "a" / "x.jpeg").size) == 20


def test_report(run: Path, tmp_path: Path) -> None:
    made = bnn_lightning.report(run, tmp_path / "page.html", latency=False)
    assert made.size == (tmp_path / "page.html").stat().st_size
    assert "<html" in made.path.read_text(encoding="utf-8")


def test_visualize(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING, logger="bnn_lightning")  # as it is where nothing has configured logging
    small = {"images": 32, "hessian_images": 0, "workers": 1}
    curves = bnn_lightning.visualize("training_curves", run, out=tmp_path)
    assert [file.suffix for file in curves.files] == [".png", ".csv"]
    loss = bnn_lightning.visualize("landscape", run, out=tmp_path, points=3, dimensions=1, **small)
    assert len(loss.rows) == 1
    with pytest.raises(UserError, match="`procedure` is called `training_curves` now"):
        bnn_lightning.visualize("procedure", run)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: bnn_lightning.evaluate(run, sede=3), "`evaluate` has no argument `sede`. Did you mean `seed`?"),
        (
            lambda run: bnn_lightning.evaluate(run, dta="mnist"),
            "no argument `dta`. Did you mean `data`?",
        ),
        (lambda run: bnn_lightning.train("mlp", "digits", optimizr={}), "Did you mean `optimizer`?"),
        (lambda run: bnn_lightning.train("mlp", "digits", precision="bf16"), 'give trainer={"precision": ...}.'),
        (lambda run: bnn_lightning.train("mlp", "digits", class_weights=[1]), 'give task={"class_weights": ...}.'),
        (lambda run: bnn_lightning.evaluate(run, seed="three"), "`evaluate.seed` must be a whole number"),
        (lambda run: bnn_lightning.evaluate(run, matmul_precision="low"), "`matmul_precision` must be highest"),
        (lambda run: bnn_lightning.evaluate(run, data="minst"), "Did you mean `mnist`?"),
        (lambda run: bnn_lightning.evaluate(), "`ckpt` has no value"),
        (lambda run: bnn_lightning.evaluate(run, model="mlp"), "leave `model=` out"),
        (lambda run: bnn_lightning.export(run, "x.bnn", rest="int4"), "`rest` must be fp32 or int8"),
        (lambda run: bnn_lightning.predict("nowhere.bnn", run), "holds no picture"),
        (lambda run: bnn_lightning.predict(run), "`images` has no value: give a picture"),
        (lambda run: bnn_lightning.profile("resnt20"), "neither a network nor a file. Did you mean `resnet20`?"),
        (lambda run: bnn_lightning.profile(run / "nowhere"), "no such file"),
        (lambda run: bnn_lightning.profile("mlp", model="resnet20"), "name one network: `model` is given, and mlp"),
        (lambda run: bnn_lightning.profile(nn.Conv2d(3, 4, 1), model="mlp"), "name one network"),
        (lambda run: bnn_lightning.profile(nn.Conv2d(3, 4, 1), ckpt="x.ckpt"), "Conv2d is given, and ckpt=x.ckpt"),
        (lambda run: bnn_lightning.profile(run, ckpt="x.ckpt"), "name one network"),
        (
            lambda run: bnn_lightning.profile("mlp", data="cifar10", image_size=64),
            "`data` says what an image is: leave",
        ),
        (
            lambda run: bnn_lightning.profile("mlp", image_size="32"),
            "must be a whole number for an image to be counted, got",
        ),
        (lambda run: bnn_lightning.profile("mlp", image_size=-3), "`data.image_size`: "),
        (lambda run: bnn_lightning.profile(run, image_size=64), "says what an image is: leave `image_size` out"),
        (lambda run: bnn_lightning.evaluate(run, ckpt="x.ckpt"), "name one network"),
        (
            lambda run: bnn_lightning.evaluate("zoo:digits_mlp", packed="x.bnn"),
            "zoo:digits_mlp is given, and packed=x.bnn",
        ),
        (lambda run: bnn_lightning.predict("zoo:digits_mlp", run, packed="x.bnn"), "name one network"),
        (lambda run: bnn_lightning.benchmark(nn.Conv2d(3, 4, 1), model="mlp"), "leave `model` and `data` out"),
        (lambda run: bnn_lightning.benchmark(nn.Conv2d(3, 4, 1), ckpt="x.ckpt"), "name one network"),
        (lambda run: bnn_lightning.train("mlp", "digits", optimizer="adam"), "`optimizer` must be a section"),
        (lambda run: bnn_lightning.train("mlp", "digits", callbacks=[]), "`callbacks` must be a section"),
        (lambda run: bnn_lightning.evaluate(run, trainer="cpu"), "`trainer` must be a section, trainer={key: value}"),
        (lambda run: bnn_lightning.rank(run, [run], trainer="cpu"), "`trainer` must be a section"),
        (lambda run: bnn_lightning.benchmark(), "name one network"),
        (lambda run: bnn_lightning.benchmark(run, rivals=[]), "`rivals` is called `baselines` now"),
        (lambda run: bnn_lightning.report(run / "nothing"), "there is no folder"),
        (lambda run: bnn_lightning.verify(3), "`verify.packed` must be text"),
        (lambda run: bnn_lightning.evaluate(3), "`evaluate.ckpt` must be text"),
        (lambda run: bnn_lightning.evaluate(["x"]), "`evaluate.ckpt` must be text"),
        (lambda run: bnn_lightning.predict(3, run), "`predict.ckpt` must be text"),
        (lambda run: bnn_lightning.profile(3), "`profile.ckpt` must be text"),
        (lambda run: bnn_lightning.benchmark(3), "`benchmark.ckpt` must be text"),
        (lambda run: bnn_lightning.rank(run, 3), "`teachers` must be a list"),
        (lambda run: bnn_lightning.rank(run, "mlp"), "`teachers` must be a list"),
        (lambda run: bnn_lightning.visualize(["x"], run), "`visualize.kind` must be text"),
        (lambda run: bnn_lightning.evaluate(run, data=3), "`data` must be text or a mapping"),
        (lambda run: bnn_lightning.evaluate(run, model=["x"]), "`model` must be text or a mapping"),
    ],
)
def test_bad_input(call: Any, message: str, run: Path) -> None:
    with pytest.raises(UserError) as caught:
        call(run)
    assert message in str(caught.value)
