"""Other runtimes behind one interface, to be measured beside packed networks: onnxruntime, OpenVINO, larq.

Every function returns a `Runner`, which makes a call without arguments for a number of threads and a batch; each needs
its library, and says so where it is not there.
"""

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnn_lightning.layers.module_utils import in_channels_last, to_channels_last_
from bnn_lightning.utils.optional import require

Runner = Callable[[int, Tensor], Callable[[], Any]]
EXTRA = "benchmark"
_CALIBRATION = 8  # images that ranges are learned from: latency does not depend on them


def torch_runner(model: nn.Module | Callable[[Tensor], Tensor], *, channels_last: bool = True) -> Runner:
    """Run a network in torch, on `torch.set_num_threads` threads.

    Args:
        model: In evaluation mode.
        channels_last: Bring weights and images into the layout that convolutions on CPUs prefer. False leaves the
            network as it is: tensors of a packed one that were asked for are watched for changes at every call.
    """
    if channels_last and isinstance(model, nn.Module):
        to_channels_last_(model)

    def make(threads: int, images: Tensor) -> Callable[[], Any]:
        torch.set_num_threads(threads)
        images = in_channels_last(images) if channels_last else images.contiguous()

        def call() -> Any:
            with torch.inference_mode():
                return model(images)

        return call

    return make


def onnxruntime_runner(path: Path) -> Runner:
    """Run an ONNX file in onnxruntime, with the optimizations that it makes by default."""
    runtime = require("onnxruntime", extra=EXTRA)

    def make(threads: int, images: Tensor) -> Callable[[], Any]:
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: images.contiguous().numpy()}
        return lambda: session.run(None, feed)[0]

    return make


class OnnxNetwork(nn.Module):
    """An ONNX file as a network: onnxruntime with the optimizations that it makes by default.

    The first images are run one by one, too, as runtimes choose other algorithms for one image than for many.

    Args:
        path: A file that `write_onnx` wrote.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = require("onnxruntime", extra=EXTRA)
        self._session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.largest_difference = 0.0  # of a logit, between an image among others and the same alone
        self._first = True

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from images (N, C, H, W) in [0, 1]."""
        logits = self._run(images)
        if self._first:
            self._first = False
            alone = torch.cat([self._run(image[None]) for image in images[:64]])
            self.largest_difference = (alone - logits[:64]).abs().max().item()
        return logits

    def _run(self, images: Tensor) -> Tensor:
        (logits,) = self._session.run(None, {"images": images.float().cpu().numpy()})
        return torch.from_numpy(logits).to(images.device)


def quantize_onnx(path: Path, out: Path) -> None:
    """Write an ONNX file with the 8-bit weights and activations of a static quantization (QDQ, a range a channel).

    Ranges are learned from noise: what comes out is as fast as a quantized network, not as accurate.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """
    require("onnxruntime", extra=EXTRA)
    quantization = require("onnxruntime.quantization", extra=EXTRA)
    shapes = require("onnxruntime.quantization.shape_inference", extra=EXTRA)
    prepared = out.with_suffix(".prepared.onnx")
    with _quiet():
        shapes.quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(out),
            _reader(quantization, _noise(path)),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    prepared.unlink()


def openvino_runner(path: Path, *, int8: bool = False) -> Runner:
    """Run an ONNX file in OpenVINO, in float32 or quantized by nncf.

    Raises:
        ModuleNotFoundError: openvino, or nncf for `int8`, is not installed.
    """
    openvino = require("openvino", extra=EXTRA)
    model = openvino.Core().read_model(str(path))
    if int8:
        nncf = require("nncf", extra=EXTRA)
        with _quiet():
            data = nncf.Dataset([image[None] for image in _noise(path)])
            model = nncf.quantize(model, data, subset_size=_CALIBRATION)

    def make(threads: int, images: Tensor) -> Callable[[], Any]:
        core = openvino.Core()
        wanted = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # by default bfloat16, where the processor has it
        }
        fixed = model.clone()
        fixed.reshape(list(images.shape))
        request = core.compile_model(fixed, "CPU", wanted).create_infer_request()
        array = images.contiguous().numpy()
        return lambda: request.infer([array], share_inputs=True, share_outputs=True)

    return make


def larq_runner(path: Path) -> Runner:
    """Run a .tflite file that larq-compute-engine's converter wrote, with its fastest kernel for x86.

    Raises:
        ModuleNotFoundError: larq-compute-engine is not installed.
    """
    interpreter = require_larq()

    def make(threads: int, images: Tensor) -> Callable[[], Any]:
        running = interpreter.Interpreter(path.read_bytes(), num_threads=threads, use_indirect_bgemm=True)
        array = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        return lambda: running.predict(array)

    return make


def require_larq() -> ModuleType:
    """Import the interpreter of larq-compute-engine.

    Raises:
        ModuleNotFoundError: It is not installed. It is in no extra of ours: its wheels are for some Pythons only.
    """
    try:
        return importlib.import_module("larq_compute_engine.tflite.python.interpreter")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"it needs {error.name}, which is not installed", name=error.name) from error


def _noise(path: Path) -> list[Any]:
    """Return images of noise of the size that an ONNX file takes, (C, H, W) each."""
    onnx = require("onnx", extra=EXTRA)
    shape = onnx.load(str(path), load_external_data=False).graph.input[0].type.tensor_type.shape
    size = [dimension.dim_value for dimension in shape.dim[1:]]
    generator = np.random.default_rng(0)
    return [generator.random(size, dtype=np.float32) for _ in range(_CALIBRATION)]


def _reader(quantization: Any, images: list[Any]) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"images": image[None]} for image in images]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # progress bars
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
