"""Binary 3x3 convolutions, with all that may follow them in their pass, beside the same convolutions elsewhere."""

from pathlib import Path

import torch
from torch import Tensor, nn

from bnn_lightning.analysis.latency import Timing, time_in_turns
from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.deploy.export.onnx import write_onnx
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.runtime.network import load
from bnn_lightning.deploy.runtime.packed_network import pack
from bnn_lightning.deploy.runtime.save import save
from bnn_lightning.deploy.validate import baselines
from bnn_lightning.deploy.validate.baselines import Runner
from bnn_lightning.layers.conv import BinaryConv2d
from bnn_lightning.utils.hardware import num_cores
from bnn_lightning.workflows.backends import PACKED, refusing
from bnn_lightning.workflows.benchmark_report import BenchmarkReport, Measurement
from bnn_lightning.workflows.settings import BenchmarkSettings

# Height and width of the image, and channels: the 3x3 layers of ResNet-18, and of twice its width.
LAYERS = ((56, 64), (28, 128), (14, 256), (7, 512), (56, 128), (28, 256), (14, 512))
# The time of a layer is the difference of a long and a short chain of it: the time before and after cancels.
_SHORT, _LONG = 1, 5


class _Block(nn.Module):
    """A binary convolution, batch norm, shortcut, PReLU and Hardtanh: the float epilogue."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        signs = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
        self.conv = BinaryConv2d(channels, channels, 3, padding=1, bias=False, **signs)
        self.norm, self.prelu, self.clamp = nn.BatchNorm2d(channels), nn.PReLU(channels), nn.Hardtanh(-3.0, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.clamp(self.prelu(self.norm(self.conv(x)) + x))  # type: ignore[no-any-return]


class _Chain(nn.Module):
    """Equal layers, and a mean over the image."""

    def __init__(self, layers: list[nn.Module], channels: int, size: int) -> None:
        super().__init__()
        self.layers, self.in_channels, self.image_size = nn.Sequential(*layers), channels, size

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))  # type: ignore[no-any-return]


def measure_layers(settings: BenchmarkSettings, folder: Path) -> BenchmarkReport:
    """Measure every layer of `LAYERS` beside onnxruntime's convolution and bias, in float32 and in 8 bits.

    Args:
        settings: Settings of `bnn benchmark`.
        folder: For files that are not kept.
    """
    report = BenchmarkReport.of_machine("3x3 convolutions", ())
    for size, channels in LAYERS:
        makers = {PACKED: _packed, "onnxruntime_float": _float, "onnxruntime_int8": _int8}
        runners: dict[str, dict[int, Runner]] = {}
        for name, maker in makers.items():
            with refusing(report.absent, name):
                runners[name] = {long: maker(long, channels, size, folder) for long in (_SHORT, _LONG)}
        for threads in settings.threads or sorted({1, num_cores()}):
            report.entries += _time(runners, (size, channels), threads, settings.repeats)
    return report


def _time(
    runners: dict[str, dict[int, Runner]], layer: tuple[int, int], threads: int, repeats: int
) -> list[Measurement]:
    size, channels = layer
    images = torch.rand(1, channels, size, size)
    torch.set_num_threads(threads)
    steps = {(name, n): make(threads, images) for name, both in runners.items() for n, make in both.items()}
    turns = time_in_turns(
        {f"{name} {n}": step for (name, n), step in steps.items()}, repeats=repeats, least=0.005, settle=0.002
    )
    entries = []
    for name in runners:
        pairs = zip(turns[f"{name} {_SHORT}"], turns[f"{name} {_LONG}"], strict=True)
        found = [
            Timing((long.wall - short.wall) / (_LONG - _SHORT), (long.cpu - short.cpu) / (_LONG - _SHORT))
            for short, long in pairs
        ]
        entries.append(Measurement(name, threads, 1, tuple(found), layer=f"{size}x{size}x{channels}"))
    return entries


def _packed(length: int, channels: int, size: int, folder: Path) -> Runner:
    chain = _Chain([_Block(channels) for _ in range(length)], channels, size).eval()
    file = folder / f"{length}x{channels}x{size}.bnn"
    save(pack(chain), file, PackedInfo("layers", in_channels=channels, image_size=size))
    return baselines.torch_runner(load(file), channels_last=False)


def _float(length: int, channels: int, size: int, folder: Path) -> Runner:
    return baselines.onnxruntime_runner(_onnx(length, channels, size, folder))


def _int8(length: int, channels: int, size: int, folder: Path) -> Runner:
    path = _onnx(length, channels, size, folder)
    out = path.with_suffix(".int8.onnx")
    baselines.quantize_onnx(path, out)
    return baselines.onnxruntime_runner(out)


def _onnx(length: int, channels: int, size: int, folder: Path) -> Path:
    path = folder / f"{length}x{channels}x{size}.onnx"
    if not path.is_file():
        convolutions: list[nn.Module] = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(length)]
        write_onnx(_Chain(convolutions, channels, size).eval(), path)
    return path
