"""`bnn benchmark`: who takes part, what is written, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bnn_lightning.deploy import kernel_info
from bnn_lightning.deploy.kernels import library
from bnn_lightning.models import create_backbone
from bnn_lightning.workflows.backends import BASELINES, Backends
from bnn_lightning.workflows.benchmark_layers import LAYERS
from bnn_lightning.workflows.benchmark_network import make_subject
from bnn_lightning.workflows.settings import BenchmarkSettings

Bnn = Callable[..., Any]
SMALL = ("model=mlp", "model.width=16", "data=digits", "threads=[1]", "repeats=2")


def test_a_network_of_the_configuration(bnn: Bnn, workplace: Path) -> None:
    threads = torch.get_num_threads()
    done = bnn("benchmark", *SMALL, "baselines=[torch_simulated,torch_float]", "batch=[1,2]", "out=found.json")
    assert done.code == 0, done.err
    assert torch.get_num_threads() == threads
    found = json.loads((workplace / "found.json").read_text())
    assert found["name"] == "mlp"
    assert found["machine"]["kernel"] == kernel_info().name
    assert found["versions"]["torch"] == torch.__version__
    measured = [(entry["name"], entry["threads"], entry["batch"]) for entry in found["entries"]]
    names = ("packed", "torch_simulated", "torch_float")
    assert measured == [(name, 1, batch) for batch in (1, 2) for name in names]
    assert all(len(entry["turns"]) == 2 and entry["clock"] == "cpu" for entry in found["entries"])
    assert found["footprint"]["peak"] > 0
    assert sum(share["binary"] for share in found["shares"]) >= 2
    for word in ("1 thread, ms of processor time", "packed file: ", "where the time of the packed network goes"):
        assert word in done.out
    assert "torch_simulated" in done.out


@pytest.fixture
def without_footprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the process that measures memory: `test_a_network_of_the_configuration` has it."""
    monkeypatch.setattr("bnn_lightning.workflows.benchmarking.measure_footprint", lambda file: None)


@pytest.mark.usefixtures("without_footprint")
def test_a_file_knows_its_network(trained: Any, bnn: Bnn) -> None:
    made = bnn("export", f"ckpt={trained.final}", "out=net.bnn", "images=8", "trainer.enable_progress_bar=false")
    assert made.code == 0, made.err
    words = ("threads=[1]", "repeats=1", "baselines=[torch_simulated,torch_float,mobilenet_v2_int8]", "chart=net.svg")
    for subject in ("packed=net.bnn", f"ckpt={trained.final}"):
        done = bnn("benchmark", subject, *words)
        assert done.code == 0, done.err
        assert "torch_float" in done.out
        assert "not measured: mobilenet_v2_int8: " in done.out
        assert "<svg" in Path("net.svg").read_text()


@pytest.mark.usefixtures("without_footprint")
def test_a_file_that_does_not_know_is_measured_alone(bnn: Bnn, workplace: Path) -> None:
    from bnn_lightning.deploy import PackedInfo, pack, save

    network = create_backbone("mlp", num_classes=10, in_channels=1, image_size=8, width=32).eval()
    save(pack(network), workplace / "net.bnn", PackedInfo("mlp", in_channels=1, image_size=8))
    done = bnn("benchmark", "packed=net.bnn", "threads=[1]", "repeats=1", "baselines=[torch_float]")
    assert done.code == 0, done.err
    assert "not measured: torch_float: the file does not say which network it was made from" in done.out


@pytest.mark.usefixtures("without_footprint")
def test_a_network_of_the_registry_that_is_not_folded_is_a_failure(
    bnn: Bnn, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnn_lightning.deploy.passes.fold_epilogue import Folded
    from bnn_lightning.deploy.runtime import packed_network
    from bnn_lightning.workflows import benchmark_network

    monkeypatch.setattr(packed_network, "fold_epilogue", lambda graph, types: Folded(graph, (), {"bn": "as of old"}))
    words = ("model=resnet20", "model.width=4", "data=digits", "threads=[1]", "repeats=1", "baselines=[]")
    done = bnn("benchmark", *words, "out=found.json")
    assert done.code == 2
    assert "NOT FOLDED" in done.out
    assert "as of old" in done.err
    assert json.loads((workplace / "found.json").read_text())["unfolded"] == "bn: as of old"
    network = create_backbone("resnet20", num_classes=10, image_size=16, width=4).eval()
    model = {"_target_": "bnn_lightning.models.create_backbone", "name": "resnet20", "num_classes": 10}
    file = make_subject(network, model, workplace, trust=[]).file  # which says nothing of how it was packed
    assert "18 batch norms" in benchmark_network._of_file(file, []).unfolded


def test_the_packed_network_is_measured_as_it_was_loaded(tmp_path: Path) -> None:
    network = create_backbone("mlp", num_classes=10, in_channels=1, image_size=8, width=32).eval()
    subject = make_subject(network, {"_target_": "mlp"}, tmp_path, trust=[])
    run = Backends(subject, tmp_path).runners([])["packed"](1, torch.rand(2, 1, 8, 8))
    assert run().shape == (2, 10)
    assert not subject.packed.is_shown  # tensors that were asked for are watched at every call


@pytest.mark.slow
def test_every_baseline_that_is_installed_computes_logits(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = {"_target_": "bnn_lightning.models.create_backbone", "name": "resnet20", "num_classes": 10, "width": 4}
    model |= {"in_channels": 3, "image_size": 16, "binary": True}
    network = create_backbone("resnet20", num_classes=10, image_size=16, width=4).eval()
    backends = Backends(make_subject(network, model, tmp_path, trust=[]), tmp_path)
    names = [name for name in BASELINES if not name.startswith("mobilenet") and name != "torch_float"]
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        wanted = network(images)
    for name, runner in backends.runners(names).items():
        out = runner(1, images)()
        logits = torch.as_tensor(
            next(iter(out.values())) if hasattr(out, "values") and not torch.is_tensor(out) else out
        )
        assert logits.shape == (2, 10)
        if "simulated" in name or name == "packed":
            assert torch.allclose(logits, wanted, atol=1e-4), name
    assert set(backends.absent) <= {"larq", "openvino_float", "openvino_int8"}, backends.absent


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "name one network"),
        ("packed=x.bnn ckpt=x.ckpt", "name one network"),
        ("ckpt=x.ckpt model=mlp data=digits", "no such file"),  # a published checkpoint
        ("model=mlp", "`model=` needs `data=` beside it"),
        ("packed=nothing.bnn", "nothing.bnn"),
        ("ckpt=nothing.ckpt", "no such file"),
        ("model=mlp data=digits baselines=[onnxruntime_flaot]", "Did you mean `onnxruntime_float`?"),
        ("model=mlp data=digits rivals=[]", "`rivals` is called `baselines` now"),
        ("model=mlp data=digits batch=[0]", "`batch` must be 1 or more"),
        ("model=mlp data=digits threads=[]", "`threads` must name at least one number"),
        ("model=mlp data=digits out=found.txt", "`out` must end in .json"),
        ("model=mlp data=digits chart=nowhere/found.png", "there is no folder nowhere"),
        ("model=mlp data=digits larq=nowhere.tflite", "there is no file nowhere.tflite"),
        ("model=mlp data=digits model.binary=false", "has no binary layer"),
    ],
)
def test_bad_input(words: str, message: str, bnn: Bnn) -> None:
    done = bnn("benchmark", *words.split())
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_strict_refuses_the_fallback(bnn: Bnn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNN_KERNEL", "torch")
    library._load.cache_clear()
    try:
        done = bnn("benchmark", *SMALL, "baselines=[]", "strict=true")
    finally:
        library._load.cache_clear()
    assert done.code == 2
    assert "`strict`: binary layers run in torch, not in a compiled kernel. BNN_KERNEL=torch asks for it." in done.err


def test_layers(bnn: Bnn, monkeypatch: pytest.MonkeyPatch, workplace: Path) -> None:
    pytest.importorskip("onnxruntime")
    from bnn_lightning.workflows import benchmark_layers

    assert min(channels for _, channels in LAYERS) == 64
    monkeypatch.setattr(benchmark_layers, "LAYERS", ((6, 32),))
    done = bnn("benchmark", "layers=true", "threads=[1]", "repeats=2", "out=found.json")
    assert done.code == 0, done.err
    entries = json.loads((workplace / "found.json").read_text())["entries"]
    assert [entry["name"] for entry in entries] == ["packed", "onnxruntime_float", "onnxruntime_int8"]
    assert {entry["layer"] for entry in entries} == {"6x6x32"}


def test_defaults_are_those_of_the_file(composed: Callable[..., dict[str, Any]]) -> None:
    config, defaults = composed(primary="benchmark"), BenchmarkSettings()
    for key, value in vars(defaults).items():
        assert config[key] == value, key
