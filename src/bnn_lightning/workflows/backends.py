"""Backends of a benchmark: the packed network, and its baselines."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torchvision import models

from bnn_lightning.deploy.export.onnx import write_onnx
from bnn_lightning.deploy.format.quantize_file import write_byte_stem
from bnn_lightning.deploy.runtime.network import load
from bnn_lightning.deploy.validate import baselines
from bnn_lightning.deploy.validate.baselines import Runner
from bnn_lightning.workflows.benchmark_network import Subject

PACKED = "packed"
# Errors that the libraries raise for a network that they cannot take; they have classes of their own besides.
_REFUSALS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError),
    *(LookupError, OSError, RuntimeError, TypeError, ValueError),
)


class Backends:
    """Make the runners of a benchmark; those that cannot be made are left out with the reason.

    Args:
        subject: The network.
        folder: For ONNX files.
        larq: A .tflite file of the same network, for larq-compute-engine.
    """

    def __init__(self, subject: Subject, folder: Path, *, larq: str | None = None) -> None:
        self.subject, self.folder, self.larq = subject, folder, larq
        self.absent: dict[str, str] = {}
        self._written: dict[str, Path] = {}

    def runners(self, names: Sequence[str]) -> dict[str, Runner]:
        """Return the packed network, and the baselines of these names that can be had."""
        found = {PACKED: baselines.torch_runner(self.subject.packed, channels_last=False)}
        for name in names:
            with refusing(self.absent, name):
                found[name] = BASELINES[name](self)
        return found

    def simulated(self) -> nn.Module:
        """Return the network with floats for signs."""
        return self._known(self.subject.simulated)

    def twin(self) -> nn.Module:
        """Return the float twin."""
        return self._known(self.subject.twin)

    def onnx(self, kind: str, make: Callable[[], nn.Module]) -> Path:
        """Return the ONNX file of a network, written once."""
        if kind not in self._written:
            path, info = self.folder / f"{kind}.onnx", self.subject.info
            images = torch.rand(2, *info.shape)
            write_onnx(make(), path, images, precise=False)  # as fast as it can be
            self._written[kind] = path
        return self._written[kind]

    def int8(self, kind: str, make: Callable[[], nn.Module]) -> Path:
        """Return the ONNX file of a network with 8-bit weights and activations, written once."""
        out = self.folder / f"{kind}.int8.onnx"
        if not out.is_file():
            baselines.quantize_onnx(self.onnx(kind, make), out)
        return out

    def compact(self, builder: str) -> Path:
        """Return the 8-bit ONNX file of a compact network of torchvision, with weights that were never trained."""
        info = self.subject.info
        if info.in_channels != 3 or min(info.shape[1:]) < 32:
            raise ValueError("it takes images of 3 channels, of 32 pixels or more")

        def make() -> nn.Module:
            network: nn.Module = getattr(models, builder)(weights=None, num_classes=1000)
            return network.eval()

        return self.int8(builder, make)

    def _known(self, network: nn.Module | None) -> nn.Module:
        if network is None:
            raise ValueError(self.subject.unknown)
        return network


@contextmanager
def refusing(absent: dict[str, str], name: str) -> Iterator[None]:
    """Note the reason why a baseline is not measured: a library that is missing or refuses the network.

    Args:
        absent: Takes the reason.
        name: Name of the baseline.
    """
    try:
        yield
    except _refusals() as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        absent[name] = lines[0][:200]


@cache
def _refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions of a library that cannot take a network: Python's, and those of onnxruntime and nncf."""
    found: list[type[Exception]] = []
    for name in ("onnxruntime.capi.onnxruntime_pybind11_state", "nncf.errors"):
        with suppress(ImportError):
            module = importlib.import_module(name)
            found += [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*_REFUSALS, *found)


def _larq(backends: Backends) -> Runner:
    baselines.require_larq()
    if backends.larq is None:
        raise ValueError("give the network as larq=FILE.tflite, from larq-compute-engine's converter")
    return baselines.larq_runner(Path(backends.larq))


def _byte_stem(backends: Backends) -> Runner:
    file = backends.folder / "byte_stem.bnn"
    write_byte_stem(backends.subject.file, file)
    run = baselines.torch_runner(load(file), channels_last=False)
    return lambda threads, images: run(threads, (images * 255).to(torch.uint8))


BASELINES: Mapping[str, Callable[[Backends], Runner]] = {
    "packed_u8": _byte_stem,  # the same network with its stem on bytes, which is how images come
    "torch_simulated": lambda c: baselines.torch_runner(c.simulated()),
    "onnxruntime_simulated": lambda c: baselines.onnxruntime_runner(c.onnx("simulated", c.simulated)),
    "torch_float": lambda c: baselines.torch_runner(c.twin()),
    "onnxruntime_float": lambda c: baselines.onnxruntime_runner(c.onnx("twin", c.twin)),
    "onnxruntime_int8": lambda c: baselines.onnxruntime_runner(c.int8("twin", c.twin)),
    "openvino_float": lambda c: baselines.openvino_runner(c.onnx("twin", c.twin)),
    "openvino_int8": lambda c: baselines.openvino_runner(c.onnx("twin", c.twin), int8=True),
    "larq": _larq,
    "mobilenet_v2_int8": lambda c: baselines.onnxruntime_runner(c.compact("mobilenet_v2")),
    "mobilenet_v3_int8": lambda c: baselines.onnxruntime_runner(c.compact("mobilenet_v3_large")),
}
