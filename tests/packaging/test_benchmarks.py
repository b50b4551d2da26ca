"""`make bench-train ARGS=...` gives the benchmarks of training the same arguments."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image


@pytest.fixture
def root_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_all_take_the_same_arguments(root_on_path: None, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import bnext, skd, train

    given = "--models resnet20 mlp --batch 8 --repeats 2 --threads 1 --compile --no-memory --bf16"
    ours, distilled = train.parse(given.split()), skd.parse(given.split())
    assert ours.models == ["resnet20", "mlp"]
    assert distilled.models == ["resnet20"]
    for name in ("batch", "repeats", "threads", "device", "compile", "no_memory", "bf16", "channels_last"):
        assert getattr(ours, name) == getattr(distilled, name), name
        assert getattr(ours, name) == getattr(bnext.parse(given.split()), name), name
    assert bnext.parse(["--models", "bnext_tiny", "resnet20"]).models == ["bnext_tiny"]
    assert bnext.parse([]).batch == 8
    assert ours.channels_last
    assert [bench.parse([]).channels_last for bench in (train, skd, bnext)] == [True] * 3
    assert not train.parse(["--no-channels-last"]).channels_last
    said = capsys.readouterr().err
    assert "--compile has no effect" in said
    assert "--no-memory has no effect" in said
    assert "no transcription of mlp" in said


def test_overhead_is_the_time_of_a_quiet_step(root_on_path: None) -> None:
    from benchmarks import overhead

    steps = [9.0] * 20 + [2.0] * 20 + [1.0] * 160  # seconds; the first tenth is left out
    times = [sum(steps[:n]) for n in range(len(steps) + 1)]
    assert overhead.milliseconds(times) == pytest.approx(1000)


def test_larq_takes_part_where_it_is_installed(root_on_path: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import train

    args = train.parse(["--threads", "1"])
    monkeypatch.setattr(train, "find_spec", lambda name: object())
    assert train.variants("resnet20", args)[-1] == train.LARQ
    assert train.LARQ not in train.variants("resnet18", args)
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    assert train.variants("resnet20", args) == (*train.FLOAT32, *train.BF16)
    assert train.variants("resnet20", train.parse(["--bf16", "--threads", "1"])) == train.BF16


@pytest.mark.parametrize("temperature", [1.0, 1e-3, 1e-8])
def test_the_transcription_of_bnext_has_our_loss_and_gradients(root_on_path: None, temperature: float) -> None:
    from benchmarks.bnext_plain import PlainBNext
    from bnn_lightning.models import create_backbone

    torch.manual_seed(0)
    network = create_backbone("bnext_tiny", num_classes=10, image_size=32, width=8, depths=(2, 1)).double()
    for name, values in (*network.named_parameters(), *network.named_buffers()):
        with torch.no_grad():
            if name.endswith("temperature"):
                values.fill_(temperature)
            elif values.dim() == 1 and values.is_floating_point():
                values.add_(torch.rand_like(values) / 8)
    plain = PlainBNext(copy.deepcopy(network))
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    losses = [net(images).logsumexp(1).sum() for net in (network, plain)]
    torch.testing.assert_close(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name, rtol=1e-6, atol=1e-7)


def test_a_folder_is_read_by_both(
    root_on_path: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import folder

    for wnid in ("n01", "n02"):
        (tmp_path / "train" / wnid).mkdir(parents=True)
        for i in range(2):
            Image.effect_mandelbrot((60 + i, 50), (-3, -2.5, 2, 2.5), 20).save(tmp_path / "train" / wnid / f"{i}.JPEG")
    monkeypatch.setattr(sys, "argv", ["folder", "--folder", str(tmp_path), "--images", "4", "--repeats", "1"])
    threads = torch.get_num_threads()
    folder.main()
    torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert "4 files: " in out
    assert "ours, pil, after bnn prepare" in out


def entry(name: str, seconds: float, *, threads: int = 1, batch: int = 1, layer: str = "") -> dict[str, object]:
    turns = [{"cpu": seconds, "wall": 2 * seconds}] * 3
    clock = "cpu" if threads == 1 else "wall"
    return {"name": name, "threads": threads, "batch": batch, "layer": layer, "clock": clock, "turns": turns}


def test_ratios_of_deploy_stand_beside_their_aims(root_on_path: None) -> None:
    from benchmarks import deploy

    layers = [entry(name, s, layer="7x7x64") for name, s in (("packed", 1), ("onnxruntime_float", 16))]
    whole = [entry(name, s) for name, s in (("packed", 2), ("packed_u8", 1), ("onnxruntime_int8", 4))]
    whole.append(entry("packed", 1.25, threads=2))
    found = {"layers": layers, "birealnet18": whole}
    rows = {case: list(deploy.rows_of(case, deploy.Found({"entries": found[case]}))) for case in found}
    assert rows["layers"] == [("3x3 7x7x64 / onnxruntime_float", 16.0, 15.0)]
    assert [(row.ratio, row.aim) for row in rows["birealnet18"]] == [(2.0, 2.3), (4.0, 3.3), (1.6, 1.8)]
    text = deploy.table(rows, {"resnet20": "no reason"})
    assert text.count("MISSED") == 2
    assert "resnet20     failed: no reason" in text


def test_cases_of_deploy_name_what_there_is(root_on_path: None) -> None:
    from benchmarks import deploy
    from bnn_lightning.workflows.backends import BASELINES

    for words in deploy.CASES.values():
        (named,) = [word for word in words if word.startswith("baselines=")] or ["baselines=[]"]
        assert set(named.removeprefix("baselines=[").removesuffix("]").split(",")) - {""} <= set(BASELINES)
